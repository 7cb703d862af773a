"""What can be set of a scorer: a schema of its own for each, checked before anything is done."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from rank_xmodal import losses
from rank_xmodal.errors import UserError, did_you_mean

LARGEST = 2**32 - 1
"""No whole number of a setting, the seed among them, is larger: torch and numpy take any seed up to it, and what is
computed of it (seed times a million and the epoch) stays far below 64 bits."""


_ALSO = {
    "learning_rate": "lr", "learnrate": "lr", "random_state": "seed", "num_epochs": "epochs", "hidden_size": "d_model",
    "num_heads": "heads", "num_layers": "layers", "loss_function": "loss", "base": "on", "model": "scorer",
}  # fmt: skip
"""What other packages call some settings, for whoever guesses."""


class ScorerSettings(BaseModel):
    """What every scorer has. A scorer's own settings are a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scorer: str = Field("", description="its name in rank_xmodal.scorers.names()")
    on: str = Field("clip", description="the scorer whose scores and space it stands on")
    refit: bool | Literal["auto"] = Field(
        "auto",
        description="fit again on train and val once validation has chosen; auto: below 5,000 lists or queries",
    )
    calibrate: bool = Field(False, description="fit probabilities of relevance on the validation split")
    seed: int = Field(0, ge=0, le=LARGEST)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 ...")

    @model_validator(mode="before")
    @classmethod
    def _one_of_several(cls, values: Any) -> Any:
        """Take names without brackets for a list: local=pool,views is local=[pool,views]."""
        if not isinstance(values, dict):
            return values
        several = {key for key, field in cls.model_fields.items() if "tuple[" in str(field.annotation)}
        listed = {key for key in several & set(values) if isinstance(values[key], str)}
        return {key: [one.strip() for one in v.split(",")] if key in listed else v for key, v in values.items()}

    @field_validator("*")
    @classmethod
    def _not_beyond_all_counts(cls, value: Any) -> Any:
        if isinstance(value, int) and value > LARGEST:
            raise ValueError(f"Input should be less than or equal to {LARGEST}")
        return value

    @classmethod
    def _meant(cls, key: str, values: dict[str, Any]) -> str:
        return did_you_mean(key, cls.model_fields, _ALSO)

    @classmethod
    def defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return what is assumed beside `values` where it differs from the schema's own defaults."""
        return {}

    @classmethod
    def checked(cls, values: dict[str, Any], scorer: str, where: str = "settings") -> Self:
        """Check `values` and fill in what they leave out.

        Raises
        ------
        UserError
            For an unknown key, with the nearest known one, or a value of the wrong type or out of range.
        """
        for key in values:
            if key not in cls.model_fields:
                raise UserError(
                    f"{where}: unknown key {key!r} for scorer={scorer}.{cls._meant(key, values)} Known are "
                    f"{', '.join(cls.model_fields)}."
                )
        try:
            return cls.model_validate({**cls.defaults(values), **values, "scorer": scorer})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"][:1])
            found = f"{key}={first['input']!r}: " if key else ""
            message = first["msg"].removeprefix("Value error, ").rstrip(".")
            raise UserError(f"{where}: {found}{message}.") from error


class ListSettings(ScorerSettings):
    """Which lists a scorer is trained on, and by which loss."""

    loss: str = Field("listnet", description=f"one of {', '.join(losses.names())}")
    loss_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the loss")
    lists: Literal["natural", "clean", "paper"] = Field("natural", description="the miner's protocol for training")
    negatives: int = Field(50, ge=1, le=100_000, description="negatives in a list")
    pool: int | Literal["all", "auto"] = Field(
        "auto", description="see the miner; auto: 200, natural: as test's gallery"
    )

    @classmethod
    def _meant(cls, key: str, values: dict[str, Any]) -> str:
        loss = losses.REGISTRY.get(str(values.get("loss", cls.model_fields["loss"].default)))
        own = {one.name: f"loss_params.{one.name}" for one in loss.parameters} if loss else {}
        return did_you_mean(key, [*cls.model_fields, *own.values()], {**own, **_ALSO})

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        if value not in losses.names():
            raise ValueError(
                f"no such loss.{did_you_mean(value, losses.names())} Known are {', '.join(losses.names())}"
            )
        return value

    @model_validator(mode="after")
    def _loss_takes_them(self) -> Self:
        try:
            losses.get(self.loss, **self.loss_params)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self
