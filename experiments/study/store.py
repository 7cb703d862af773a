"""Trials kept on disk: a study that was stopped goes on where it was."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import experiments
from experiments.study.trial import Trial
from rank_xmodal.files import read_json, read_parquet, replacing, sha256, write_json
from rank_xmodal.scorers import class_of

ROOT = Path(experiments.__file__).parents[1]
# The files, below the root, that decide what a trial gives.
CODE = ("rank_xmodal/**/*.py", "data_prep/mining/*.py", "experiments/results/result.py") + tuple(
    f"experiments/{name}.py" for name in ("run/lists", "run/procedure", "study/trial")
)


def identity(trial: Trial, fingerprint: str) -> dict[str, Any]:
    """Return what decides a trial's figures, beside the code: not the device."""
    settings = {key: value for key, value in trial.settings.items() if key != "device"}
    asked = {"direction": trial.direction, "split": trial.split, "protocols": list(trial.protocols)}
    return {"settings": settings, "fingerprint": fingerprint, **asked}


def code_digest(trial: Trial) -> str:
    """Return a checksum of the code that makes a trial's figures, a user's own scorer included.

    Not the commit: uncommitted changes have none, and a commit to the README changes no figure.
    """
    own = {Path(inspect.getfile(class_of(trial.settings[key]))) for key in ("scorer", "on")}
    return _digest(frozenset(own | {path for pattern in CODE for path in ROOT.glob(pattern)}))


@functools.cache  # as it is when first asked: what runs was imported then
def _digest(files: frozenset[Path]) -> str:
    return sha256(*(meaning(path.read_text(encoding="utf-8")).encode() for path in sorted(files)))[:16]


def meaning(code: str) -> str:
    """Return a module's syntax tree without docstrings, and so without comments and formatting."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [line for line in node.body if not _is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def keep(folder: Path, trial: Trial, fingerprint: str, make: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame, bool]:
    """Return the trial's frame, kept in `folder` by the same code or else made and kept now, and whether it was made."""
    known = identity(trial, fingerprint)
    path = folder / f"{trial.direction}-{sha256(repr(known).encode())[:16]}.parquet"
    facts, known = path.with_suffix(".json"), {**known, "code": code_digest(trial)}
    if path.is_file() and facts.is_file() and read_json(facts) == known:
        return read_parquet(path).to_pandas(), False
    frame = make()
    facts.unlink(missing_ok=True)  # stopped between the two writes, the old facts would vouch for the new frame
    with replacing(path) as part:
        frame.to_parquet(part, index=False)
    write_json(facts, known)
    return frame, True
