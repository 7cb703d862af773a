"""Hubness in a head's own similarity: how near a candidate is to whatever is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.lists.bags import Bag, TokenTable
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.retrieval.query_bank import NEIGHBOURS, choose_bank, hubness
from rank_xmodal.scorers.local.network import LocalNetwork, mean_of
from rank_xmodal.scorers.local.pairing import OfLists

LARGEST = 1_000  # queries in the bank: their tokens are kept with the head
_MATCHED = 30  # of them with each candidate, those nearest by their means: as much work as a list
_ITSELF = 0.9995  # cosine of means, above which a candidate is a known one
_BLOCK = 64  # items at a time


@dataclass(frozen=True)
class HeadBank:
    """Training queries as a head encodes them.

    Attributes
    ----------
    queries : Bag of m
    owned : Tensor (k, e)
        Means of what these queries ask for, length 1.
    owner : Tensor (k,), int64
        Which query asks for each.
    """

    queries: Bag
    owned: Tensor
    owner: Tensor

    @classmethod
    def of(
        cls, network: LocalNetwork, data: EmbeddingSet, direction: Direction, seed: int, device: torch.device
    ) -> Self:
        """Draw the bank from the split train."""
        images, texts = tables_of(data)
        rows = choose_bank(data, direction, largest=LARGEST, seed=seed)
        matrix = data.relevance_matrix(direction)[rows].tocsr()
        asked, place = np.unique(matrix.indices, return_inverse=True)
        queries = _encoded(network, (images, texts), direction == "t2i", rows, device)
        means = _item(_encoded(network, (images, texts), direction == "i2t", asked, device), network)
        owner = np.repeat(np.arange(len(rows)), np.diff(matrix.indptr))
        at = torch.from_numpy(place.astype(np.int64)).to(device)
        kept = Bag(_stored(queries.values), queries.mask, _stored(queries.whole))
        return cls(kept, _stored(means[at]), torch.from_numpy(owner).to(device))

    @torch.no_grad()
    def hubness(self, network: LocalNetwork, candidates: Bag, direction: Direction) -> Tensor:
        """Return the mean of each candidate's ten largest similarities to the bank, (n,) float32, as CSLS has it.

        Only the thirty bank queries nearest by their means are compared; where a head's similarity has little to do
        with the means, as SGRAF's, that is a rough guess. What asks for the candidate itself is left out: a corpus may
        hold training items.
        """
        blocks = torch.arange(len(candidates), device=candidates.mask.device).split(_BLOCK)
        return torch.cat([self._of_some(network, candidates.take(rows), direction) for rows in blocks])

    def _of_some(self, network: LocalNetwork, candidates: Bag, direction: Direction) -> Tensor:
        means = _item(candidates, network)
        candidate, known = (means @ self.owned.T > _ITSELF).nonzero(as_tuple=True)
        asked = torch.zeros(len(means), len(self.queries), dtype=torch.bool, device=means.device)
        asked[candidate, self.owner[known]] = True
        near = (means @ _item(self.queries, network).T).masked_fill(asked, -torch.inf)
        near = near.topk(min(_MATCHED, near.shape[1]), dim=1).indices
        used, place = torch.unique(near, return_inverse=True)
        queries = self.queries.take(used)
        # Here the candidate has a list of queries: the other direction.
        if direction == "t2i":
            found = network.match(candidates, queries, OfLists("i2t", place))
        else:
            found = network.match(queries, candidates, OfLists("t2i", place))
        found = found.float().masked_fill(asked.gather(1, near), -torch.inf)
        return hubness(found.topk(min(NEIGHBOURS, found.shape[1]), dim=1).values)

    def state(self) -> dict[str, Tensor]:
        """Return its tensors by name, in float16."""
        queries = self.queries
        return {
            "values": queries.values.half(), "mask": queries.mask, "whole": queries.whole.half(),
            "owned": self.owned.half(), "owner": self.owner,
        }  # fmt: skip

    @classmethod
    def read(cls, state: dict[str, Tensor]) -> Self:
        """Return what `state` gave."""
        queries = Bag(state["values"].float(), state["mask"], state["whole"].float())
        return cls(queries, state["owned"].float(), state["owner"])

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        return type(self)(self.queries.to(device), self.owned.to(device), self.owner.to(device))


def _stored(values: Tensor) -> Tensor:
    """Round to float16, as they are kept: a head that was loaded scores as it did before."""
    return values.half().float()


def _item(encoded: Bag, network: LocalNetwork) -> Tensor:
    """Return the mean of each item's tokens, length 1, (n, k); of a head that keeps none what it keeps of the item."""
    width = network.settings.width
    return F.normalize(mean_of(encoded) if encoded.mask.shape[1] else encoded.whole[:, :width], dim=-1)


@torch.no_grad()
def _encoded(
    network: LocalNetwork, tables: tuple[TokenTable, TokenTable], captions: bool, rows: np.ndarray, device: torch.device
) -> Bag:
    encode, table = (network.encode_text, tables[1]) if captions else (network.encode_image, tables[0])
    blocks = torch.from_numpy(rows.astype(np.int64)).split(_BLOCK)
    return Bag.join([encode(table.take(block).to(device)) for block in blocks])
