"""What hypothesis makes inputs of, and what takes them."""

import csv
import io
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.faults.scenarios import INPUTS

Take = Callable[[Any, Path], None]


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
ODD = st.sampled_from(
    ["", " ", "0", "-1", "1e999", "nan", "inf", "null", "~", "yes", "on", "0x10", "1_000", "t2i", "clip", "csls", "all",
     "auto", "../..", "\x00", "a\nb", "{}", "[", "é", "\u202e", "9" * 400, "1e-400", "!!python/object:os.system"]
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-3, 3), st.integers(), st.floats(), st.sampled_from([2**31, 2**63, -(2**63), 10**400]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, ODD)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
KEYS = words(
    "scorer on loss loss_params features epochs lr batch_size negatives pool refit seed calibrate device lists d_model "
    "heads layers d_ff dropout patience schedule clip weight_decay ranker blocks without residual epoch "
    "local scores folds objective width steps levels url model top key_from"
)
NAMES = words(
    "context_aware csls cosine cca vsepp allrank centred clip listnet lambdarank smoothap natural clean paper full "
    "embeddings concat constant cpu pool late_interaction mgan fusion blip_itm remote max_of_hinges"
)
SETTINGS = st.dictionaries(
    st.one_of(st.sampled_from(KEYS), TEXT),
    st.one_of(st.sampled_from(NAMES), VALUES, st.dictionaries(TEXT, SCALARS, max_size=3)),
    max_size=6,
)
TOKENS = st.sampled_from(
    ["scorer: ", "epochs: ", "\n", "  ", "- ", "{", "}", "[", "]", ": ", "&a ", "*a", "<<: ", "|\n", ">\n", "'", '"',
     "#", "? ", "!!int ", "%YAML 1.9\n", "---\n", "...\n", "\t", "\x85", "\ufeff", "3", "1e-3"]
)  # fmt: skip
PIECES = st.lists(st.one_of(TOKENS, TEXT), max_size=25).map("".join)


def _settings(values: Any, folder: Path) -> None:
    _settings_text(yaml.safe_dump(values, allow_unicode=True), folder)


def _settings_text(text: str, folder: Path) -> None:
    from rank_xmodal import scorers

    (folder / "s.yaml").write_text(text, encoding="utf-8", newline="")
    scorers.read(folder / "s.yaml", [], {})


def _assignments(pairs: list[str], folder: Path) -> None:
    from rank_xmodal import scorers

    scorers.read(None, pairs, {})


