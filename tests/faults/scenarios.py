"""The commands that are disturbed, and the states that they start from."""

from dataclasses import dataclass

INPUTS = "../../inputs"


def _import(prefix: str = "") -> tuple[str, ...]:
    files = (f"{INPUTS}/{prefix}A.npy", "--texts", f"{INPUTS}/{prefix}B.npy", "--captions", f"{INPUTS}/{prefix}C.csv")
    return ("import", "--images", *files, "--out", "set")


IMPORT = _import()
TOKENS = (
    *IMPORT, "--image-tokens", f"{INPUTS}/cells.npy", "--text-tokens", f"{INPUTS}/words.npy", "--text-offsets",
    f"{INPUTS}/offsets.npy",
)  # fmt: skip
EMBED = (
    "embed", "--dataset", "folder", "--root", f"{INPUTS}/photos", "--model", f"{INPUTS}/tiny-faults.json",
    "--pretrained", f"{INPUTS}/tiny-faults.safetensors", "--batch-size", "4", "--device", "cpu", "--out", "set",
)  # fmt: skip
MAT = ("import", "--mat", f"{INPUTS}/kinds.mat", "--val", "0.2", "--out", "set")
MINE = ("mine", "set", "--direction", "t2i", "--negatives", "4", "--pool", "20")
TRAIN = ("train", "--data", "set", "--direction", "t2i", "--set", "device=cpu", "--set", "negatives=4", "--out", "run")
HEAD = (
    *TRAIN, "--scorer", "late_interaction", "--set", "steps=6", "--set", "width=4", "--set", "batch_size=8",
)  # fmt: skip
CODES = (
    "train", "--data", "set", "--direction", "t2i", "--scorer", "hash", "--set", "device=cpu", "--set", "epochs=3",
    "--set", "bits=16", "--out", "run",
)  # fmt: skip
EPOCHS = (*TRAIN, "--features", "embeddings", "--set", "epochs=3", "--set", "refit=true", "--set", "batch_size=8")
PLAIN = ("train", "--data", "set", "--direction", "t2i", "--scorer", "csls", "--set", "device=cpu")
STUDY = ("study", f"{INPUTS}/plan.yaml", "--data", "set", "--seeds", "1", "--direction", "t2i", "--out", "study")
QUIET = ("--no-tracking",)
INDEX = ("index", "run", "--data", "set", "--split", "test", "--out", "index", "--device", "cpu")

TEMPLATES: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    # name: the template it goes on from, and the commands that make it
    "set": ("", (IMPORT,)),
    "set-tokens": ("", (TOKENS,)),
    "set-embedded": ("", (EMBED,)),
    "set-kinds": ("", (MAT,)),
    "other-set": ("", (_import("other-"),)),
    "run-many": ("", (_import("many-"), (*PLAIN, "--out", "run", *QUIET))),
    "run": ("set", ((*EPOCHS, *QUIET),)),
    "other-run": ("set", ((*EPOCHS, *QUIET, "--seed", "7"),)),
    "run-codes": ("set-kinds", ((*CODES, *QUIET),)),
    "indexed": ("run", (INDEX,)),
    "run-head": ("set-tokens", ((*HEAD, *QUIET),)),
    "store": ("set", ((*PLAIN, "--out", "plain"),)),
    "tracked": ("store", (EPOCHS,)),
    "study": ("store", (STUDY,)),
}
"""Templates by name; "store" has an MLflow store that is ready for use."""


@dataclass(frozen=True)
class Scenario:
    """A command with its start.

    `whole` are folders that appear whole or not at all; `store` says that it tracks its work in MLflow.
    """

    start: str
    command: tuple[str, ...]
    whole: tuple[str, ...] = ()
    store: bool = False


SCENARIOS = {
    "import": Scenario("", IMPORT, ("set",)),
    "import-over": Scenario("other-set", (*IMPORT, "--overwrite"), ("set",)),
    "import-tokens": Scenario("set", TOKENS),
    "import-mat": Scenario("", MAT, ("set",)),
    "embed": Scenario("", EMBED, ("set",)),
    "embed-parallel": Scenario("", (*EMBED, "--parallel", "2"), ("set",)),
    "embed-tokens": Scenario("set-embedded", (*EMBED, "--tokens", "features")),
    "embed-tokens-parallel": Scenario("set-embedded", (*EMBED, "--tokens", "features", "--parallel", "2")),
    "mine": Scenario("set", MINE),
    "mine-parallel": Scenario("set", (*MINE, "--parallel", "2")),
    "train": Scenario("set", (*TRAIN, *QUIET)),
    "train-epochs": Scenario("set", (*EPOCHS, *QUIET)),
    "train-head": Scenario("set-tokens", (*HEAD, *QUIET)),
    "train-codes": Scenario("set-kinds", (*CODES, *QUIET)),
    "train-over": Scenario("other-run", (*EPOCHS, *QUIET, "--overwrite")),
    "train-tracked": Scenario("store", EPOCHS, store=True),
    "train-first": Scenario("set", EPOCHS, store=True),
    "evaluate": Scenario("run", ("evaluate", "run", "--data", "set", "--json", "figures.json")),
    "evaluate-classes": Scenario(
        "run-codes", ("evaluate", "run", "--data", "set", "--json", "figures.json", "--confusion", "classes.csv")
    ),
    "resolve": Scenario(
        "run-many", ("resolve", "run", "--data", "set", "--out", "pairs.csv", "--json", "figures.json")
    ),
    "report": Scenario("run", ("report", "run", "--data", "set")),
    "export": Scenario("run", ("export", "run", "--data", "set", "--format", "trec", "--out", "trec")),
    "index": Scenario("run", INDEX, ("index",)),
    "index-add": Scenario("indexed", ("add", "index", "--data", "set", "--device", "cpu")),
    "index-remove": Scenario("indexed", ("remove", "index", "47", "46")),
    "study": Scenario("store", STUDY, store=True),
}
