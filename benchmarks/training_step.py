"""One training step at the paper's sizes: batch 32, 51 candidates, 1,024 features, dropout on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, alternate_apart, matmul_rate, row
from data_prep.mining.miner import mine
from rank_xmodal import losses
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.retrieval.query_bank import Neighbours
from rank_xmodal.scorers.allrank import AllRank, AllRankRanker, allrank_loss
from rank_xmodal.scorers.context_aware.scorer import ContextAware
from rank_xmodal.scorers.list_trained import ListTrained, spread_of
from rank_xmodal.training.adamw import AdamW
from rank_xmodal.training.loop import Network
from rank_xmodal.training.step import Step

BATCH = 32
LOSSES = ("lambdarank", "neuralndcg", "listnet", "ranknet")
_BATCHES = 16  # stored features of more would only fill the memory


def lists_of(data: EmbeddingSet) -> tuple[ListTensors, float]:
    """Return the paper's lists of a set as tensors, and the spread of their cosines."""
    lists = mine(data, "t2i", negatives=50, pool=200, protocol="clean", seed=0)
    # As in a training: the recipe has no use for hubness.
    tensors = ListTensors.gather(
        data, lists, lambda rows: Neighbours.none(len(rows)), torch.device("cpu"), in_bank=True
    )
    return tensors, spread_of(tensors)


def model_of(kind: Literal["rank_xmodal", "allrank"], tensors: ListTensors, spread: float) -> Network:
    """Return an untrained network, "rank_xmodal" or "allrank", in the paper's sizes."""
    scorer: ListTrained = AllRank() if kind == "allrank" else ContextAware(features="concat")
    torch.manual_seed(0)
    return scorer.build(scorer.network_config(tensors.queries.shape[1], spread, len(tensors))).train()


def ours(tensors: ListTensors, spread: float, loss: str) -> Callable[[], object]:
    """Return a function that does the next step of our training."""
    plan = ContextAware(features="concat", loss=loss, batch_size=BATCH).settings
    model = model_of("rank_xmodal", tensors, spread)
    step = Step(model, losses.get(loss), AdamW(model.parameters(), plan.lr, plan.weight_decay), plan)
    order = iter(_forever(len(tensors)))
    return lambda: step(tensors, next(order))


def theirs(tensors: ListTensors, spread: float, loss: str) -> Callable[[], object]:
    """Return a function that does the next step of allRank's: its model, loss and fit loop, on stored features."""
    model = model_of("allrank", tensors, spread)
    assert isinstance(model, AllRankRanker)
    function, optimizer = allrank_loss(loss), torch.optim.Adam(model.parameters(), lr=1e-3)
    stored = []
    for index in torch.arange(_BATCHES * BATCH).split(BATCH):
        batch, labels = tensors.batch(index)
        pair = torch.cat([batch.query[:, None].expand_as(batch.candidates), batch.candidates], dim=-1)
        stored.append((pair, labels.float(), torch.arange(pair.shape[1]).expand(pair.shape[:2])))
    place = iter(_forever(_BATCHES, 1))

    def step() -> None:
        # As in allrank.training.train_utils.loss_batch
        x, y, indices = stored[int(next(place))]
        loss_value = function(model.model(x, y == -1, indices), y)
        loss_value.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss_value.item()

    return step


def _forever(count: int, size: int = BATCH) -> Iterator[torch.Tensor]:
    while True:
        yield from (part for part in torch.arange(count).split(size) if len(part) == size)


def least_work(length: int = 51, dim: int = 512, d_model: int = 64, d_ff: int = 128, layers: int = 2) -> float:
    """Return the floating-point operations of a step: two for each weight and place forwards, twice that backwards."""
    places = BATCH * length
    weights = 4 * d_model**2 + 2 * d_model * d_ff + 2 * length * d_model  # and the two products of the attention
    # The input layer needs no gradient of its input; the query's half is needed once a list.
    return 2 * places * (3 * layers * weights + 2 * dim * d_model) + 2 * BATCH * 2 * dim * d_model


def built(side: Literal["ours", "theirs"], loss: str) -> Callable[[], object]:
    """Return a function that does the next step of one side."""
    tensors, spread = lists_of(embedding_set(2_000))
    return (ours if side == "ours" else theirs)(tensors, spread, loss)


def rows() -> Iterator[Row]:
    """Compare each loss of the paper."""
    limit = least_work() / matmul_rate()
    for loss in LOSSES:
        pairs = alternate_apart((built, ("ours", loss)), (built, ("theirs", loss)), times=20, repeats=7)
        yield row(f"training step, {loss}", "allRank", pairs, 5.0 if loss == "neuralndcg" else 3.0, limit=limit)
