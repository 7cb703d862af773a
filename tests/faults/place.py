"""Where a worker's cases run: a work folder that each case finds as its template left it."""

import shutil
from pathlib import Path


class Place:
    """The folders of a worker.

    Only what is below `disk` is counted and spoiled: the work folder and the one for temporary files. The work folder
    has the same path in every case, since some files hold absolute paths; inputs lie outside and are never copied.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.inputs, self.kept, self.disk = base / "inputs", base / "kept", base / "disk"
        self.work, self.tmp = self.disk / "work", self.disk / "tmp"
        for folder in (self.kept, self.disk):
            folder.mkdir(parents=True, exist_ok=True)

    def keep(self, name: str) -> None:
        """Keep the work folder as a template."""
        shutil.rmtree(self.kept / name, ignore_errors=True)
        shutil.copytree(self.work, self.kept / name, symlinks=True)

    def restore(self, name: str) -> None:
        """Make the work folder what the template is; "" is an empty one."""
        for folder in (self.work, self.tmp):
            shutil.rmtree(folder, ignore_errors=True)
        if name:
            shutil.copytree(self.kept / name, self.work, symlinks=True)
        else:
            self.work.mkdir()
        self.tmp.mkdir()
