"""Which code and packages made a run."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def code_version() -> str:
    """Return the package's version and, in a checkout, its commit."""
    version = importlib.metadata.version("rank-xmodal")
    try:
        here = Path(__file__).parent
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the packages that results depend on."""
    names = ("torch", "numpy", "open_clip_torch", "mlflow")
    return {"rank_xmodal": code_version(), "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }
