"""Linear projections of two sides onto a common space, in closed form: one scorer, seven methods."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.projections import reweighted, views
from rank_xmodal.scorers.projections.cca import RIDGE, RIDGES, Covariances
from rank_xmodal.scorers.projections.class_chosen import ClassChosen, Solver, class_labels, shares
from rank_xmodal.scorers.projections.maps import Centred, Maps, apply
from rank_xmodal.scorers.projections.nearest import Nearest
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.settings import ScorerSettings

_COMPONENTS = (5, 7, 10, 20, 40, 80, 160)
_EUCLIDEAN = 2.0
_ALONE = ("cca", "pls", "kcca")  # read no classes
_RIDGE = (RIDGE, *(ridge for ridge in RIDGES if ridge != RIDGE))
_POWER = (1.0, 0.0, 4.0)
_SPARSE: dict[str, tuple[float, ...]] = {"graph": (1.0, 0.01, 0.1, 10.0), "sparsity": (0.01, 0.001, 0.03, 0.1)}
# The first of each is taken without a validation.
_OPTIONS: dict[str, dict[str, tuple[float, ...]]] = {
    "cca": {"ridge": _RIDGE, "power": _POWER},
    "pls": {"power": (0.0, 1.0)},
    "kcca": {"ridge": _RIDGE, "power": _POWER},
    "cca3": {"ridge": (0.1, 0.001, 0.01, 1.0), "power": (4.0, 0.0, 1.0)},
    "gmmfa": {"ridge": (0.1, 0.001, 0.01, 1.0), "coupling": (10.0, 1.0, 100.0), "power": (0.0, 1.0)},
    "jfssl": _SPARSE,
    "jrl": {**_SPARSE, "neighbours": (50, 10, 20, 100, 200)},
}


class LinearSettings(ScorerSettings):
    """The method, and what it leaves open: None is chosen by class-level MAP on the split val, where there is one."""

    method: Literal["cca", "pls", "kcca", "cca3", "gmmfa", "jfssl", "jrl"] = "cca3"
    ridge: float | None = Field(
        None, ge=0, description="cca, kcca, cca3, gmmfa: share of the mean variance that is added to every variance"
    )
    components: int | None = Field(
        None, ge=1, description="cca, pls, kcca, cca3, gmmfa: the first so many; without a validation all"
    )
    power: float | None = Field(
        None, ge=0, description="cca, pls, kcca, cca3, gmmfa: of each component's eigenvalue, its weight"
    )
    coupling: float | None = Field(None, ge=0, description="gmmfa: weight of the covariance between the sides")
    sparsity: float | None = Field(None, ge=0, description="jfssl, jrl: weight of the l21 norm")
    graph: float | None = Field(None, ge=0, description="jfssl, jrl: weight of the graph")
    neighbours: int | None = Field(None, ge=1, description="jrl: training items that vote on an item's class")


class Linear(ClassChosen):
    """``score = cosine(f(q), g(c))`` of linear maps; of jrl the probability that both are of one class.

    - cca: canonical correlations. pls: singular vectors of the cross-covariance. Neither reads classes.
    - kcca: canonical correlations of 500 random Fourier features of each side, Gaussian kernels as wide as the median
      distance. Lopez-Paz et al.: Randomized Nonlinear Component Analysis, ICML 2014, arXiv 1402.0119.
    - cca3: three-view CCA, classes as the third; eigenvalues to the power 4 weigh the components (`views.cca3`).
    - gmmfa: generalised multiview marginal Fisher analysis (`views.gmmfa`).
    - jfssl, jrl: sparse regression onto classes along a graph (`reweighted.SparseRegression`). As published, jrl then
      compares by votes of the nearest training items of both sides in that space: ``sum_c P(c | q) P(c | c')``.

    Features are centred, and each side divided by one number where its scale would matter: its columns keep what they
    have of the variance. An item of several classes counts for each in equal parts, and for all of them where a method
    asks whether two items share a class.

    References
    ----------
    See `views` and `reweighted`; Hotelling: Relations between two sets of variates, Biometrika 1936.
    """

    name = "linear"
    label = "linear"
    paper = "Gong et al.: A Multi-View Embedding Space for Modeling Internet Images, Tags, and Their Semantics, 2014"
    Settings: ClassVar[type[LinearSettings]] = LinearSettings
    takes_unaligned = True
    settings: LinearSettings

    @property
    def needs(self) -> Needs:
        """Classes, where the method reads them."""
        return Needs(labels=self.takes_classes)

    @property
    def takes_classes(self) -> bool:
        """All but cca, pls and kcca."""
        return self.settings.method not in _ALONE

    def options(self, pairs: TrainingPairs) -> dict[str, tuple[Any, ...]]:
        """Return what the method reads; of components no more than there can be."""
        method, (d, e) = self.settings.method, self.dims
        found: dict[str, tuple[Any, ...]] = dict(_OPTIONS[method])
        if "power" in found:
            most = views.FOURIER if method == "kcca" else d + e if method == "cca3" else min(d, e)
            power = found.pop("power")
            # How much a component counts is asked once it is known how many there are.
            found |= {"components": (most, *(k for k in _COMPONENTS if k < most)), "power": power}
        return found

    def solver(self, pairs: TrainingPairs, seed: int) -> Solver:
        """Return it for the method."""
        method = self.settings.method
        if method in ("cca", "pls"):
            covariances = Covariances.of_pairs(pairs.images, pairs.texts, *views.pairs_of(pairs))
            solve = views.cca(covariances) if method == "cca" else views.pls(covariances)
            return views.reader(solve, lambda a, b: (Centred(covariances.x_mean, a), Centred(covariances.y_mean, b)))
        if method == "kcca":
            return _kernel(pairs, seed)
        images, texts = views.Standard.of(pairs.images), views.Standard.of(pairs.texts)
        labels = class_labels(pairs)
        if method in ("jfssl", "jrl"):
            return self._sparse(pairs, images, texts, labels)
        solve = (views.cca3 if method == "cca3" else views.gmmfa)(pairs, images, texts, labels)
        return views.reader(solve, lambda a, b: (images.map(a), texts.map(b)))

    def _sparse(
        self, pairs: TrainingPairs, images: views.Standard, texts: views.Standard, labels: tuple[Tensor, Tensor]
    ) -> Solver:
        tables = images.table, texts.table
        voting = self.settings.method == "jrl"
        across = reweighted.same_pair(pairs) if voting else reweighted.same_class(labels)
        problem = reweighted.SparseRegression(tables, labels, reweighted.links(tables, across))
        solved = cache(problem.solve)
        answers = torch.cat([shares(own) for own in labels])

        def solve(values: Any) -> Maps:
            u, v = solved(values["sparsity"], values["graph"])
            image, text = images.map(u), texts.map(v)
            if not voting:
                return image, text
            known = torch.cat([apply(image, pairs.images), apply(text, pairs.texts)])
            # Safetensors refuses tensors that share memory: each side has its own copy.
            one, two = (Nearest(known.clone(), answers, values["neighbours"], _EUCLIDEAN) for _ in range(2))
            return nn.Sequential(image, one), nn.Sequential(text, two)

        return solve

    def as_query(self, mapped: Tensor) -> Tensor:
        """Return it of length 1; of jrl as it is."""
        return mapped if self.settings.method == "jrl" else super().as_query(mapped)

    def as_candidate(self, mapped: Tensor) -> Tensor:
        """Return it of length 1; of jrl as it is."""
        return mapped if self.settings.method == "jrl" else super().as_candidate(mapped)

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return maps of the shapes in `config`."""
        return self._blank("image", config), self._blank("text", config)

    def _blank(self, side: str, config: dict[str, Any]) -> nn.Module:
        shapes = {key.removeprefix(f"{side}."): shape for key, shape in config["shapes"].items()}
        if self.settings.method == "kcca":
            return nn.Sequential(views.Fourier.blank(shapes["0.frequency"][0]), Centred.blank(*shapes["1.weight"]))
        if self.settings.method == "jrl":
            known, k = torch.zeros(shapes["1.known"]), self.values["neighbours"]
            votes = Nearest(known, torch.zeros(shapes["1.answers"]), k, _EUCLIDEAN)
            return nn.Sequential(Centred.blank(*shapes["0.weight"]), votes)
        return Centred.blank(*shapes["weight"])


def _kernel(pairs: TrainingPairs, seed: int) -> Solver:
    draw = torch.Generator().manual_seed(seed)
    image, text = views.Fourier.drawn(pairs.images, draw), views.Fourier.drawn(pairs.texts, draw)
    covariances = Covariances.of_pairs(apply(image, pairs.images), apply(text, pairs.texts), *views.pairs_of(pairs))
    return views.reader(
        views.cca(covariances),
        lambda a, b: (
            nn.Sequential(image, Centred(covariances.x_mean, a)),
            nn.Sequential(text, Centred(covariances.y_mean, b)),
        ),
    )
