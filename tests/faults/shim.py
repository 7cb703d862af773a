"""The preloaded library of shim.c: compiled into a temporary folder, loaded by LD_PRELOAD, steered by ctypes."""

import ctypes
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
MODES = {"count": 0, "once": 1, "full": 2, "short": 3, "kill": 4}


def compiled(folder: Path) -> Path | None:
    """Compile the library into `folder`; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "shim.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def loaded() -> ctypes.CDLL | None:
    """Return the library where this process runs with it."""
    here = ctypes.CDLL(None)
    try:
        here.fault_count.restype = ctypes.c_long
    except AttributeError:
        return None
    return here


def arm(folder: Path, at: int, mode: str, errno: int, trace: int) -> None:
    """Spoil the `at`-th operation that changes something below `folder`; see fault_arm."""
    here = loaded()
    assert here is not None, "the campaign's workers are started with LD_PRELOAD"
    here.fault_arm(bytes(folder), ctypes.c_long(at), MODES[mode], errno, trace)


def deny(prefix: Path, reading: bool, errno: int) -> None:
    """Let nothing change, or with `reading` not even be read, whose path begins with `prefix`."""
    here = loaded()
    assert here is not None, "the campaign's workers are started with LD_PRELOAD"
    here.fault_deny(bytes(prefix), int(reading), errno)
