"""SGRAF: a vector of similarity for each word and for the whole; reasoned on as a graph, and filtered by attention."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.base import Local, LocalSettings
from rank_xmodal.scorers.local.network import LocalNetwork, mean_of, unit
from rank_xmodal.scorers.local.pairing import Pairing
from rank_xmodal.scorers.local.scan import attention, by_lists, contexts, unit_or_shorter

_SHARPNESS = 9.0  # of a word's attention to cells
_STEPS = 3  # of reasoning


def similarity_vectors(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``W |a - b|^2 + w``, squared entry by entry, and brought to length 1, (..., k) -> (..., m).

    The paper has no w: how much a and b differ is then lost with the length, and only where is left.

    Parameters
    ----------
    a, b : Tensor (..., k)
    weight, bias : Tensor (m, k) and (m,)
        W and w.
    """
    return unit_or_shorter(F.linear((a - b).square(), weight, bias))


def filtered(nodes: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of similarity vectors by their relevance, the logistic function of `logits`, (..., m).

    Parameters
    ----------
    nodes : Tensor (..., N, m)
    logits, mask : Tensor (..., N) and (..., N), bool
    """
    relevance = logits.sigmoid() * mask
    weights = relevance / relevance.sum(-1, keepdim=True).clamp(min=1e-6)
    return (weights[..., None, :] @ nodes)[..., 0, :]


def reasoned(asking: Tensor, nodes: Tensor, edge: Tensor, update: Tensor, mask: Tensor) -> Tensor:
    """Return nodes after a step of reasoning, ``relu(W_r sum_q e_pq s_q)``, (..., A, m).

    The edges e of a node p are a softmax over the nodes q of ``(W_in s_p) (W_out s_q)``.

    Parameters
    ----------
    asking, nodes : Tensor (..., A, m) and (..., N, m)
        The nodes p and q.
    edge : Tensor (m, m)
        ``W_in' W_out``: one product in place of two.
    update : Tensor (m, m)
        W_r.
    mask : Tensor (..., N), bool
        Which q are nodes.
    """
    edges = (asking @ edge @ nodes.transpose(-1, -2)).masked_fill(~mask[..., None, :], -torch.inf).softmax(-1)
    return (edges @ nodes @ update.T).relu()


class SgrafSettings(LocalSettings):
    """What is made of the similarity vectors."""

    batch_size: int = Field(32, ge=2, description="pairs in a step")
    module: Literal["saf", "sgr", "both"] = Field("both", description="attention filtration, graph reasoning, or both")
    similarity_width: int = Field(256, ge=1, le=65_536, description="of a similarity vector")


class _Whole(nn.Module):
    """An item as a whole: the mean of its tokens by an attention that the plain mean asks for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token, self.mean, self.weight = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, tokens: Bag) -> Bag:
        """Return tokens with a whole of length 1, (n, k)."""
        common = self.token(tokens.values).tanh() * self.mean(mean_of(tokens)).tanh()[:, None]
        weights = self.weight(common)[..., 0].masked_fill(~tokens.mask, -torch.inf).softmax(-1)
        return Bag(tokens.values, tokens.mask, unit_or_shorter((weights[:, None] @ tokens.values)[:, 0]))


class _Reasoning(nn.Module):
    """SGR: nodes take over from each other, and the last step's global node says how similar."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out, self.update = (
            nn.ParameterList(nn.init.xavier_uniform_(torch.empty(width, width)) for _ in range(_STEPS))
            for _ in range(3)
        )
        self.similarity = nn.Linear(width, 1)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Return similarities, (..., N, m) -> (...)."""
        for step, (into, out, update) in enumerate(zip(self.into, self.out, self.update, strict=True), 1):
            asking = nodes if step < _STEPS else nodes[..., :1, :]  # nobody looks at the others again
            nodes = reasoned(asking, nodes, into.T @ out, update, mask)
        return self.similarity(nodes[..., 0, :])[..., 0]


class _Filtration(nn.Module):
    """SAF: what doesn't tell is filtered out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.relevance, self.similarity = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Return similarities, (..., N, m) -> (...)."""
        found = unit_or_shorter(filtered(nodes, self.relevance(nodes)[..., 0], mask))
        return self.similarity(found)[..., 0]


class _Network(LocalNetwork):
    def __init__(self, image_width: int, text_width: int, settings: SgrafSettings) -> None:
        super().__init__(image_width, text_width, settings)
        width, m = settings.width, settings.similarity_width
        self.image_whole, self.text_whole = _Whole(width), _Whole(width)
        self.words, self.wholes = nn.Linear(width, m), nn.Linear(width, m)
        self.reasoning = _Reasoning(m) if settings.module != "saf" else None
        self.filtration = _Filtration(m) if settings.module != "sgr" else None

    def encode_image(self, cells: Bag) -> Bag:
        """Return an image's cells, and the whole, of length 1."""
        return self.image_whole(unit(self.image(cells)))

    def encode_text(self, words: Bag) -> Bag:
        """Return a caption's words, and the whole, of length 1."""
        return self.text_whole(unit(self.text(words)))

    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        nodes, width = texts.values.shape[1] + 1, max(self.settings.width, self.settings.similarity_width)
        numbers = max(nodes * max(width, nodes, images.mask.shape[1]), images.values[0].numel())
        return by_lists(self._match, images, texts, pairing, numbers)

    def _match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        words, cells = pairing.texts(texts.values), pairing.images(images.values)
        weights = attention(pairing.products(texts.values, images.values), _SHARPNESS)
        found = unit_or_shorter(contexts(weights, cells, pairing.images(images.mask)))
        local = similarity_vectors(found, words, self.words.weight, self.words.bias)
        wholes = pairing.images(images.whole), pairing.texts(texts.whole)
        whole = similarity_vectors(*wholes, self.wholes.weight, self.wholes.bias)
        nodes = torch.cat([whole[:, :, None], local], 2)
        read = pairing.texts(texts.mask).expand(local.shape[:3])
        mask = torch.cat([torch.ones_like(read[..., :1]), read], 2)
        said = [module(nodes, mask) for module in (self.reasoning, self.filtration) if module is not None]
        return sum(said[1:], said[0]) / len(said)


class Sgraf(Local):
    """``score = the mean of what graph reasoning (SGR) and attention filtration (SAF) make of similarity vectors``.

    A word's vector compares it with the cells that it attends to as in `Scan`, the global one compares both items as
    wholes. There is no batch norm, neither where an item's whole is made nor in the filtration: images may have any
    number of cells, and a pair's similarity depends on no other. Both modules are trained together.

    References
    ----------
    Diao et al.: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, arXiv:2101.01368.
    """

    name = "sgraf"
    label = "SGRAF"
    paper = "Diao et al.: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, arXiv:2101.01368"
    Settings: ClassVar[type[SgrafSettings]] = SgrafSettings
    settings: SgrafSettings
    head = _Network
