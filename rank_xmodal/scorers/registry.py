"""All scorers by name, and reading what is set of one."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.files import read_yaml, yaml_value
from rank_xmodal.scorers.allrank import AllRank
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.blip_itm import BlipITM
from rank_xmodal.scorers.chance import Chance
from rank_xmodal.scorers.context_aware.scorer import ContextAware
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.inverted_softmax import InvertedSoftmax
from rank_xmodal.scorers.local.heads import HEADS
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.cca import CCA
from rank_xmodal.scorers.projections.centred import Centred
from rank_xmodal.scorers.projections.cmpm import CMPM
from rank_xmodal.scorers.projections.convex import Convex
from rank_xmodal.scorers.projections.dcca import DCCA
from rank_xmodal.scorers.projections.gaussian import Gaussian
from rank_xmodal.scorers.projections.hash import Hash
from rank_xmodal.scorers.projections.itq import ITQ
from rank_xmodal.scorers.projections.linear import Linear
from rank_xmodal.scorers.projections.mlp import MLP
from rank_xmodal.scorers.projections.neighbours import Neighbours
from rank_xmodal.scorers.projections.posterior import Posterior
from rank_xmodal.scorers.projections.prototype import Prototype
from rank_xmodal.scorers.projections.vsepp import VSEPP
from rank_xmodal.scorers.remote import Remote
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.scorers.tuned_csls import TunedCSLS

DEFAULT = "context_aware"
GROUP = "rank_xmodal.scorers"
"""The entry-point group that an installed package names its scorers in: `mine = "package.module:Class"`."""

_OURS: tuple[type[Scorer], ...] = (
    Cosine,
    Centred,
    CSLS,
    TunedCSLS,
    InvertedSoftmax,
    CCA,
    DCCA,
    CMPM,
    VSEPP,
    Gaussian,
    Convex,
    Neighbours,
    Linear,
    Posterior,
    MLP,
    Prototype,
    Hash,
    ITQ,
    ContextAware,
    AllRank,
    *HEADS.values(),
    BlipITM,
    Remote,
    Chance,
)
_SCORERS = {scorer.name: scorer for scorer in _OURS}
_sought = False
ALIASES = ("ranker",)
"""Keys of earlier versions that settings may still have."""


def register(scorer: type[Scorer]) -> type[Scorer]:
    """Add a scorer of one's own; usable as a decorator.

    Raises
    ------
    UserError
        If the name is another scorer's.
    """
    if _SCORERS.setdefault(scorer.name, scorer) is not scorer:
        raise UserError(f"a scorer named {scorer.name!r} is there already ({_SCORERS[scorer.name].__module__}).")
    return scorer


def names() -> list[str]:
    """Return the names of all scorers."""
    _seek()
    return list(_SCORERS)


def class_of(name: str, where: str = "scorer") -> type[Scorer]:
    """Return the scorer of that name.

    Raises
    ------
    UserError
        An unknown name; names the nearest known one.
    """
    _seek()
    if name not in _SCORERS:
        raise UserError(
            f"{where}={name!r}: no such scorer.{did_you_mean(name, _SCORERS)} Known are {', '.join(_SCORERS)}."
        )
    return _SCORERS[name]


def get(name: str, **values: Any) -> Scorer:
    """Return a new scorer of that name, with these settings and else its defaults.

    Raises
    ------
    UserError
        An unknown name or setting; names the nearest known one.
    """
    return class_of(name)(**values)


def _seek() -> None:
    """Register what installed packages bring along, once."""
    global _sought
    if _sought:
        return
    _sought = True
    for entry in entry_points(group=GROUP):
        register(entry.load())


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings as this version names them: `ranker` of earlier ones is `scorer` today."""
    values = dict(values)
    kind = values.pop("ranker", None)
    if kind is not None and "scorer" not in values:
        values["scorer"] = DEFAULT if kind == "rank_xmodal" else kind
        if kind == "allrank":  # it never looked at these
            values = {key: v for key, v in values.items() if key not in ("features", "blocks", "without", "residual")}
    return values


def parse(values: dict[str, Any], where: str = "settings") -> ScorerSettings:
    """Check `values` by the schema of the scorer that they name, and fill in its defaults.

    Raises
    ------
    UserError
        For an unknown scorer or key, with the nearest known one, or a value of the wrong type or out of range.
    """
    values = upgraded(values)
    name = str(values.pop("scorer", DEFAULT))
    settings = class_of(name, f"{where}: scorer").Settings.checked(values, name, where)
    base = class_of(settings.on, f"{where}: on")
    if settings.on != Cosine.name:
        if not issubclass(base, Projection):
            maps = [other for other in names() if issubclass(_SCORERS[other], Projection)]
            raise UserError(
                f"{where}: on={settings.on!r}: has no space that another scorer could stand in. Use clip or one of "
                f"{', '.join(maps)}."
            )
        if not class_of(name)(settings).needs.base:
            raise UserError(
                f"{where}: on={settings.on!r}: {name} doesn't look at the score of what it stands on. Leave it out."
            )
    return settings


def read(path: Path | None, assignments: list[str], overrides: dict[str, Any] | None = None) -> ScorerSettings:
    """Read settings: a YAML file, then ``key=value`` in order, then `overrides` (whose None values don't count).

    Raises
    ------
    UserError
        If the file is no YAML mapping, an assignment has no "=", or as `parse`.
    """
    values = {} if path is None else read_yaml(path)
    where = "settings" if path is None else str(path)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment!r}: write it as key=value.")
        target = values
        *parents, last = key.strip().split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {assignment!r}: {parent!r} holds no keys of its own.")
        target[last] = _scalar(value, f"--set {assignment!r}")
    values.update({key: value for key, value in (overrides or {}).items() if value is not None})
    return parse(values, where)


def _scalar(text: str, where: str) -> Any:
    """Read one YAML value; unlike YAML 1.1, take 1e-3 for the number it is."""
    value = yaml_value(text, where)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
