"""A scorer on its base, with the query bank that they need: all that turns a query and candidates into scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.lists.list_tensors import ListTensors, Near
from rank_xmodal.lists.scoring import HeldOut, score_lists
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.gallery import DEPTH, RankedGallery, rank_gallery
from rank_xmodal.retrieval.query_bank import Neighbours, choose_bank, neighbours, query_groups, training_neighbours
from rank_xmodal.retrieval.retriever import Space, Unmapped
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.chance import Chance
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.training.watch import Watch

_DEEPEST, _PAIRS = 5_000, 5_000_000  # of a list where the sides are not aligned, and of all lists of a split


def unaligned_depth(data: EmbeddingSet, direction: Direction, split: str) -> int:
    """Return the length of lists where the sides are not aligned: the whole of most galleries.

    Up to 5,000 candidates, and fewer where there are very many queries, so that judging them takes half a gigabyte.
    """
    queries = max(1, len(data.query_rows(direction, split)))
    return max(DEPTH, min(_DEEPEST, _PAIRS // queries))


def depth_of(data: EmbeddingSet, direction: Direction, split: str) -> int:
    """Return the length of the lists that a split is judged on, unless told otherwise."""
    return DEPTH if data.aligned else unaligned_depth(data, direction, split)


@dataclass(frozen=True)
class Stack:
    """A scorer and what it stands on.

    Attributes
    ----------
    scorer : Scorer
    bank : ndarray (m, d), float16
        The query bank: embeddings of training queries.
    base : Scorer
        Its cosines are the first-stage score that the scorer sees, and hubness is measured in its space. CLIP by
        default.
    """

    scorer: Scorer
    bank: np.ndarray
    base: Scorer = field(default_factory=Cosine)

    @property
    def space(self) -> Space:
        """Where the base compares both sides."""
        space = self.base.space
        if space is None:
            raise RuntimeError(f"{self.base.name}: fit comes before use.")
        return space

    @property
    def own_space(self) -> Space | None:
        """Where a first stage of its own searches: the scorer's space, else its base's; None where that is CLIP's."""
        space = self.scorer.space or self.space
        return None if isinstance(space, Unmapped) else space

    @property
    def dims(self) -> tuple[int, int] | None:
        """Width of queries and of candidates where the sides are not aligned; None where both are of one space."""
        space = self.own_space
        if self.bank.dtype != np.float32 or not isinstance(space, Projection):
            return None
        return space.dims if space.direction == "i2t" else space.dims[::-1]

    @property
    def own_first_stage(self) -> str:
        """What such a first stage is called."""
        return self.scorer.name if self.scorer.space is not None else self.base.name

    def neighbours(self, candidates: np.ndarray, own: sp.csr_matrix | None = None) -> Neighbours:
        """Find every candidate's nearest bank queries in the base's space, (m, d) embeddings; none if nobody looks.

        `own` is as `query_bank.neighbours` takes it.
        """
        if not self.scorer.needs.neighbours:
            return Neighbours.none(len(candidates))
        return neighbours(candidates, self.bank, own, self.space)

    def tensors(
        self, data: EmbeddingSet, lists: CandidateLists, device: torch.device, near: Near | None = None
    ) -> ListTensors:
        """Return lists of queries that stand in no bank, ready to be scored; `near` finds neighbours, or it does."""
        needs, candidates = self.scorer.needs, data.candidates(check_direction(lists.direction))
        near = near or (lambda rows: self.neighbours(np.asarray(candidates[rows])))
        return ListTensors.gather(
            data, lists, near, device, in_bank=False, cosine=self._cosine(data, lists), tokens=needs.tokens,
            content=needs.content,
        )  # fmt: skip

    def _cosine(self, data: EmbeddingSet, lists: CandidateLists) -> np.ndarray | None:
        """Return the base's score of every pair, (Q, L) float32; None where it is the lists' own cosine."""
        space, direction = self.space, check_direction(lists.direction)
        if isinstance(space, Unmapped):
            return None
        queries = space.map_queries(np.asarray(data.queries(direction)[lists.query]))
        rows, place = np.unique(np.maximum(lists.candidates, 0), return_inverse=True)
        candidates = space.map_candidates(np.asarray(data.candidates(direction)[rows]))
        places = np.where(lists.candidates < 0, -1, place.reshape(lists.candidates.shape))
        return exact_cosine(queries, candidates, np.arange(len(queries)), places)

    def without(self, queries: np.ndarray) -> Stack:
        """Return the same with a bank that lacks these queries, (n, d) as stored; all of it where it has no others."""
        asked = {row.tobytes() for row in np.asarray(queries)}
        others = np.array([row.tobytes() not in asked for row in self.bank])
        return replace(self, bank=self.bank[others] if others.any() else self.bank)

    def to(self, device: torch.device) -> Stack:
        """Move the tensors of both and return itself."""
        self.scorer.to(device)
        self.base.to(device)
        return self


