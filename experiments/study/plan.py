"""Plans: what a study compares, read from YAML and checked before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import experiments
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import Direction
from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.files import read_yaml
from rank_xmodal.scorers import ScorerSettings
from rank_xmodal.scorers.stack import COMPARED

FOLDER = Path(experiments.__file__).with_name("plans")
UNTRAINED = tuple(scorer.label for scorer in COMPARED)
"""Rows of every study: what each trial is compared with."""
Protocol = Literal["paper", "clean", "gallery"]
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Row:
    """What is trained for a row.

    Attributes
    ----------
    settings : ScorerSettings
    as_judged : bool
        Trained on lists of the protocol that it is judged by (`lists: judged`); for gallery, which has none, on clean.
    """

    settings: ScorerSettings
    as_judged: bool = False

    def trainings(self, protocols: tuple[Protocol, ...]) -> list[tuple[ScorerSettings, tuple[Protocol, ...]]]:
        """Return the fewest trainings that serve all protocols, and which each serves."""
        if not self.as_judged:
            return [(self.settings, protocols)]
        lists_of = {protocol: "paper" if protocol == "paper" else "clean" for protocol in protocols}
        return [
            (self.settings.model_copy(update={"lists": lists}), tuple(p for p in protocols if lists_of[p] == lists))
            for lists in dict.fromkeys(lists_of.values())
        ]


class Published(BaseModel):
    """Figures to print beside one's own: R@1, R@5 and R@10 in %; `note` says where they are from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    note: str = ""
    rows: dict[str, dict[Direction, tuple[float, float, float]]] = {}


class Plan(BaseModel):
    """A study before it is made: the keys of its file.

    CLIP and CSLS come on top of `rows`. Of a `grid`, key: list of values, each combination is a row. `judge` says which
    of the set's own splits is judged, `seeds` times; `folds` take the place of both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    rows: dict[str, Row]
    grid: dict[str, list[Any]] = {}
    against: tuple[str, ...] = ()
    protocols: tuple[Protocol, ...] = ("gallery",)
    judge: Literal["val", "test"] = "val"
    seeds: int = Field(5, ge=1)
    folds: int | None = Field(None, ge=2)
    permutations: int = Field(2, ge=1)
    published: Published = Published()

    @property
    def split(self) -> str:
        """The split that is judged."""
        return "test" if self.folds else self.judge

    @property
    def how(self) -> str:
        """What a row's figures are over, as titles say it."""
        if self.folds:
            return f"{self.folds} folds of {self.permutations} permutations"
        return f"{self.seeds} seed{'s' * (self.seeds > 1)}, {'validation' if self.judge == 'val' else 'test'} split"


def find(plan: str) -> Path:
    """Return the file of a plan, given as a path or by the name of one that comes along."""
    ours = {path.stem: path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "demo"}
    found = Path(plan) if Path(plan).is_file() else ours.get(plan)
    if found is None:
        raise UserError(f"{plan}: no such file or plan.{did_you_mean(plan, ours)} Plans are {', '.join(ours)}.")
    return found


def read_keys(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Read a YAML file that may hold these keys alone, and no name twice, which YAML would take without a word."""
    values = read_yaml(path)
    for key in values:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}.{did_you_mean(key, known)} Known are {', '.join(known)}.")
    for name in _twice(yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)):
        raise UserError(f"{path}: {name!r} stands twice in the same place. Give each a name of its own.")
    return values


def _twice(node: Any) -> Iterator[str]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    names = [key.value for key, _ in pairs]
    yield from (name for name in names if names.count(name) > 1)
    for _, value in pairs:
        yield from _twice(value)


def read(path: Path, assignments: list[str]) -> Plan:
    """Read a plan.

    Parameters
    ----------
    path : Path
    assignments : list of str
        key=value for all rows; they go before the file's `settings`, a row's own go before them.

    Raises
    ------
    UserError
        Whatever is wrong with it; names the file and the place.
    """
    values = read_keys(path, ["settings", *(key for key in Plan.model_fields if key != "name")])
    if bool(values.get("rows")) == ("grid" in values):
        raise UserError(f"{path}: must hold either rows (name: settings) or a grid (key: list of values).")
    fixed = _mapping(path, "settings", values.pop("settings", None))
    assigned = {assignment.partition("=")[0].strip().split(".")[0] for assignment in assignments}
    common = {key: value for key, value in fixed.items() if key not in assigned}
    rows: dict[str, Row] = {}
    for name, own in _points(path, values, fixed, assigned) if "grid" in values else _rows(path, values):
        where = f"{path}: {'the point' if 'grid' in values else 'rows:'} {name}"
        row = _row(where, {**common, **own}, assignments)
        for same in (other for other, known in rows.items() if known == row and "grid" in values):
            raise UserError(f"{where} is the same as {same}. Name each value once.")
        rows[name] = row
    if "published" in values:
        beside = path.parent / str(values["published"])
        file = beside if beside.is_file() else FOLDER / "published" / f"{values['published']}.yaml"
        values["published"] = _validated(file, Published, read_keys(file, Published.model_fields))
    values["against"] = values.get("against") or []
    plan = _validated(path, Plan, {**values, "name": path.stem, "rows": rows})
    for name in plan.against:
        if name not in (known := [*UNTRAINED, *rows]):
            hint = did_you_mean(name, known)
            raise UserError(f"{path}: against: {name!r} is no row.{hint} Rows are {', '.join(known)}.")
    return plan


def _rows(path: Path, values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, own in _mapping(path, "rows", values["rows"]).items():
        if name in UNTRAINED:
            raise UserError(f"{path}: rows: {name!r} is always there, untrained. Give the row another name.")
        yield str(name), _mapping(path, f"rows: {name}", own)


def _points(
    path: Path, values: dict[str, Any], fixed: Iterable[str], assigned: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each combination of a grid, the last key changing fastest: "d_model=64 heads=4"."""
    grid = values["grid"] = _mapping(path, "grid", values["grid"])
    if not grid:
        raise UserError(f"{path}: grid: must hold `key: [value, value]` lines.")
    for key, options in grid.items():
        if not isinstance(options, list) or not options:
            raise UserError(f"{path}: grid: {key}: {options!r} is no list of values. Write [value, value].")
        for where, keys in (("settings", fixed), ("--set", assigned)):
            if key in keys:
                raise UserError(f"{path}: grid: {key}: stands in {where}, too. Keep it in one of them.")
    for chosen in itertools.product(*grid.values()):
        yield " ".join(f"{key}={value}" for key, value in zip(grid, chosen, strict=True)), dict(zip(grid, chosen, strict=True))


def _row(where: str, values: dict[str, Any], assignments: list[str]) -> Row:
    as_judged = values.get("lists") == "judged"
    try:
        return Row(scorers.read(None, assignments, {**values, "lists": "clean"} if as_judged else values), as_judged)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('settings: ')}") from error


def _mapping(path: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise UserError(f"{path}: {where}: must hold `key: value` lines, found {value!r}.")
    return value or {}


def _validated(path: Path, model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}, found {first['input']!r}.") from error
