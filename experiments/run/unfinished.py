"""What an unfinished training has: the folder `checkpoint` in its run's folder, made first and removed last.

So a run's folder with it holds no finished run, whatever else stands in there, and one without it does; and a training
that was killed, wherever, is gone on with by the same command.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, remove, telling, write_json

FOLDER = "checkpoint"
_FACTS = "training.json"


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
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.out, self.folder, self.identity = out, out / FOLDER, identity
        self.name, self.resumed = "", False

    @property
    def found(self) -> dict[str, Any] | None:
        """What is said of the training that is kept here, None without one; states of nobody knows what are none."""
        try:
            facts = read_json(self.folder / _FACTS)
        except UserError:
            return None
        return facts if isinstance(facts, dict) and {"identity", "name", "experiment"} <= facts.keys() else None

    def is_ours(self) -> bool:
        """Return whether this very training is kept here."""
        facts = self.found
        return facts is not None and facts["identity"] == self.identity

    def check(self, overwrite: bool) -> None:
        """Check that no other training's work would be lost.

        Raises
        ------
        UserError
            If there is some, and `overwrite` is false.
        """
        facts = self.found
        if facts is None or self.is_ours() or overwrite or not any(self.folder.glob("*.safetensors")):
            return
        known = facts["identity"] if isinstance(facts["identity"], dict) else {}
        other = next((key for key in self.identity if known.get(key) != self.identity[key]), "settings")
        raise UserError(
            f"{self.folder}: an unfinished training with other {other} is kept here. Finish it with its own, choose "
            "another --out, or drop it with --overwrite."
        )

    def begin(self, experiment: str) -> tuple[str, str] | None:
        """Go on with this training, or begin it; return experiment and name of another one that was dropped for it."""
        facts = self.found
        if facts is not None and self.is_ours():
            self.name, self.resumed = str(facts["name"]), True
            return None
        self.remove()
        with telling(self.folder):
            self.folder.mkdir()
        self.name = secrets.token_hex(8)
        write_json(self.folder / _FACTS, {"name": self.name, "experiment": experiment, "identity": self.identity})
        return None if facts is None else (str(facts["experiment"]), str(facts["name"]))

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

    def remove(self) -> None:
        """Remove the folder: renamed in one step, then deleted, so that there is never half of it."""
        with telling(self.folder):
            remove(self.folder)
