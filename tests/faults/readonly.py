"""Family readonly: sets and stores that can't be written, files that can't be read.

By permission bits, which hold for root too once it has given up the right to ignore them; and by the preloaded library,
which says EROFS as a read-only disk does.
"""

import ctypes
import errno
from pathlib import Path

from tests.faults import child, compare, shim
from tests.faults.bench import Bench
from tests.faults.child import Ended, Fault
from tests.faults.choose import Wanted
from tests.faults.scenarios import CODES, EMBED, EPOCHS, HEAD, IMPORT, MAT, MINE, PLAIN, QUIET, STUDY
from tests.faults.settle import decent

_VERSION_3 = 0x20080522  # of the interface of capset
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
# Where it starts, what can't be written ("" is everything), the command, and whether it must succeed all the same.
WRITES: dict[str, tuple[str, str, tuple[str, ...], bool]] = {
    "train": ("set", "set", (*EPOCHS, *QUIET), True),
    "train-full-set": ("lists", "set", (*PLAIN, *QUIET, "--out", "run"), True),
    "study": ("store", "set", STUDY, True),
    "evaluate": ("run", "set", ("evaluate", "run", "--data", "set", "--json", "e.json"), True),
    "evaluate-run": ("run", "run", ("evaluate", "run", "--data", "set", "--json", "e.json"), True),
    "export": ("run", "run", ("export", "run", "--data", "set", "--format", "trec", "--out", "trec"), True),
    "report": ("run", "run", ("report", "run", "--data", "set", "--out", "page.html"), True),
    "report-into": ("run", "run", ("report", "run", "--data", "set"), False),
    "retrain": ("run", "run", (*EPOCHS, *QUIET), True),
    "mine": ("set", "set", MINE, False),
    "store": ("store", "mlruns", EPOCHS, True),
    "import": ("", "", IMPORT, False),
    "embed": ("", "", EMBED, False),
    "embed-tokens": ("set-embedded", "set", (*EMBED, "--tokens", "features"), False),
    "train-head": ("set-tokens", "set", (*HEAD, *QUIET), True),
    "train-codes": ("set-kinds", "set", (*CODES, *QUIET), True),
    "import-mat": ("", "", MAT, False),
    "train-nowhere": ("set", "", (*EPOCHS, *QUIET), False),
    "overwrite": ("other-set", "set", (*IMPORT, "--overwrite"), False),
}
# Where it starts, the file that can't be read, and a command that needs it.
READS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "meta": ("set", "set/meta.json", (*PLAIN, *QUIET, "--out", "run")),
    "images": ("set", "set/images.parquet", (*PLAIN, *QUIET, "--out", "run")),
    "relevance": ("set", "set/relevance.parquet", (*PLAIN, *QUIET, "--out", "run")),
    "embeddings": ("set", "set/image_emb.npy", (*PLAIN, *QUIET, "--out", "run")),
    "cells": ("set-tokens", "set/image_tokens.npy", (*HEAD, *QUIET)),
    "words": ("set-tokens", "set/text_tokens.npy", (*HEAD, *QUIET)),
    "mat": ("kinds", "kinds.mat", ("import", "--mat", "kinds.mat", "--out", "set")),
    "config": ("run", "run/config.json", ("evaluate", "run", "--data", "set")),
    "model": ("run", "run/model.safetensors", ("evaluate", "run", "--data", "set")),
    "bank": ("run", "run/query_bank.npy", ("evaluate", "run", "--data", "set")),
    "compare": ("run", "run/config.json", ("compare", "run")),
    "store": ("tracked", "mlruns/mlflow.db", ("compare", "--experiment", "set")),
    "captions": ("arrays", "C.csv", ("import", "--images", "A.npy", "--texts", "B.npy", "--captions", "C.csv",
                                     "--out", "set")),
    "captions-parquet": ("arrays-parquet", "C.parquet", ("import", "--images", "A.npy", "--texts", "B.npy",
                                                         "--captions", "C.parquet", "--out", "set")),
    "arrays": ("arrays", "A.npy", ("import", "--images", "A.npy", "--texts", "B.npy", "--captions", "C.csv", "--out",
                                   "set")),
    "yaml": ("texts", "config.yaml", ("train", "--data", "set", "--direction", "t2i", "--config", "config.yaml",
                                      "--out", "run")),
    "plan": ("texts", "plan.yaml", ("study", "plan.yaml", "--data", "set")),
    "photo": ("photos", "3.png", ("embed", "--dataset", "folder", "--root", ".", *EMBED[5:])),
    "table": ("photos", "captions.csv", ("embed", "--dataset", "folder", "--root", ".", *EMBED[5:])),
}  # fmt: skip


def cases(bench: Bench, cut: bool, wanted: Wanted) -> list[str]:
    """Return the names of the cases."""
    ways = [*(["disk"] if bench.preloaded else []), "bits"]
    if cut:
        return [f"readonly/{way}/write/train" for way in ways]
    names = [f"readonly/{way}/write/{name}" for way in ways for name in WRITES if wanted(way)]
    names = [name for name in names if name != "readonly/bits/write/overwrite"]  # bits let one's own folder be replaced
    return names + [f"readonly/{way}/read/{name}" for way in ways for name in READS if wanted(way)]


def run(bench: Bench, case: str) -> str | None:
    """Forbid, run, and look at how it ended."""
    _, way, kind, name = case.split("/")
    return _write(bench, way, name) if kind == "write" else _read(bench, way, name)


def _write(bench: Bench, way: str, name: str) -> str | None:
    start, place, command, succeeds = WRITES[name]
    bench.restore(start)
    closed = bench.place.work / place
    before = compare.tree(closed)
    ended = _permitted(bench, command, closed) if way == "bits" else _denied(bench, command, closed, False, errno.EROFS)
    if wrong := decent(ended):
        return wrong
    if (ended.code == 0) != succeeds:
        return f"exit code {ended.code}: {ended.last()}"
    changed = compare.difference(compare.tree(closed), before)
    return f"changed what may not be changed: {changed}" if changed else None


def _read(bench: Bench, way: str, name: str) -> str | None:
    start, file, command = READS[name]
    bench.restore(start)
    path = bench.place.work / file
    if way == "bits":
        ended = _permitted(bench, command, None, path)
    else:
        ended = _denied(bench, command, path, True, errno.EACCES)
    if wrong := decent(ended):
        return wrong
    if ended.code != 2:
        return f"exit code {ended.code} though {file} can't be read: {ended.last()}"
    message = ended.said.lower()
    if not any(word in message for word in ("permission", "not readable")) or path.name.lower() not in message:
        return f"the message doesn't name file and permission: {ended.last()}"
    return None


def _denied(bench: Bench, command: tuple[str, ...], path: Path, reading: bool, error: int) -> Ended:
    fault = Fault("none", before=lambda: shim.deny(path, reading, error))
    return child.run(bench.place, command, fault)


def _permitted(bench: Bench, command: tuple[str, ...], closed: Path | None, unread: Path | None = None) -> Ended:
    """Run a command that permission bits hold for, root or not."""
    for path in (closed, *closed.rglob("*")) if closed else ():
        path.chmod(0o555 if path.is_dir() else 0o444)
    if unread:
        unread.chmod(0)
    try:
        return child.run(bench.place, command, Fault("none", before=ordinary))
    finally:
        for path in (bench.place.work, *bench.place.work.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def ordinary() -> None:
    """Give up root's right to read and write everything; who isn't root has none to give up."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in (0, 1):
        sets[place] &= ~_OVERRIDES & 0xFFFFFFFF
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
