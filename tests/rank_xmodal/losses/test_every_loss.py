"""What every loss in the registry promises, so that a new one is tested by being registered."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_xmodal import losses, metrics

every_loss = pytest.mark.parametrize("name", losses.names())
PAIRWISE = ("hinge", "lambdaloss", "lambdarank", "ranknet")
POINTWISE = ("bce",)
few = settings(max_examples=12, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def draw(seed, lists=4, length=7):
    """Scores and graded labels with padding; every list has an item with label 0 and one with label 1."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(lists, length, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 4, (lists, length), generator=generator)
    labels[:, 0], labels[:, 1] = 0, 1
    order = torch.rand(lists, length, generator=generator).argsort(1)
    return scores, labels.gather(1, order)


def value_and_gradient(name, scores, labels, **settings):
    scores = scores.clone().requires_grad_()
    loss = losses.get(name, **settings)(scores, labels)
    loss.backward()
    return loss.detach(), scores.grad


@every_loss
@pytest.mark.parametrize("seed", range(3))
def test_gradcheck(name, seed):
    scores, labels = draw(seed, lists=3, length=6)
    loss = losses.REGISTRY[name].function
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, labels), (scores,))
    assert torch.autograd.gradcheck(lambda s: loss(s, labels, reduction="none"), (scores,))


@every_loss
@given(seed=seeds)
@few
def test_padding_changes_nothing_whatever_its_score(name, seed):
    scores, labels = draw(seed)
    loss, gradient = value_and_gradient(name, scores, labels)
    garbage = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e300, 0.0]).double().expand(4, 5)
    order = torch.rand(4, 12, generator=torch.Generator().manual_seed(seed)).argsort(1)
    padded_scores = torch.cat([scores, garbage], 1).gather(1, order)
    padded_labels = torch.cat([labels, torch.full((4, 5), -1)], 1).gather(1, order)
    padded_loss, padded_gradient = value_and_gradient(name, padded_scores, padded_labels)
    torch.testing.assert_close(padded_loss, loss)
    assert (padded_gradient[padded_labels == -1] == 0).all()
    back = torch.zeros(4, 12).double().scatter(1, order, padded_gradient)
    torch.testing.assert_close(back[:, :7], gradient)


@every_loss
@given(seed=seeds)
@few
def test_shuffling_a_list_shuffles_its_gradient(name, seed):
    scores, labels = draw(seed)
    order = torch.rand(4, 7, generator=torch.Generator().manual_seed(seed)).argsort(1)
    loss, gradient = value_and_gradient(name, scores, labels)
    shuffled_loss, shuffled_gradient = value_and_gradient(name, scores.gather(1, order), labels.gather(1, order))
    torch.testing.assert_close(shuffled_loss, loss)
    torch.testing.assert_close(shuffled_gradient, gradient.gather(1, order))


@every_loss
@given(seed=seeds)
@few
def test_shuffling_a_list_with_ties_does_not_change_the_loss(name, seed):
    scores, labels = draw(seed)
    scores = scores.round()
    order = torch.rand(4, 7, generator=torch.Generator().manual_seed(seed)).argsort(1)
    function = losses.get(name)
    torch.testing.assert_close(function(scores.gather(1, order), labels.gather(1, order)), function(scores, labels))


@pytest.mark.parametrize("name", [name for name in losses.names() if name not in POINTWISE])
@given(seed=seeds, shift=st.floats(-100, 100))
@few
def test_adding_a_number_to_a_list_changes_nothing(name, seed, shift):
    scores, labels = draw(seed)
    loss, gradient = value_and_gradient(name, scores, labels)
    shifted_loss, shifted_gradient = value_and_gradient(name, scores + shift * torch.arange(4)[:, None], labels)
    torch.testing.assert_close(shifted_loss, loss)
    torch.testing.assert_close(shifted_gradient, gradient)


@every_loss
@given(seed=seeds)
@few
def test_repeating_the_batch_changes_neither_loss_nor_total_gradient(name, seed):
    scores, labels = draw(seed)
    loss, gradient = value_and_gradient(name, scores, labels)
    repeated_loss, repeated_gradient = value_and_gradient(name, scores.repeat(3, 1), labels.repeat(3, 1))
    torch.testing.assert_close(repeated_loss, loss)
    torch.testing.assert_close(repeated_gradient.view(3, 4, 7).sum(0), gradient)


@every_loss
@given(seed=seeds)
@few
def test_a_list_does_not_depend_on_the_rest_of_its_batch(name, seed):
    scores, labels = draw(seed)
    function = losses.get(name)
    alone = [function(scores[i : i + 1], labels[i : i + 1], reduction="none") for i in range(4)]
    together = function(scores, labels, reduction="none")
    torch.testing.assert_close(together, torch.cat(alone))
    torch.testing.assert_close(function(scores, labels), together.mean())


@every_loss
def test_lists_without_information_do_not_dilute_the_others(name):
    scores, labels = draw(0)
    loss, gradient = value_and_gradient(name, scores, labels)
    more_labels = torch.cat([labels, torch.zeros(2, 7).long(), torch.full((1, 7), -1)])
    diluted_loss, diluted_gradient = value_and_gradient(name, torch.cat([scores, torch.randn(3, 7)]), more_labels)
    torch.testing.assert_close(diluted_loss, loss)
    torch.testing.assert_close(diluted_gradient[:4], gradient)
    assert (diluted_gradient[4:] == 0).all()


