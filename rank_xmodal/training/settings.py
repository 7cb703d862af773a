"""The settings of a training on lists, whatever is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TrainingSettings(BaseModel):
    """How the training loop goes."""

    loss: str = Field("listnet", description="one of rank_xmodal.losses.names()")
    epochs: int = Field(20, ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better validation before stopping early")
    batch_size: int = Field(64, ge=1, description="lists in a step")
    lr: float = Field(1e-3, gt=0, le=100, description="largest of the schedule")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate")
    weight_decay: float = Field(0.01, ge=0, le=10_000, description="AdamW's, times the learning rate")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
