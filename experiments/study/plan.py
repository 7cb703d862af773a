"""Plans: what a study compares, read from YAML and checked before anything is trained."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import experiments
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import Direction
from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.files import read_yaml
from rank_xmodal.scorers import ScorerSettings
from rank_xmodal.scorers.chance import Chance
from rank_xmodal.scorers.registry import DEFAULT
from rank_xmodal.scorers.stack import COMPARED

FOLDER = Path(experiments.__file__).with_name("plans")
UNTRAINED = tuple(scorer.label for scorer in COMPARED)
"""Rows of every study: what each trial is compared with."""
Protocol = Literal["paper", "clean", "gallery"]


@dataclass(frozen=True)
class Row:
    """What is trained for a row; `as_judged` (`lists: judged`) on lists of the protocol that it is judged by."""

    settings: ScorerSettings
    as_judged: bool = False

    def settings_for(self, protocol: Protocol, seed: int) -> ScorerSettings:
        """Return the settings of a training: gallery has no lists to be trained on, clean ones are nearest to it."""
        lists = {"lists": "paper" if protocol == "paper" else "clean"} if self.as_judged else {}
        return self.settings.model_copy(update={**lists, "seed": self.settings.seed + seed})


class Published(BaseModel):
    """A file of figures of others: R@1, R@5 and R@10 in %, or in words those on other features; where they are from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: dict[str, dict[Direction, tuple[float, float, float]]] = {}
    elsewhere: dict[str, str] = {}
    note: str = ""


class PlanFile(BaseModel):
    """The keys of a plan's file.

    Of a `grid` each combination is a row. `judge` says which of the set's own splits is judged, `seeds` times; `folds`
    take the place of both. `tested` is the metric of gains and p-values. `cost` times every row, too. With `fitting`,
    rows that a set can't serve are left out and named, and a column says what each needs. `published` names a file of
    figures to print beside one's own; `note` ends each caption.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    rows: dict[str, dict[str, Any] | None] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    settings: dict[str, Any] | None = None
    against: tuple[str, ...] | None = None
    protocols: tuple[Protocol, ...] = ("gallery",)
    judge: Literal["val", "test"] = "val"
    seeds: int = Field(5, ge=1, le=10_000)
    folds: int | None = Field(None, ge=2, le=1_000_000)
    permutations: int = Field(2, ge=1, le=10_000)
    tested: Literal["R@1", "class MAP"] = "R@1"
    cost: bool = False
    fitting: bool = False
    published: str | None = None
    note: str = ""


class Plan(PlanFile):
    """A study before it is made; CLIP and CSLS come on top of what is `trained`, published figures stand `beside`."""

    name: str
    trained: dict[str, Row]
    beside: Published

    @property
    def split(self) -> str:
        """The split that is judged."""
        return "test" if self.folds else self.judge


_File = TypeVar("_File", bound=BaseModel)


def read_as(schema: type[_File], path: Path) -> _File:
    """Read a YAML file by a schema."""
    values = read_yaml(path)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        *above, key = map(str, first["loc"])
        if first["type"] == "extra_forbidden":
            hint = f"{did_you_mean(key, schema.model_fields)} Known are {', '.join(schema.model_fields)}"
            raise UserError(f"{path}: unknown key {key!r}.{hint}.") from error
        raise UserError(f"{path}: {': '.join([*above, key])}: {first['msg']}, found {first['input']!r}.") from error


def read(path: Path, assignments: list[str]) -> Plan:
    """Read a plan; a UserError names the file and the place of whatever is wrong with it.

    Assignments, key=value for all rows, go before the file's `settings`, and a row's own go before them; what is said
    of all rows counts for those whose scorer has such a setting.
    """
    file = read_as(PlanFile, path)
    if bool(file.rows) == bool(file.grid):
        raise UserError(f"{path}: must hold either rows (name: settings) or a grid (key: list of values).")
    if file.tested == CLASS_MAP and (file.grid or file.protocols != ("gallery",)):
        why = "a grid is chosen by MRR" if file.grid else f"{', '.join(file.protocols)} are lists, not a whole gallery"
        raise UserError(f"{path}: tested: {CLASS_MAP} is of a whole gallery: {why}. Leave one of the two out.")
    assigned = {_key(assignment) for assignment in assignments}
    common = {key: value for key, value in (file.settings or {}).items() if key not in assigned}
    for key in file.grid:
        if key in assigned or key in common:
            where = "--set" if key in assigned else "settings"
            raise UserError(f"{path}: grid: {key}: stands in {where}, too. Keep it in one of them.")
    _check_common(path, file, common, assignments)
    points = (dict(zip(file.grid, values, strict=True)) for values in itertools.product(*file.grid.values()))
    named = [(" ".join(f"{key}={value}" for key, value in point.items()), point) for point in points if point]
    trained: dict[str, Row] = {}
    for name, own in named or file.rows.items():
        where = f"{path}: {'the point' if file.grid else 'rows:'} {name}"
        if name in UNTRAINED:
            raise UserError(f"{path}: rows: {name!r} is always there, untrained. Give the row another name.")
        row = _row(where, common, own or {}, assignments)
        for same in (other for other, known in trained.items() if file.grid and known == row):
            raise UserError(f"{where} is the same as {same}. Name each value once.")
        trained[name] = row
    for name in file.against or ():
        if name not in (known := [*UNTRAINED, Chance.label, *trained]):
            hint = did_you_mean(name, known)
            raise UserError(f"{path}: against: {name!r} is no row.{hint} Rows are {', '.join(known)}.")
    beside = Published()
    if file.published:
        own_file, ours = path.parent / file.published, FOLDER / "published" / f"{file.published}.yaml"
        beside = read_as(Published, own_file if own_file.is_file() else ours)
    return Plan(**dict(file), name=path.stem, trained=trained, beside=beside)


def _check_common(path: Path, file: PlanFile, common: dict[str, Any], assignments: list[str]) -> None:
    """Check that what is said of all rows is a setting of one of them at least."""
    of_rows = [scorers.upgraded({**common, **(own or {})}).get("scorer", DEFAULT) for own in file.rows.values()]
    of_grid = file.grid.get("scorer", [scorers.upgraded(common).get("scorer", DEFAULT)])
    classes = [scorers.class_of(str(name)) for name in of_rows or of_grid if name in scorers.names()]
    known = {key for one in classes for key in one.Settings.model_fields} | set(scorers.ALIASES)
    for where, keys in ((f"{path}: settings", common), ("--set", map(_key, assignments))):
        for key in keys:
            if classes and key not in known:
                classes[0].Settings.checked({key: None}, classes[0].name, where)  # says which there are


def _row(where: str, common: dict[str, Any], own: dict[str, Any], assignments: list[str]) -> Row:
    try:
        scorer = str(scorers.upgraded({**common, **own}).get("scorer", DEFAULT))
        known = {*scorers.class_of(scorer).Settings.model_fields, *scorers.ALIASES}
        values = {**{key: value for key, value in common.items() if key in known}, **own}
        as_judged = values.get("lists") == "judged"
        fitting = [text for text in assignments if _key(text) in known]
        return Row(scorers.read(None, fitting, {**values, "lists": "clean"} if as_judged else values), as_judged)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('settings: ')}") from error


def _key(assignment: str) -> str:
    return assignment.partition("=")[0].strip().split(".")[0]
