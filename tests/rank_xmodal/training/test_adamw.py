"""AdamW: the same steps as torch.optim's, to the bit, and a state that goes on."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from rank_xmodal.training.adamw import AdamW


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 1))


def steps(model, optimizer, numbers, rates=(1e-3, 3e-3, 1e-2)):
    for number in numbers:
        torch.manual_seed(number)
        optimizer.zero_grad()
        model(torch.randn(11, 5)).square().sum().backward()
        if isinstance(optimizer, AdamW):
            optimizer.lr = rates[number % 3]
        else:
            for group in optimizer.param_groups:
                group["lr"] = rates[number % 3]
        optimizer.step()


def reference(model, weight_decay):
    matrices, vectors = ([p for p in model.parameters() if (p.ndim >= 2) is wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_its_steps_are_those_of_torch(weight_decay):
    ours, theirs = model(), model()
    steps(ours, AdamW(ours.parameters(), 1e-3, weight_decay), range(9))
    steps(theirs, reference(theirs, weight_decay), range(9))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(ours[0].weight, model()[0].weight)


def test_a_state_goes_on_as_if_nothing_had_happened():
    whole, first, second = model(), model(), model(1)
    steps(whole, AdamW(whole.parameters(), 1e-3, 0.1), range(6))
    optimizer = AdamW(first.parameters(), 1e-3, 0.1)
    steps(first, optimizer, range(3))
    resumed = AdamW(second.parameters(), 1e-3, 0.1)
    resumed.load({name: value.clone() for name, value in optimizer.state().items()})
    second.load_state_dict(first.state_dict())
    steps(second, resumed, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_parameter_without_a_gradient_stays():
    part = model()
    optimizer = AdamW(part.parameters(), 1e-3, 0.1)
    before = part[0].weight.clone()
    part[2](torch.randn(3, 7)).sum().backward()
    optimizer.step()
    assert torch.equal(part[0].weight, before)
    assert float(optimizer.steps[0]) == 0
    assert float(optimizer.steps[-1]) == 1


def test_a_step_does_not_load_the_compiler():
    code = (
        "import sys, torch; from rank_xmodal.training.adamw import AdamW; p = torch.nn.Parameter(torch.ones(2, 2));"
        "o = AdamW([p], 1e-3, 0.0); p.sum().backward(); o.step(); print('torch._dynamo' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
