"""The command line: what reads options, and nothing that works."""

from __future__ import annotations

import os

# Before torch is loaded. By itself each of its threads spins at every barrier for milliseconds: beside other work for a
# core that another process has, and a training takes ten times its time. Asleep at once they wake too late for a
# ranker's small products: a training alone takes 1.6 times its time. These some 20 us of spinning cost neither.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"  # OpenMP of LLVM's and Intel's: asleep at once
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's, which torch's packages for Linux have
