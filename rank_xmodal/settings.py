"""The settings of a training: one schema, read from YAML and from `key=value`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rank_xmodal import losses
from rank_xmodal.errors import UserError
from rank_xmodal.ranker import Block


class Settings(BaseModel):
    """How a ranker is built and trained. A key that is left out takes the default of its `features`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    loss: str = Field("listnet", description="one of rank_xmodal.losses.names()")
    loss_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the loss")
    features: Literal["full", "concat"] = Field("full", description="concat is the paper's recipe, to the letter")
    blocks: tuple[Block, ...] | None = Field(
        None, description="pair features; by default those of `features`, bilinear from 5,000 lists on"
    )
    without: tuple[Block, ...] = Field((), description="pair features to leave out of these")
    residual: bool | None = Field(None, description="add the first-stage score; None: with features full")
    ranker: Literal["rank_xmodal", "allrank"] = Field("rank_xmodal", description="whose model is trained")
    lists: Literal["natural", "clean", "paper"] = Field("natural", description="the miner's protocol for training")
    negatives: int = Field(50, ge=1, description="negatives in a list")
    pool: int | Literal["all", "auto"] = Field(
        "auto", description="see the miner; auto: 200, natural: as test's gallery"
    )
    d_model: int = Field(64, ge=1)
    layers: int = Field(1, ge=0)
    heads: int = Field(4, ge=1)
    d_ff: int = Field(128, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    epochs: int = Field(20, ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better validation before stopping early")
    batch_size: int = Field(64, ge=1, description="lists in a step")
    lr: float = Field(1e-3, gt=0)
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    refit: bool | Literal["auto"] = Field(
        "auto", description="train again on train and val once the epoch is chosen; auto: below 5,000 lists"
    )
    calibrate: bool = Field(False, description="fit probabilities of relevance on the validation split")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 ...")

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        if value not in losses.names():
            near = difflib.get_close_matches(value, losses.names(), n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"no such loss; {hint}Known are {', '.join(losses.names())}")
        return value


# The paper's recipe (its section on the experimental setup): what `features: concat` means unless a key says otherwise.
PAPER: dict[str, Any] = {
    "lists": "clean",
    "pool": 200,
    "layers": 2,
    "epochs": 100,
    "patience": 100,
    "batch_size": 32,
    "schedule": "constant",
    "weight_decay": 0.0,
    "refit": False,
}


def parse(values: dict[str, Any], where: str = "settings") -> Settings:
    """Check `values` and fill in the defaults of their `features`.

    Raises
    ------
    UserError
        For an unknown key, with the nearest known one, or a value of the wrong type or out of range.
    """
    known = Settings.model_fields
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where}: unknown key {key!r}.{hint} Known are {', '.join(known)}.")
    base = PAPER if values.get("features") == "concat" or values.get("ranker") == "allrank" else {}
    try:
        settings = Settings.model_validate({**base, **values})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise UserError(f"{where}: {key}={first['input']!r}: {message}.") from error
    if settings.d_model % settings.heads:
        raise UserError(f"{where}: d_model={settings.d_model} must be a multiple of heads={settings.heads}.")
    losses.get(settings.loss, **settings.loss_params)
    return settings


def read(path: Path | None, assignments: list[str], overrides: dict[str, Any] | None = None) -> Settings:
    """Read settings: a YAML file, then ``key=value`` in order, then `overrides` (whose None values don't count).

    Raises
    ------
    UserError
        If the file is no YAML mapping, an assignment has no "=", or as `parse`.
    """
    values: dict[str, Any] = {}
    where = "settings"
    if path is not None:
        where = str(path)
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise UserError(f"{path}: must hold `key: value` lines, found a {type(loaded).__name__}.")
        values.update(loaded or {})
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
        try:
            target[last] = _scalar(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment!r}: {value!r} is no YAML value.") from error
    values.update({key: value for key, value in (overrides or {}).items() if value is not None})
    return parse(values, where)


def _scalar(text: str) -> Any:
    """Read one YAML value; unlike YAML 1.1, take 1e-3 for the number it is."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
