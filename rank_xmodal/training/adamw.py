"""AdamW by PyTorch's fused kernel, without the class around it: its first use loads torch's compiler, 1 s and 70 MB."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.adamw import adamw


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with the betas and the epsilon of `torch.optim.AdamW`.

    Weights of two or more dimensions decay, biases and scales don't. With weight_decay 0 it is Adam.

    Attributes
    ----------
    lr : float
        Of the next step.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        for decayed, weight_decay in ((True, self.weight_decay), (False, 0.0)):
            places = [i for i, p in enumerate(self.parameters) if (p.ndim >= 2) is decayed and p.grad is not None]
            if not places:
                continue
            gradients = [self.parameters[i].grad for i in places]
            adamw(
                [self.parameters[i] for i in places],
                [g for g in gradients if g is not None],
                [self.means[i] for i in places],
                [self.squares[i] for i in places],
                [],
                [self.steps[i] for i in places],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.lr,
                weight_decay=weight_decay,
                eps=1e-8,
                maximize=False,
            )

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a training needs to go on, by name."""
        lists = {"mean": self.means, "square": self.squares, "step": self.steps}
        return {f"{name}.{i}": tensor for name, tensors in lists.items() for i, tensor in enumerate(tensors)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
