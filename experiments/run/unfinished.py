"""What an unfinished training has: the folder `checkpoint` in its run's folder, made first and removed last.

So where it is, what stands beside it is not yet all of that training's, and where it isn't, nothing is unfinished; a
training that was killed, wherever, is gone on with by the same command.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError
from rank_xmodal.files import flush_folder, not_ours, read_json, remove, telling, write_json

FOLDER = "checkpoint"
_FACTS = "training.json"
# Those called state are of a training that an earlier version left unfinished.
_OURS = re.compile(r"training\.json|(re)?fit\.safetensors|finished|state\.(json|safetensors)")
_KEYS = {"identity", "name", "out", "tracked", "dropped"}

Tracked = dict[str, str]
"""Where MLflow knows a training: store, the folder; experiment and name, the value of its tag; or run_id."""


class Unfinished:
    """The folder `checkpoint` of a run.

    Parameters
    ----------
    out : Path
        The run's folder.
    identity : dict
        What tells this training from others, as JSON can hold it.

    Attributes
    ----------
    folder : Path
        States of fits are kept there.
    name : str
        What no other training is called; MLflow knows it by this.
    resumed : bool
        Whether it goes on with a training that was interrupted.
    outdated : bool
        Whether an earlier version left a training unfinished here, which begins anew.
    dropped : list of Tracked
        MLflow runs that nobody will go on with.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.out, self.folder, self.identity = out, out / FOLDER, identity
        self.name, self.resumed, self.outdated = "", False, False
        self.dropped: list[Tracked] = []

    @property
    def found(self) -> dict[str, Any] | None:
        """What is said of the training that is kept here; None without one.

        Raises
        ------
        UserError
            If it can't be read: what may be hours of work must not count as none.
        """
        file = self.folder / _FACTS
        if not file.exists():
            return None
        facts = read_json(file)
        if not isinstance(facts, dict) or not facts.keys() >= _KEYS or not isinstance(facts["dropped"], list):
            raise UserError(f"{file}: doesn't say which training is unfinished here. Drop that with --overwrite.")
        return facts

    def is_ours(self) -> bool:
        """Return whether this very training is kept here."""
        facts = self.found
        return facts is not None and facts["identity"] == self.identity

    def check(self, overwrite: bool) -> None:
        """Check that no work of another training, or of the user's own, would be lost.

        Raises
        ------
        UserError
            If there is some, and `overwrite` is false or doesn't mean it.
        """
        other = not_ours(self.folder, _OURS)
        if other or (self.folder.exists() and not self.folder.is_dir()):
            what = f"holds {other!r}, which is" if other else "is a file and"
            raise UserError(f"{self.folder}: {what} no work of a training. Move it away, or choose another --out.")
        if overwrite:
            return
        facts = self.found
        if facts is None or facts["identity"] == self.identity or not any(self.folder.glob("*.safetensors")):
            return
        known = facts["identity"] if isinstance(facts["identity"], dict) else {}
        key = next((key for key in self.identity if known.get(key) != self.identity[key]), "settings")
        raise UserError(
            f"{self.folder}: an unfinished training with other {key} is kept here. Finish it with its own, choose "
            "another --out, or drop it with --overwrite."
        )

    def begin(self, store: Path | None, experiment: str) -> None:
        """Go on with this training, or begin it, tracked in `store`."""
        try:
            facts = self.found
        except UserError:  # to be overwritten, or `check` would have said so
            facts = None
        if facts is not None:
            self.dropped = list(facts["dropped"])
        if facts is not None and facts["identity"] == self.identity:
            self.name, self.resumed = str(facts["name"]), True
        else:
            self.remove()
            with telling(self.folder):
                self.folder.mkdir()
        if not self.resumed or facts is None or facts["out"] != str(self.out):
            # A copy of a training's folder, or one that was moved, gets a run of its own.
            self.name = secrets.token_hex(8)
        tracked = store and {"store": str(store.resolve()), "experiment": experiment, "name": self.name}
        if facts is not None and facts["tracked"] and facts["tracked"] != tracked and not self._goes_on(facts):
            self.dropped.append(facts["tracked"])
        earlier = self.out / "checkpoint.run"  # the MLflow run of a training that an earlier version left unfinished
        self.outdated = earlier.is_file()
        if store and self.outdated:
            self.dropped.append({"store": str(store.resolve()), "run_id": earlier.read_text(errors="replace").strip()})
        write_json(
            self.folder / _FACTS,
            {
                "name": self.name, "out": str(self.out), "tracked": tracked, "dropped": self.dropped,
                "identity": self.identity,
            },
        )  # fmt: skip
        earlier.unlink(missing_ok=True)

    def _goes_on(self, facts: dict[str, Any]) -> bool:
        """Return whether the folder that this one was copied from is still there, unfinished."""
        source = Path(str(facts["out"]))
        return source != self.out and (source / FOLDER / _FACTS).is_file()

    def stage(self) -> Path:
        """Return an empty folder for the files of the finished run."""
        staged = self.folder / "finished"
        with telling(self.folder):
            if staged.exists():
                shutil.rmtree(staged)
            staged.mkdir()
        return staged

    def publish(self, staged: Path, all_files: tuple[str, ...]) -> None:
        """Move the finished run's files, all of them written, to their place.

        What of `all_files` it doesn't have is removed: an earlier run's. The first of them says that there is a run: it
        goes first and comes last, so that at no time the files of two runs are taken for one.
        """
        with telling(self.out):
            for name in all_files:
                if name == all_files[0] or not (staged / name).exists():
                    (self.out / name).unlink(missing_ok=True)
            for name in reversed(all_files):
                if (staged / name).exists():
                    os.replace(staged / name, self.out / name)
            flush_folder(self.out)

    def remove(self) -> None:
        """Remove the folder: renamed in one step, then deleted, so that there is never half of it."""
        with telling(self.folder):
            remove(self.folder)
