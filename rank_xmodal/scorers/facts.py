"""What a run's config.json says, read with distrust: it may be damaged, of another version, or of another's hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from rank_xmodal.data.embedding_set import Direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.evaluation.judging import RANKER, SHOWN
from rank_xmodal.files import read_json
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.registry import parse

FORMAT = 3
_EARLIER = 2  # had rankers alone, without a base, and called the scorer `kind`
_ROWS = [Cosine.name, CSLS.name, RANKER]  # of runs that don't name them


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Base(_Model):
    settings: dict[str, Any]
    model: dict[str, Any]


class _Test(_Model):
    direction: Direction
    split: str
    queries: int
    gallery: int
    candidates: int = Field(ge=1)
    ceiling: FiniteFloat
    rows: list[str] = _ROWS

    @model_validator(mode="after")
    def _rows_have_figures(self) -> _Test:
        for row in self.rows:
            figures = (self.model_extra or {}).get(row)
            if not isinstance(figures, dict) or not all(isinstance(figures.get(n), (int, float)) for n in SHOWN):
                raise ValueError(f"the row {row!r} has no figures of {', '.join(SHOWN)}")
        return self


class _Facts(_Model):
    scorer: str | None = None
    settings: dict[str, Any]
    model: dict[str, Any] | None = None
    base: _Base | None = None
    direction: Direction | None = None
    fingerprint: str | None = None
    dataset: str | None = None
    encoder: dict[str, str | None] | None = None
    trained_on: list[str] = []
    best_epoch: int | None = None
    calibration: dict[str, FiniteFloat] | None = None
    history: list[dict[str, float]] = []
    sha256: dict[str, str] = {}
    test: _Test | dict[str, None] | None = None

    @model_validator(mode="after")
    def _calibration_is_one(self) -> _Facts:
        if self.calibration and set(self.calibration) != set(Calibration.__dataclass_fields__):
            raise ValueError(f"calibration names {', '.join(self.calibration)}")
        return self


def read_facts(path: Path) -> dict[str, Any]:
    """Read a run's config.json as this version writes it; those of the version before are understood.

    Raises
    ------
    UserError
        If it is missing, broken or of another version.
    """
    where = path / "config.json"
    facts = read_json(where)
    if not isinstance(facts, dict):
        raise UserError(f"{where}: holds a {type(facts).__name__}, not a run's facts. Train again.")
    facts = _of_today(facts, str(where))
    if facts.get("format") != FORMAT:
        raise UserError(f"{where}: format {repr(facts.get('format'))[:50]}, expected {FORMAT}. Train again.")
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise UserError(f"{where}: not a whole ranker ({place}: {first['msg']}). Train again.") from error
    return facts


def _of_today(facts: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an earlier version's facts in this one's words."""
    told, model = facts.get("settings"), facts.get("model")
    if not isinstance(told, dict):
        return facts
    if isinstance(model, dict) and "blocks" in model and told.get("features") == "full":
        # Before there were cross-fitted scores, full meant the embeddings.
        facts = {**facts, "settings": {**told, "features": "embeddings"}}
    if facts.get("format") == _EARLIER and facts.get("kind") in ("rank_xmodal", "allrank"):
        settings = parse({**facts["settings"], "ranker": facts["kind"]}, where)
        clip = {"settings": Cosine().settings.model_dump(mode="json"), "model": {}}
        dumped = settings.model_dump(mode="json")
        facts = {**facts, "format": FORMAT, "scorer": settings.scorer, "settings": dumped, "base": clip}
    return facts