def _plan(values: Any, folder: Path) -> None:
    from experiments.study import plan

    (folder / "plan.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    plan.read(folder / "plan.yaml", [])


PLANS = st.fixed_dictionaries(
    {},
    optional={
        "rows": st.one_of(st.dictionaries(TEXT, st.one_of(st.none(), SETTINGS), max_size=3), VALUES),
        "grid": st.one_of(st.dictionaries(st.sampled_from(KEYS), st.lists(SCALARS, max_size=2), max_size=2), VALUES),
        "settings": st.one_of(SETTINGS, VALUES),
        "against": st.one_of(st.lists(st.sampled_from(["CLIP", "CSLS", "a"]), max_size=2), VALUES),
        "protocols": st.one_of(st.lists(st.sampled_from(["paper", "clean", "gallery"]), max_size=3), VALUES),
        "judge": st.one_of(st.sampled_from(["val", "test"]), VALUES),
        "seeds": VALUES,
        "folds": VALUES,
        "permutations": VALUES,
        "published": st.one_of(st.sampled_from(["table2", "..", "/"]), VALUES),
        "note": VALUES,
        "odd": VALUES,
    },
)


def _import(folder: Path, images: Path, captions: Path) -> None:
    from data_prep.importing import import_embeddings

    import_embeddings(images, Path("B.npy"), captions, folder / "set", say=lambda line: None)


CELLS = st.one_of(TEXT, ODD, st.integers(-2, 60).map(str), st.sampled_from(["train", "val", "test", "a|b", "none"]))
_ROW = st.tuples(CELLS, CELLS, CELLS, CELLS)
CHANGED_CSV = st.tuples(
    st.lists(st.tuples(st.integers(0, 47), st.integers(0, 4), CELLS), max_size=4),  # cells of the whole table to change
    st.sampled_from(["", "labels", "source", "split", "caption_id", "x"]),  # one more column
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(_ROW, max_size=2),  # rows too many
)


def _captions(change: Any, folder: Path) -> None:
    cells, column, comma, encoding, end, more = change
    with Path("C.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    if column:
        rows = [[*row, column if at == 0 else "v"] for at, row in enumerate(rows)]
    for row, at, value in cells:
        rows[row][at % len(rows[row])] = value
    out = io.StringIO()
    csv.writer(out, delimiter=comma, lineterminator=end).writerows([*rows, *more])
    (folder / "C.csv").write_bytes(out.getvalue().encode(encoding, "replace"))
    _import(folder, Path("A.npy"), folder / "C.csv")


def _captions_text(text: str, folder: Path) -> None:
    (folder / "C.csv").write_text(f"caption_id,image_id,caption,split\n{text}", encoding="utf-8", newline="")
    _import(folder, Path("A.npy"), folder / "C.csv")


CSV_TEXT = st.lists(
    st.one_of(st.sampled_from([",", '"', '""', "\n", "\r", "train", "0", "t0", "\x00", " "]), TEXT), max_size=20
).map("".join)
KINDS = st.sampled_from(
    ["'<f4'", "'<f2'", "'>f8'", "'|O'", "'<i4'", "'<c8'", "'|V8'", "'<U4'", "[('a', '<f4')]", "'<f3'", "''", "f4"]
)
SHAPES = st.sampled_from(
    ["(48, 8)", "(48,)", "()", "(-1, 8)", "(48, 8, 1)", "(10**9, 10**9)", "48", "(2**62, 8)", "(0, 8)", "(48, 0)",
     "[48, 8]", "(48.0, 8)", "(True, 8)", "(999999999999, 8)"]
)  # fmt: skip
HEADERS = st.tuples(
    st.one_of(KINDS, TEXT),
    st.one_of(st.sampled_from(["False", "True", "None", "0"]), TEXT),
    st.one_of(SHAPES, TEXT),
    st.sampled_from([b"\x93NUMPY", b"\x93NUMPX", b"", b"PK\x03\x04", b"\x80\x04"]),
    st.tuples(st.integers(0, 4), st.integers(0, 255)),
    st.one_of(st.just(-1), st.integers(0, 65535)),  # the header's length, where it is a lie
    st.integers(0, 2_000),  # bytes of data
)


def _npy(header: Any, folder: Path) -> None:
    kind, order, shape, magic, (major, minor), length, size = header
    text = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("utf-8", "replace")
    wide = struct.pack("<I" if major > 1 else "<H", len(text) if length < 0 else length)
    (folder / "A.npy").write_bytes(magic + bytes([major, minor]) + wide + text + bytes(range(1, 251)) * (size // 250))
    _import(folder, folder / "A.npy", Path("C.csv"))


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, one in inner for leaf in _leaves(one, (*path, key)))]


CHANGED_JSON = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "drop", "add"]), VALUES), min_size=1, max_size=3
)


def _changed(source: Path, changes: Any) -> str:
    """Return a JSON file with values at any place replaced, dropped or added."""
    whole = json.loads(source.read_text())
    for number, how, value in changes:
        places = _leaves(whole)[1:]
        if not places:
            break
        *above, last = places[number % len(places)]
        holder = whole
        for key in above:
            holder = holder[key]
        if how == "drop":
            del holder[last]
        elif how == "add" and isinstance(holder, dict):
            holder[f"{last} more"] = value
        else:
            holder[last] = value
    return json.dumps(whole)


def _config(changes: Any, folder: Path) -> None:
    from experiments.study.compare import from_folders
    from rank_xmodal.use.reranker import Reranker

    shutil.copytree("run", folder / "run")
    (folder / "run/config.json").write_text(_changed(Path("run/config.json"), changes))
    from_folders([folder / "run"])
    Reranker.from_pretrained(folder / "run", "cpu")