@dataclass(frozen=True)
class TrainingPart:
    """Lists to train on, and the set whose split train is all that the base may know when it scores them.

    With a base that is fitted on pairs, `knows` must not hold the pairs of the lists: a map that has seen a list's own
    pair makes the list look solved.
    """

    lists: CandidateLists
    knows: EmbeddingSet


def first_gallery(
    stack: Stack, data: EmbeddingSet, direction: Direction, split: str, depth: int | None = None, *, own: bool = False,
    queries: np.ndarray | None = None,
) -> RankedGallery:  # fmt: skip
    """Return the lists that a fitted stack is judged on: CLIP's, or its own where asked for or sides are not aligned.

    Lists have `depth` places. If not given, 51; where the sides are not aligned the whole gallery, if that is not too
    large (`unaligned_depth`): only so does a random order of them say what chance finds.

    Raises
    ------
    UserError
        As `rank_gallery`, or if it has no space of its own to search in.
    """
    depth = depth or depth_of(data, direction, split)
    if data.aligned and not own:
        return rank_gallery(data, direction, split, depth, queries=queries)
    if stack.own_space is None:
        raise UserError(
            f"--first-stage own: {stack.scorer.label} reorders what another first stage found; it has no space to "
            "search in. Use --first-stage clip."
        )
    return rank_gallery(
        data, direction, split, depth, space=stack.own_space, first_stage=stack.own_first_stage, queries=queries
    )


def check_aligned(scorer: Scorer, base: Scorer, data: EmbeddingSet, takers: Sequence[str]) -> None:
    """Check that a scorer on a base can do without a common space, where the set has none.

    Parameters
    ----------
    scorer, base : Scorer
    data : EmbeddingSet
    takers : sequence of str
        Names of scorers that make a space of their own, for the message.

    Raises
    ------
    UserError
        If it can't.
    """
    # What makes the space: chance takes any set, but finds no candidates.
    space = base if scorer.needs.base or scorer.needs.neighbours else scorer
    able = scorer.takes_unaligned and space.takes_unaligned and isinstance(space, Projection)
    if not data.aligned and not able:
        on = f", on={base.name}" if scorer.takes_unaligned else ""
        raise UserError(
            f"{data.root or data.name}: its images and texts lie in no common space, and scorer={scorer.name}{on} "
            f"compares them in one. Choose one that makes a space: {', '.join(takers)}."
        )


def fit_stack(
    scorer: Scorer,
    data: EmbeddingSet,
    direction: Direction,
    *,
    base: Scorer | None = None,
    parts: Sequence[TrainingPart] = (),
    validation: RankedGallery | None = None,
    seed: int = 0,
    device: torch.device,
    watch: Watch | None = None,
) -> Stack:
    """Fit a scorer on its base, both on the split train, and return them with their query bank.

    Parameters
    ----------
    scorer, base : Scorer
        Not fitted yet; without a base it is CLIP.
    data : EmbeddingSet
    direction : "t2i" or "i2t"
    parts : sequence of TrainingPart
        Training lists, where the scorer needs them: one part with `data` itself, or of a base that is fitted on pairs
        one for each inner fold.
    validation : RankedGallery or None
        Chooses epochs and settings.
    seed : int
    device : torch.device
    watch : Watch or None
        Of the scorer's fit.

    Raises
    ------
    UserError
        As the fits.
    """
    rows = choose_bank(data, direction, seed=seed)
    bank = np.asarray(data.queries(direction)[rows], dtype=data.dtype)
    base = base or Cosine()
    by_cosine = None
    if validation is not None:
        group = query_groups(data, direction)[validation.lists.query]
        by_cosine = HeldOut(validation, Stack(Cosine(), bank).tensors(data, validation.lists, device), group)
    base.fit(data, direction, validation=by_cosine, seed=seed)
    stack = Stack(scorer, bank, base)
    lists = None
    if scorer.needs.lists:
        lists = ListTensors.join(
            [_training_tensors(stack, data, direction, part, rows, seed, device) for part in parts]
        )
    held_out = by_cosine
    if validation is not None and (scorer.needs.base or scorer.needs.neighbours or scorer.needs.tokens):
        held_out = HeldOut(validation, stack.tensors(data, validation.lists, device), group)
    scorer.fit(data, direction, lists=lists, validation=held_out, seed=seed, watch=watch)
    return stack


