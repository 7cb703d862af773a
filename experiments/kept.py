"""Figures of single queries, kept on disk: a study that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.train import code_version
from rank_xmodal.files import read_json, replacing, write_json

SHOWN = ("R@1", "R@5", "R@10", "MRR")


def as_frame(query: np.ndarray, values: Mapping[str, Mapping[str, torch.Tensor]]) -> pd.DataFrame:
    """Return query and a column for each row and metric, "ranker/R@1"; `values` as `evaluation.evaluate` returns it."""
    columns = {f"{row}/{name}": by_metric[name].numpy() for row, by_metric in values.items() for name in SHOWN}
    return pd.DataFrame({"query": query, **columns})


def keep(path: Path, identity: dict[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return what stands at `path` if it was made by the same code for the same `identity`, else make and write it."""
    identity = {**identity, "code": code_version()}
    facts = path.with_suffix(".json")
    if path.is_file() and facts.is_file() and read_json(facts) == identity:
        return pd.read_parquet(path)
    frame = make()
    with replacing(path) as part:
        frame.to_parquet(part, index=False)
    write_json(facts, identity)
    return frame
