"""What it costs to hand out parts: mining in parts of some ten seconds, by two workers and by one process.

One process mines with all threads; two workers have half of them each, on the same cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, alternate, row
from benchmarks.mining import first_queries
from data_prep.mining.miner import mine
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.parallel import Executor, executor_named

IMAGES, BLOCK, PARTS, WORKERS = 400_000, 2_048, 6, 2
_REPEATS = 3
_OVERHEAD = 1.15


def rows() -> Iterator[Row]:
    """Compare Ray and processes that stand with one process, and Ray with its start."""
    if torch.get_num_threads() != WORKERS:
        raise UserError(
            f"OMP_NUM_THREADS={torch.get_num_threads()}: {WORKERS} workers need {WORKERS} cores to compare."
        )
    with tempfile.TemporaryDirectory() as name:
        first_queries(embedding_set(IMAGES, captions=1), "t2i", PARTS * BLOCK).write(Path(name) / "set")
        data = EmbeddingSet.open(Path(name) / "set")
        alone = partial(_mined, data, None)
        work = f"mining {PARTS} parts of {BLOCK:,} queries against {IMAGES:,}, {WORKERS} workers"
        for kind, label in (("ray", "Ray"), (str(WORKERS), "processes")):
            with executor_named(kind) as executor:
                if executor.workers != WORKERS:
                    raise UserError(f"Ray has {executor.workers} workers here, not {WORKERS}.")
                there = partial(_mined, data, executor)
                if not np.array_equal(there().candidates, alone().candidates):
                    raise UserError(f"{label}: other lists than one process's.")
                pairs = alternate(there, alone, repeats=_REPEATS)
                yield row(f"{work}: {label}", "one process", pairs, 1 / _OVERHEAD)
        yield row(f"{work}: Ray and its start", "one process", alternate(partial(_begun, data), alone, repeats=1), None)


def _mined(data: EmbeddingSet, executor: Executor | None) -> CandidateLists:
    return mine(data, "t2i", "train", pool="all", block=BLOCK, executor=executor)


def _begun(data: EmbeddingSet) -> CandidateLists:
    with executor_named("ray") as executor:
        return _mined(data, executor)