def _meta(changes: Any, folder: Path) -> None:
    from rank_xmodal.data.embedding_set import EmbeddingSet

    shutil.copytree("set", folder / "set")
    (folder / "set/meta.json").write_text(_changed(Path("set/meta.json"), changes))
    opened = EmbeddingSet.open(folder / "set")
    assert opened.name is not None
    assert opened.query_rows("t2i", "test").size


def _karpathy(changes: Any, folder: Path) -> None:
    from data_prep.datasets import load

    (folder / "flickr30k-images").symlink_to(Path("flickr30k-images").resolve())
    (folder / "dataset_flickr30k.json").write_text(_changed(Path("dataset_flickr30k.json"), changes))
    load("flickr30k", folder, say=lambda line: None)


OPTIONS = words(
    "--data --direction --out --scorer --on --loss --set --seed --split --negatives --pool --protocol --depth --format "
    "--json --first-stage --device --name -k --text --range-min --absolute-margin --help --max-score --fold-size "
    "--no-tracking --overwrite --odd"
)
WORDS = words(
    "set run t2i i2t both csls cosine clip own val test trec libsvm 1 5 0 -1 cpu cuda:99 clean paper natural all "
    f"seed=1 epochs=0 nothing {INPUTS}/A.npy"
)
ARGUMENTS = st.one_of(st.sampled_from(WORDS), st.one_of(ODD, TEXT).filter(lambda text: "/" not in text))
COMMANDS = st.sampled_from(
    [
        "evaluate run --data set",
        "mine set --direction t2i --negatives 4 --pool 20",
        "export run --data set --format trec --out out",
        "compare run",
        "scorers",
        "protocols run --data set",
        "search run --data set --text a",
        "verify coco --data set",
        "report run --data set --out page.html",
        f"import --images {INPUTS}/A.npy --texts {INPUTS}/B.npy --captions {INPUTS}/C.csv --out new",
        "train --data set --direction t2i --scorer cosine --no-tracking --out new",
    ]
).map(str.split)
LINES = st.tuples(
    COMMANDS,
    st.lists(st.tuples(st.sampled_from(OPTIONS), ARGUMENTS), max_size=3),
    st.lists(ARGUMENTS, max_size=1),
    st.booleans(),
)


def _command_line(line: Any, folder: Path) -> None:
    from experiments.cli.main import main

    command, options, more, shorter = line
    words = [*command[: len(command) - shorter], *(word for pair in options for word in pair), *more]
    before = {path: path.stat().st_mtime_ns for path in sorted(Path.cwd().iterdir())}
    try:
        main([re.sub("\x00", "", word) for word in words])  # no shell can pass a zero byte
    except SystemExit as stop:
        if stop.code not in (0, 1, 2, None):
            raise ValueError(f"exit code {stop.code}") from None
    finally:
        for path in sorted(Path.cwd().iterdir()):
            if path not in before and path.name not in ("mlruns",):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


ASSIGNED = st.tuples(st.sampled_from(KEYS), st.one_of(ODD, st.sampled_from(NAMES), NUMBERS.map(str)))
NESTED = st.tuples(st.sampled_from(["loss_params.k", "a.b.c", ".", "epochs.x", "=", ""]), TEXT)
PAIRS = st.lists(st.one_of(ASSIGNED.map("=".join), NESTED.map("=".join), TEXT), max_size=4)

GRAMMARS: dict[str, tuple[Any, Take]] = {
    "settings-yaml": (st.one_of(SETTINGS, VALUES), _settings),
    "settings-text": (PIECES, _settings_text),
    "assignments": (PAIRS, _assignments),
    "plan-yaml": (PLANS, _plan),
    "captions-csv": (CHANGED_CSV, _captions),
    "captions-text": (CSV_TEXT, _captions_text),
    "npy-header": (HEADERS, _npy),
    "config-json": (CHANGED_JSON, _config),
    "meta-json": (CHANGED_JSON, _meta),
    "karpathy-json": (CHANGED_JSON, _karpathy),
    "command-line": (LINES, _command_line),
}
"""By name, the grammar and who takes what it makes."""
