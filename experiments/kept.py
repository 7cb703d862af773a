"""Figures of single queries, kept on disk: a study that was stopped goes on where it was."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rank_xmodal.files import read_json, replacing, sha256, write_json

SHOWN = ("R@1", "R@5", "R@10", "MRR")
# The files, below the repository's root, that decide what is kept.
_CODE = (
    "rank_xmodal/**/*.py",
    "data_prep/mining/*.py",
    *(f"experiments/{name}.py" for name in ("folds", "grid", "kept", "lists", "paper", "study")),
)


def as_frame(query: np.ndarray, values: Mapping[str, Mapping[str, torch.Tensor]]) -> pd.DataFrame:
    """Return query and a column for each row and metric, "ranker/R@1"; `values` as `evaluation.evaluate` returns it."""
    columns = {f"{row}/{name}": by_metric[name].numpy() for row, by_metric in values.items() for name in SHOWN}
    return pd.DataFrame({"query": query, **columns})


@functools.cache
def code_digest() -> str:
    """Return a checksum of the code that makes figures, as it is when first asked.

    Not the commit: uncommitted changes have none, and a commit to the README changes no figure.
    """
    root = Path(__file__).parent.parent
    files = sorted(path for pattern in _CODE for path in root.glob(pattern))
    return sha256(*(part for path in files for part in (path.name.encode(), path.read_bytes())))[:16]


def keep(path: Path, identity: dict[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return what stands at `path` if it was made by the same code for the same `identity`, else make and write it."""
    identity = {**identity, "code": code_digest()}
    facts = path.with_suffix(".json")
    if path.is_file() and facts.is_file() and read_json(facts) == identity:
        return pd.read_parquet(path)
    frame = make()
    facts.unlink(missing_ok=True)  # stopped between the two writes, the old facts would vouch for the new frame
    with replacing(path) as part:
        frame.to_parquet(part, index=False)
    write_json(facts, identity)
    return frame
