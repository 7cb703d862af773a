"""Which code and packages made a run."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

COMMIT = "mlflow.source.git.commit"
"""MLflow's own tag, which its pages link and search by: a commit's hash and nothing else."""


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    command = ["git", *arguments]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


@lru_cache(maxsize=1)
def commit() -> tuple[str, bool] | None:
    """Return the commit of the checkout that this code is, and whether files of it were changed since.

    None outside a checkout, also where the package is installed within another project's: its commit says nothing.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None


def code_version() -> str:
    """Return the package's version and, in a checkout, its commit."""
    version, found = importlib.metadata.version("rank-xmodal"), commit()
    return version if found is None else f"{version}+{found[0][:7]}{'-dirty' * found[1]}"


def code_tags() -> dict[str, str]:
    """Return the tags of an MLflow run that say which code made it."""
    found = commit()
    told = {} if found is None else {COMMIT: found[0], "git.dirty": str(found[1]).lower()}
    return {**told, "rank_xmodal.version": code_version()}


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the packages that results depend on."""
    names = ("torch", "numpy", "open_clip_torch", "mlflow")
    return {"rank_xmodal": code_version(), "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }
