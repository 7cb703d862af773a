"""The command line: what reads options, and nothing that works."""

from __future__ import annotations

import os

# Before torch is loaded: beside other work its threads would spin at every barrier for a core that another process has,
# and a training would take many times its time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
