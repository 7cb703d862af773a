"""A few kills and failing disks of the fault campaign, the same each time; `python -m tests.faults` runs it all."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_few_disturbances_leave_no_trace():
    command = [sys.executable, "-m", "tests.faults", "--cut", "--seed", "0", "--minutes", "4"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    preloaded = any(map(shutil.which, ("cc", "gcc", "clang")))
    assert ("LEFT OUT" not in ended.stdout) == preloaded, ended.stdout