UNINFORMATIVE = {
    "no positive": torch.zeros(2, 5),
    "all padding": torch.full((2, 5), -1.0),
    "single non-relevant item": torch.zeros(2, 1),
    "single padding": torch.full((2, 1), -1.0),
    "empty batch": torch.zeros(0, 5),
}


@every_loss
@pytest.mark.parametrize("case", UNINFORMATIVE)
def test_without_information_the_loss_is_0_and_so_is_its_gradient(name, case):
    labels = UNINFORMATIVE[case]
    scores = torch.randn(labels.shape, requires_grad=True)
    loss = losses.get(name)(scores, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert (scores.grad == 0).all()
    per_list = losses.get(name)(scores, labels, reduction="none")
    assert per_list.tolist() == [0.0] * len(labels)


@every_loss
@pytest.mark.parametrize("labels", [[[1]], [[1, 1, 1]], [[2, -1]]])
def test_only_relevant_items(name, labels):
    labels = torch.tensor(labels)
    loss, gradient = value_and_gradient(name, torch.randn(labels.shape), labels)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if name in PAIRWISE:
        assert loss.item() == 0.0
    if labels.shape[1] == 1:
        assert gradient.item() == pytest.approx(0.0, abs=1e-6)


@every_loss
@pytest.mark.parametrize("gap", [100.0, 1e4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_gaps_are_finite(name, gap, sign):
    scores = sign * gap * torch.linspace(-1, 1, 51)[None]
    labels = torch.zeros(1, 51).index_fill_(1, torch.tensor([0, 25]), 1.0)
    loss, gradient = value_and_gradient(name, scores, labels)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computes_in_float32_at_least(name, dtype):
    scores, labels = draw(1, length=40)
    scores = scores.to(dtype)
    loss = losses.get(name)(scores, labels)
    wide = losses.get(name)(scores.double(), labels)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=1e-5)


@every_loss
def test_autocast_changes_nothing(name):
    scores, labels = draw(1, length=40)
    loss, gradient = value_and_gradient(name, scores.float(), labels)
    cast_scores = scores.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_loss = losses.get(name)(cast_scores, labels)
    cast_loss.backward()
    torch.testing.assert_close(cast_loss.detach(), loss)
    torch.testing.assert_close(cast_scores.grad, gradient)


@every_loss
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16, torch.float64])
def test_label_dtype_does_not_matter(name, dtype):
    scores, labels = draw(2)
    torch.testing.assert_close(losses.get(name)(scores, labels.to(dtype)), losses.get(name)(scores, labels))


@every_loss
@pytest.mark.parametrize("labels", [[127, 127, 0, 127, 127, 1, -1], [100, 99, 0, 1, 127, 0, 3]])
def test_the_highest_grades_teach_as_in_float64(name, labels):
    """2^127 is a finite float32, but the sum of three is not: the loss was 0 or NaN."""
    scores, labels = draw(0, lists=1)[0], torch.tensor([labels])
    loss, gradient = value_and_gradient(name, scores.float(), labels)
    wide_loss, wide_gradient = value_and_gradient(name, scores, labels)
    torch.testing.assert_close(loss.double(), wide_loss, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient.double(), wide_gradient, rtol=1e-3, atol=1e-6)
    assert gradient.abs().max() > 1e-4


@every_loss
@pytest.mark.parametrize("label", [torch.nan, torch.inf])
def test_labels_that_are_no_grades_are_refused(name, label):
    with pytest.raises(ValueError, match="labels holds NaN or infinity: pass"):
        losses.get(name)(torch.zeros(1, 3), torch.tensor([[1.0, label, 0.0]]))


@every_loss
def test_bool_labels(name):
    scores, labels = draw(2)
    labels = labels.clamp(0, 1)
    torch.testing.assert_close(losses.get(name)(scores, labels.bool()), losses.get(name)(scores, labels))


@every_loss
def test_input_is_left_as_it_was(name):
    scores, labels = draw(3)
    scores_before, labels_before = scores.clone(), labels.clone()
    value_and_gradient(name, scores, labels)
    losses.get(name)(scores, labels)
    assert torch.equal(scores, scores_before)
    assert torch.equal(labels, labels_before)


@every_loss
def test_following_the_gradient_improves_ndcg(name):
    generator = torch.Generator().manual_seed(0)
    scores = (0.1 * torch.randn(16, 20, generator=generator)).requires_grad_()
    labels = torch.zeros(16, 20).scatter_(1, torch.randint(0, 20, (16, 1), generator=generator), 1.0)
    before = metrics.ndcg(scores, labels, k=10).mean()
    optimiser = torch.optim.Adam([scores], lr=0.05)
    for _ in range(40):
        optimiser.zero_grad()
        losses.get(name)(scores, labels).backward()
        optimiser.step()
    assert before < 0.5
    assert metrics.ndcg(scores, labels, k=10).mean() > 0.95


@every_loss
@pytest.mark.parametrize(
    ("scores", "labels", "reduction", "message"),
    [
        (torch.zeros(3), torch.zeros(3), "mean", r"scores has shape \(3,\): pass"),
        (torch.zeros(2, 0), torch.zeros(2, 0), "mean", r"scores has shape \(2, 0\): pass"),
        (torch.zeros(2, 3), torch.zeros(2, 4), "mean", r"labels has shape \(2, 4\), scores \(2, 3\): pass"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3), "mean", r"scores has dtype torch.int64: pass"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "sum", "reduction is 'sum': pass 'mean'"),
    ],
)
def test_bad_input_names_parameter_value_and_remedy(name, scores, labels, reduction, message):
    with pytest.raises(ValueError, match=message):
        losses.get(name)(scores, labels, reduction=reduction)
