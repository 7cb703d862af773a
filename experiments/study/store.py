"""Trials kept on disk: a study that was stopped goes on where it was."""

from __future__ import annotations

import ast
import functools
import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

import experiments
from experiments.study.trial import Trial
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, read_parquet, replacing, sha256, sha256_of_file, write_json
from rank_xmodal.scorers import class_of

ROOT = Path(experiments.__file__).parents[1]
# What decides the figures of a trial, below the root.
_OURS = ("results/result.py", "run/lists.py", "run/procedure.py", "study/trial.py", "study/cost.py")
CODE = ("rank_xmodal/**/*.py", "data_prep/mining/*.py", *(f"experiments/{file}" for file in _OURS))


def kept(folder: Path, trial: Trial, fingerprint: str) -> pd.DataFrame | None:
    """Return the trial's frame that `keep` wrote, by the same code; None where there is none."""
    path, known = _place(folder, trial, fingerprint)
    with suppress(UserError):  # missing, cut short or damaged: made again
        if read_json(path.with_suffix(".json")) == {**known, "sha256": sha256_of_file(path)}:
            return read_parquet(path).to_pandas()
    return None


def keep(folder: Path, trial: Trial, fingerprint: str, frame: pd.DataFrame) -> None:
    """Write the trial's frame into `folder`, with what tells that it is that."""
    path, known = _place(folder, trial, fingerprint)
    facts = path.with_suffix(".json")
    facts.unlink(missing_ok=True)  # stopped between the two writes, the old facts would vouch for the new frame
    with replacing(path) as part:
        frame.to_parquet(part, index=False)
    write_json(facts, {**known, "sha256": sha256_of_file(path)})


def _place(folder: Path, trial: Trial, fingerprint: str) -> tuple[Path, dict[str, Any]]:
    known = identity(trial, fingerprint)
    path = folder / f"{trial.direction}-{sha256(repr(known).encode())[:16]}.parquet"
    return path, {**known, "code": code_digest(trial)}


def identity(trial: Trial, fingerprint: str) -> dict[str, Any]:
    """Return what decides a trial's figures, beside the code: not the device."""
    settings = {key: value for key, value in trial.settings.items() if key != "device"}
    asked: dict[str, Any] = {"direction": trial.direction, "split": trial.split, "protocols": list(trial.protocols)}
    if trial.cost:  # those without it are told as they always were
        asked["cost"] = True
    return {"settings": settings, "fingerprint": fingerprint, **asked}


def code_digest(trial: Trial) -> str:
    """Return a checksum of the code that makes a trial's figures, a user's own scorer included.

    Not the commit: uncommitted changes have none, and a commit to the README changes no figure.
    """
    scorers = {Path(inspect.getfile(class_of(trial.settings[key]))) for key in ("scorer", "on")}
    return _digest(frozenset(scorers.union(*(ROOT.glob(pattern) for pattern in CODE))))


@functools.cache  # as it is when first asked: what runs was imported then
def _digest(files: frozenset[Path]) -> str:
    return sha256(*(meaning(path.read_text(encoding="utf-8")).encode() for path in sorted(files)))[:16]


class _WithoutTexts(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def meaning(code: str) -> str:
    """Return a module's syntax tree without docstrings, and so without comments and formatting."""
    return ast.dump(_WithoutTexts().visit(ast.parse(code)))
