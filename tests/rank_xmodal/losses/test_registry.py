import inspect

import pytest
import torch

from rank_xmodal import losses
from rank_xmodal.errors import UserError
from rank_xmodal.losses.registry import Loss


def test_names():
    assert {"lambdarank", "neuralndcg", "listnet", "ranknet"} <= set(losses.names())
    assert losses.names() == tuple(losses.REGISTRY)


@pytest.mark.parametrize("name", losses.names())
def test_entry_says_what_its_function_does(name):
    entry = losses.REGISTRY[name]
    assert entry.name == name
    assert getattr(losses, name) is entry.function
    assert entry.labels in ("binary", "graded")
    assert "doi:" in entry.paper or "arXiv:" in entry.paper
    signature = inspect.signature(entry.function).parameters
    assert {p.name: p.default for p in entry.parameters} == {
        p: signature[p].default for p in signature if p not in ("scores", "labels", "reduction")
    }
    assert all(p.description and p.type for p in entry.parameters)


def test_parameters_are_read_from_the_signature():
    sigma, k = losses.REGISTRY["lambdarank"].parameters
    assert (sigma.name, sigma.type, sigma.default) == ("sigma", "float", 1.0)
    assert (k.name, k.type, k.default) == ("k", "int | None", None)


def test_get_fixes_parameters_and_leaves_the_reduction():
    scores, labels = torch.randn(3, 5), torch.tensor([[1, 0, 0, 0, 0]]).repeat(3, 1)
    loss = losses.get("ranknet", sigma=3.0)
    torch.testing.assert_close(loss(scores, labels), losses.ranknet(scores, labels, sigma=3.0))
    assert loss(scores, labels, reduction="none").shape == (3,)


def test_unknown_loss_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown loss 'ListNett'\. Did you mean 'listnet'\?.*lambdarank"):
        losses.get("ListNett")


def test_unknown_parameter_names_the_nearest():
    with pytest.raises(UserError, match=r"'listnet' has no parameter 'temprature'\. Did you mean 'temperature'\?"):
        losses.get("listnet", temprature=2.0)


def test_input_names_are_not_parameters():
    with pytest.raises(UserError, match="no parameter 'labels'"):
        losses.get("listnet", labels=2.0)


@pytest.mark.parametrize("name", losses.names())
def test_a_loss_is_configured_whatever_the_default_device(name):
    """Where scorers are read, it is one without memory."""
    with torch.device("meta"):
        loss = losses.get(name)
    assert torch.isfinite(loss(torch.zeros(1, 2), torch.tensor([[1, 0]])))


@pytest.mark.parametrize("value", [-1.0, "warm"])
def test_bad_value_is_met_at_once(value):
    with pytest.raises(UserError, match="loss 'listnet': temperature is"):
        losses.get("listnet", temperature=value)


def test_entry_that_forgets_a_parameter_is_refused():
    with pytest.raises(TypeError, match="sigma"):
        Loss("broken", losses.ranknet, labels="graded", paper="", descriptions={}, why="")


def test_every_loss_says_why_its_defaults_are_what_they_are():
    for loss in losses.REGISTRY.values():
        assert len(loss.why) > 20, loss.name
