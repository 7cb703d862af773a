"""What a loss says about itself, read from its function, and how a loss is found by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rank_xmodal.errors import UserError, did_you_mean

_INPUT = ("scores", "labels", "reduction")


@dataclass(frozen=True)
class Parameter:
    """One setting of a loss."""

    name: str
    type: str
    default: Any
    description: str


@dataclass(frozen=True)
class Loss:
    """A loss and all that the settings, the command line and the documentation need to know of it.

    Only the descriptions are written down here. Names, types and defaults of the parameters come from the signature of
    the function, so that they are stated once.
    """

    name: str
    function: Callable[..., Tensor]
    labels: Literal["binary", "graded"]
    """"graded": takes any labels of at least 0, binary ones included. "binary": 0 and 1 only."""
    paper: str
    descriptions: Mapping[str, str]
    why: str
    """Why the defaults are what they are, for scores of `ContextAwareRanker`: a unit is a list's spread of cosines."""
    parameters: tuple[Parameter, ...] = field(init=False)

    def __post_init__(self) -> None:
        signature = inspect.signature(self.function).parameters.values()
        settings = {p.name: p for p in signature if p.name not in _INPUT}
        if settings.keys() != self.descriptions.keys():
            raise TypeError(f"{self.name} takes {sorted(settings)} but describes {sorted(self.descriptions)}")
        # The modules of the losses postpone annotations, so an annotation is its source text.
        parameters = [Parameter(n, str(p.annotation), p.default, self.descriptions[n]) for n, p in settings.items()]
        object.__setattr__(self, "parameters", tuple(parameters))

    def configured(self, **params: Any) -> Callable[..., Tensor]:
        """Fix the parameters.

        Parameters
        ----------
        **params : Any
            Those left out keep their defaults.

        Returns
        -------
        Callable
            (scores, labels, reduction="mean") to the loss.

        Raises
        ------
        UserError
            An unknown parameter or a bad value.
        """
        known = [p.name for p in self.parameters]
        for name in params:
            if name not in known:
                takes = ", ".join(f"{p.name} (default {p.default})" for p in self.parameters) or "none"
                raise UserError(
                    f"loss {self.name!r} has no parameter {name!r}.{did_you_mean(name, known)} Its parameters: {takes}"
                )
        loss = functools.partial(self.function, **params)
        try:
            # A bad value should be met here, not after an hour of preparing data; and not on whatever device is the
            # default: where that is "meta", no value can be looked at.
            with torch.device("cpu"):
                loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        except ValueError as error:
            raise UserError(f"loss {self.name!r}: {error}") from error
        return loss
