"""Is a work folder what an undisturbed run leaves? Byte for byte, but for what is volatile or doesn't count."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np

VOLATILE = {
    "config.json": "history[].seconds, mlflow_run",
    "report.html": "the line with the MLflow run's id",
}
"""By file name, what may differ between two undisturbed runs."""
KEPT = re.compile(r"set/(scores|lists)(/|$)")
"""What a training keeps in the set for the next one. Where that can't be written the training goes on, and nothing asks
for it again."""
ELSEWHERE = "run/lists"
"""Where a training keeps the lists that it may not keep in the set."""
STORE = "mlruns"
FOLDER = "a folder"
_RUN_ID = re.compile(rb"<tr><th scope=\"row\">MLflow run</th>.*\n?")


def steady(path: Path) -> bytes:
    """Return a file's bytes without what is volatile in it."""
    raw = path.read_bytes()
    if path.suffix == ".bin" and (path.parent / "index.json").is_file():
        return raw[: _counted(path)]
    if path.name == "report.html":
        return _RUN_ID.sub(b"", raw)
    if path.name == "config.json":
        try:
            facts = json.loads(raw)
            for epoch in facts.get("history") or []:
                epoch.pop("seconds", None)
            facts.pop("mlflow_run", None)
        except (ValueError, AttributeError, TypeError):
            return raw
        return json.dumps(facts).encode()
    return raw


def _counted(path: Path) -> int | None:
    """Return how many bytes of an index' table its manifest tells: what lies behind them is of a writer that died."""
    try:
        told = json.loads((path.parent / "index.json").read_bytes())
        table = told["tables"][path.stem]
        return int(told["rows"]) * int(table["width"]) * np.dtype(table["dtype"]).itemsize
    except (ValueError, KeyError, TypeError):
        return None


def digest(path: Path) -> str:
    """Return a checksum of a file without what is volatile in it."""
    return hashlib.sha256(steady(path)).hexdigest()[:16]


def tree(work: Path) -> dict[str, str]:
    """Return a checksum of each file and a word for each folder, the MLflow store left out."""
    found = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if name.split("/")[0] != STORE:
            found[name] = FOLDER if path.is_dir() and not path.is_symlink() else digest(path)
    return found


def difference(found: dict[str, str], wanted: dict[str, str], kept: bool = True) -> str | None:
    """Say how a tree differs from the one that is wanted; not `kept`, what trainings keep may be missing."""
    said = [f"left over: {name}" for name in found if name not in wanted and not _moved(name, found, wanted)]
    said += [f"missing: {name}" for name in wanted if name not in found and (kept or not KEPT.match(name))]
    said += [f"differs: {name}" for name in wanted if name in found and found[name] != wanted[name]]
    return "; ".join(said[:4]) + (f" ... {len(said)} in all" if len(said) > 4 else "") if said else None


def _moved(name: str, found: dict[str, str], wanted: dict[str, str]) -> bool:
    """Return whether these are whole lists that couldn't be kept in the set."""
    return name == ELSEWHERE or (name.startswith(f"{ELSEWHERE}/") and found[name] == wanted.get(f"set/{name[4:]}"))


def _visible(tree_of: dict[str, str]) -> dict[str, str]:
    """Return what a user sees: not what is hidden, nor the checkpoint of an unfinished training."""
    hidden = re.compile(r"(^|/)\.|(^|/)checkpoint(/|\.|$)")
    return {name: value for name, value in tree_of.items() if not hidden.search(name)}


def half_done(
    found: dict[str, str], before: dict[str, str], after: dict[str, str], whole: tuple[str, ...]
) -> str | None:
    """Say what stands there that is neither the old nor the new; folders of `whole` may be absent, never in part."""
    for name, value in _visible(found).items():
        if value not in (before.get(name), after.get(name)) and not _moved(name, found, after):
            return f"half-written: {name}"
    for folder in whole:
        now, old, new = ({n: v for n, v in t.items() if n.startswith(f"{folder}/")} for t in (found, before, after))
        if now and _visible(now) not in (_visible(old), _visible(new)):
            return f"neither the old nor the new folder: {folder}"
    return None
