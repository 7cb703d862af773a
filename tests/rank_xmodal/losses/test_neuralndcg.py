import math

import pytest
import torch

from rank_xmodal import metrics
from rank_xmodal.losses import neuralndcg

from . import references


def test_equal_scores_of_51(one_of_51):
    mean_discount = sum(1 / math.log2(rank + 1) for rank in range(1, 52)) / 51
    assert mean_discount == pytest.approx(0.25634, abs=5e-6)
    assert neuralndcg(*one_of_51).item() == pytest.approx(-mean_discount, rel=1e-6)


def test_tends_to_minus_ndcg_as_the_temperature_falls():
    scores, labels = torch.randn(16, 12).double(), torch.randint(0, 3, (16, 12))
    loss = neuralndcg(scores, labels, temperature=1e-6, k=5, reduction="none")
    torch.testing.assert_close(-loss, metrics.ndcg(scores, labels, k=5))


def test_a_large_common_score_costs_no_precision():
    """Scores on a grid that float32 still holds exactly with the number added: only the arithmetic can lose digits."""
    scores, labels = (torch.randn(4, 51) * 256).round() / 256, torch.zeros(4, 51)
    labels[:, 5] = 1
    expected = neuralndcg(scores.double(), labels)
    assert neuralndcg(scores + 4096, labels).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("gap", [50.0, 1e4])
def test_gradient_vanishes_as_scores_spread(gap):
    """A limit of the method, not of the code: the relaxed sort has become the sort, which is flat."""
    scores = torch.tensor([[-gap, gap, 0.0]], requires_grad=True)
    loss = neuralndcg(scores, torch.tensor([[1, 0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(-0.5)
    assert scores.grad.abs().max() < 1e-6


def test_a_list_does_not_depend_on_how_fast_another_converges():
    scores = torch.randn(2, 20) * torch.tensor([[0.01], [8.0]])
    labels = torch.zeros(2, 20).index_fill_(1, torch.tensor([4]), 1.0)
    together = neuralndcg(scores, labels, reduction="none")
    alone = [neuralndcg(scores[i : i + 1], labels[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", [None, 3])
def test_allrank_agrees_with_padding_at_the_end(allrank, k):
    scores, labels = torch.randn(6, 9), torch.randint(0, 3, (6, 9)).float()
    labels[:, 0] = 1
    labels[2:, 7:] = -1
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss, reference = neuralndcg(ours, labels, k=k), allrank.losses.neuralNDCG(theirs, labels, k=k)
    torch.testing.assert_close(loss, reference, rtol=1e-4, atol=1e-6)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_allrank_is_wrong_with_padding_elsewhere(allrank):
    """It masks the row, a rank, by the place of the padded item."""
    scores, labels = torch.tensor([[9.0, 2.0, 1.0]]), torch.tensor([[-1.0, 0.0, 1.0]])
    expected = references.neuralndcg(scores[0].tolist(), labels[0].tolist())
    assert allrank.losses.neuralNDCG(scores, labels).item() != pytest.approx(expected, abs=0.05)
    assert neuralndcg(scores, labels).item() == pytest.approx(expected, rel=1e-5)


def test_allrank_without_a_positive_has_no_gradient(allrank):
    scores, labels = torch.randn(1, 3, requires_grad=True), torch.zeros(1, 3)
    assert not allrank.losses.neuralNDCG(scores, labels).requires_grad
    neuralndcg(scores, labels).backward()
    assert (scores.grad == 0).all()


def test_allrank_fails_gradcheck_in_float64(allrank):
    scores, labels = torch.randn(1, 4).double().requires_grad_(), torch.tensor([[0.0, 1.0, 0.0, 2.0]]).double()
    with pytest.raises(RuntimeError):
        torch.autograd.gradcheck(allrank.losses.neuralNDCG, (scores, labels))


@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float32, 1e-38), (torch.float64, 1e-100)])
def test_padding_stays_apart_at_any_temperature(dtype, temperature):
    scores = torch.tensor([[0.3, 0.1, 0.4, 0.2, 0.9, -0.9]], dtype=dtype)
    labels = torch.tensor([[1, 0, 0, 2, -1, -1]])
    coldest = neuralndcg(scores, labels, temperature=temperature)
    torch.testing.assert_close(coldest, neuralndcg(scores[:, :4], labels[:, :4], temperature=1e-3))


def test_iterations_that_no_memory_holds_are_refused():
    with pytest.raises(ValueError, match="iterations is 1000000000000: pass at most 10,000"):
        neuralndcg(torch.zeros(1, 2), torch.zeros(1, 2), iterations=10**12)
