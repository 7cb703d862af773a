"""Class posteriors of each side on its own, compared: one scorer, four methods, in closed form or convex."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.projections.cca import Covariances, cca_maps
from rank_xmodal.scorers.projections.class_chosen import ClassChosen, Solver, class_labels, shares
from rank_xmodal.scorers.projections.logistic import blank_logistic, logistic
from rank_xmodal.scorers.projections.maps import Centred, Maps, apply
from rank_xmodal.scorers.projections.nearest import Nearest, neighbour_graph, propagate
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.projections.views import pairs_of
from rank_xmodal.scorers.settings import ScorerSettings

CITY_BLOCK = 1.0
_PENALTY = (1e-3, 1e-5, 1e-4, 1e-2, 1e-1)
# The first of each is taken without a validation.
_OPTIONS: dict[str, dict[str, tuple[float, ...]]] = {
    "sm": {"penalty": _PENALTY},
    "scm": {"penalty": _PENALTY, "ridge": (0.1, 0.001, 1.0)},
    "hsnn": {"neighbours": (30, 5, 10, 20, 50, 100, 200)},
    "cmcp": {"neighbours": (30, 5, 10, 20, 50, 100), "alpha": (0.1, 0.3, 0.5, 0.7, 0.9)},
}


class PosteriorSettings(ScorerSettings):
    """The method, and what it leaves open: None is chosen by class-level MAP on the split val, where there is one."""

    method: Literal["sm", "scm", "hsnn", "cmcp"] = "hsnn"
    similarity: Literal["dot", "cosine", "correlation"] = Field(
        "dot", description="of two posteriors: the probability of one class, their cosine, or that of the centred ones"
    )
    penalty: float | None = Field(
        None, gt=0, description="sm, scm: weight of the squared weights beside the mean cross-entropy"
    )
    ridge: float | None = Field(
        None, ge=0, description="scm: CCA's, share of the mean variance that is added to every variance"
    )
    neighbours: int | None = Field(None, ge=1, description="hsnn, cmcp: nearest training items of the same side")
    alpha: float | None = Field(None, ge=0, lt=1, description="cmcp: how far correlation spreads along the graph")


class Posterior(ClassChosen):
    r"""``score = sum_c P(c | q) P(c | c')``: the probability that both are of one class, each side judged on its own.

    - sm: multinomial logistic regression on the features of each side. scm: on its canonical components.
    - hsnn: votes of the k nearest training items of the same side.
    - cmcp: correlation between training images and texts, +1 where they share a class and -1 where they don't, spread
      over the graph of neighbours of each side:

      .. math::
          \sum_{ij} a_i(q) \, Z_{ij} \, b_j(c), \quad Z = (1 - \alpha)^2 (I - \alpha S)^{-1} (2 Y T' - 1 1')
          (I - \alpha R)^{-1}

      S and R are the normalised graphs of training images and texts, Y and T their classes, and a and b weigh the
      nearest training items of a new one by ``exp(-distance / mean distance)``. As ``1 = Y 1`` this is
      ``f (2 I - 1 1') g'`` of two vectors of one number a class: no table of all pairs is made.

    Neighbours are nearest by city block distance between raw features, which suits histograms as deep ones. Logistic
    regression takes features centred and divided by one number, so that columns keep what they have of the variance.
    An item of several classes is a sample of each, in equal parts; so is its vote.

    References
    ----------
    sm, scm: Rasiwasia et al.: A New Approach to Cross-Modal Multimedia Retrieval, ACM MM 2010; Costa Pereira et al.: On
    the Role of Correlation and Abstraction in Cross-Modal Multimedia Retrieval, TPAMI 2014. hsnn: Zhai et al.:
    Effective Heterogeneous Similarity Measure with Nearest Neighbors for Cross-Media Retrieval, MMM 2012, without its
    boosting over several k. cmcp: Zhai et al.: Cross-Modality Correlation Propagation for Cross-Media Retrieval, ICASSP
    2012.
    """

    name = "posterior"
    label = "class posterior"
    paper = "Rasiwasia et al.: A New Approach to Cross-Modal Multimedia Retrieval, ACM MM 2010"
    Settings: ClassVar[type[PosteriorSettings]] = PosteriorSettings
    takes_unaligned = True
    settings: PosteriorSettings

    @property
    def needs(self) -> Needs:
        """Classes."""
        return Needs(labels=True)

    def options(self, pairs: TrainingPairs) -> dict[str, tuple[Any, ...]]:
        """Return what the method reads."""
        return dict(_OPTIONS[self.settings.method])

    def solver(self, pairs: TrainingPairs, seed: int) -> Solver:
        """Return it for the method; without chance, so `seed` changes nothing."""
        tables, labels = (pairs.images, pairs.texts), class_labels(pairs)
        method = self.settings.method
        if method == "sm":
            return lambda values: _both(
                logistic(x, own, values["penalty"]) for x, own in zip(tables, labels, strict=True)
            )
        if method == "scm":
            return _canonical(pairs, labels)
        if method == "hsnn":
            return lambda values: _both(
                Nearest(x, shares(own), values["neighbours"], CITY_BLOCK) for x, own in zip(tables, labels, strict=True)
            )
        graph = cache(lambda side, k: neighbour_graph(tables[side], k, heat=True))

        def spread(side: int, values: Any) -> Nearest:
            edges, scale = graph(side, values["neighbours"])
            known = propagate(edges, shares(labels[side]), values["alpha"])
            return Nearest(tables[side], known, values["neighbours"], CITY_BLOCK, scale)

        return lambda values: (spread(0, values), spread(1, values))

    def as_query(self, mapped: Tensor) -> Tensor:
        """Return it as the similarity takes it; of cmcp's dot product with its negative correlations."""
        if self.settings.method == "cmcp" and self.settings.similarity == "dot":
            return 2 * mapped - mapped.sum(-1, keepdim=True)
        return self.as_candidate(mapped)

    def as_candidate(self, mapped: Tensor) -> Tensor:
        """Return it as the similarity takes it."""
        if self.settings.similarity == "dot":
            return mapped
        if self.settings.similarity == "correlation":
            mapped = mapped - mapped.mean(-1, keepdim=True)
        return F.normalize(mapped, dim=-1)

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return maps of the shapes in `config`."""
        return self._blank("image", config), self._blank("text", config)

    def _blank(self, side: str, config: dict[str, Any]) -> nn.Module:
        shapes = {key.removeprefix(f"{side}."): shape for key, shape in config["shapes"].items()}
        if self.settings.method == "sm":
            return blank_logistic(*shapes["0.weight"])
        if self.settings.method == "scm":
            return nn.Sequential(Centred.blank(*shapes["0.weight"]), blank_logistic(*shapes["1.0.weight"]))
        k = self.values["neighbours"]
        return Nearest(torch.zeros(shapes["known"]), torch.zeros(shapes["answers"]), k, CITY_BLOCK)


def _both(maps: Any) -> Maps:
    image, text = maps
    return image, text


def _canonical(pairs: TrainingPairs, labels: tuple[Tensor, Tensor]) -> Solver:
    covariances = Covariances.of_pairs(pairs.images, pairs.texts, *pairs_of(pairs))
    maps = cache(lambda ridge: cca_maps(covariances, ridge, power=0.0))

    def solve(values: Any) -> Maps:
        found = zip(maps(values["ridge"]), (pairs.images, pairs.texts), labels, strict=True)
        return _both(
            nn.Sequential(side, logistic(apply(side, table), own, values["penalty"])) for side, table, own in found
        )

    return solve