def _training_tensors(
    stack: Stack,
    data: EmbeddingSet,
    direction: Direction,
    part: TrainingPart,
    bank_rows: np.ndarray,
    seed: int,
    device: torch.device,
) -> ListTensors:
    if part.knows is data:

        def near(rows: np.ndarray) -> Neighbours:
            if not stack.scorer.needs.neighbours:
                return Neighbours.none(len(rows))
            return training_neighbours(data, direction, bank_rows, rows, stack.space)

        cosine = stack._cosine(data, part.lists)
        needs = stack.scorer.needs
        return ListTensors.gather(
            data, part.lists, near, device, in_bank=True, cosine=cosine, tokens=needs.tokens, content=needs.content
        )
    # Out of fold: neither the base nor the bank has met the lists' queries or candidates.
    features = None
    if stack.scorer.out_of_fold is not None:
        features = stack.scorer.fit_out_of_fold(part.knows, direction, seed, device)
    base = stack.base.refitting().fit(part.knows, direction, seed=seed)
    bank = np.asarray(data.queries(direction)[choose_bank(part.knows, direction, seed=seed)])
    tensors = Stack(stack.scorer, bank, base).tensors(data, part.lists, device)
    if features is None:
        return tensors
    # Lists that bring their features are scored by these: nobody looks at embeddings or tokens again.
    nothing = tensors.candidates.new_empty(len(tensors.candidates), 0)
    return replace(tensors, candidates=nothing, features=features(tensors), tokens=None)


COMPARED = (Cosine, CSLS)
"""What every run is compared with: needs no training, on the same lists and with the run's own query bank."""


def rows_of(stack: Stack, data: EmbeddingSet) -> dict[str, Stack]:
    """Return the rows of a run's report, the run's own as "ranker" behind what it is compared with and made of.

    The first of them is what it is held against: CLIP, or a random order where the sides of the set are not aligned,
    for there nothing else needs no training.
    """
    if not data.aligned:
        return {Chance.name: Stack(Chance(), stack.bank), RANKER: stack}
    clip = stack.base if isinstance(stack.base, Cosine) else Cosine()
    rows = {**{scorer.name: scorer() for scorer in COMPARED}, **stack.scorer.parts}
    return {**{name: Stack(scorer, stack.bank, clip) for name, scorer in rows.items()}, RANKER: stack}


def score_rows(
    rows: Mapping[str, Stack],
    data: EmbeddingSet,
    lists: CandidateLists,
    device: torch.device,
    near: Callable[[Stack], Near] | None = None,
) -> dict[str, torch.Tensor]:
    """Return each row's scores of the same lists, (Q, L) float32 on the CPU, by the row's name.

    `near` is asked for what finds a row's neighbours, where that is known.
    """
    scores: dict[str, torch.Tensor] = {}
    prepared: dict[tuple[int, int, bool, bool, bool], ListTensors] = {}
    for name, stack in rows.items():
        needs = stack.scorer.needs
        key = (id(stack.base), id(stack.bank), needs.neighbours, needs.tokens, needs.content)
        if key not in prepared:
            prepared[key] = stack.tensors(data, lists, device, near(stack) if near and needs.neighbours else None)
        scores[name] = score_lists(stack.to(device).scorer, prepared[key])
    return scores
