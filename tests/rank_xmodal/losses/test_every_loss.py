"""What every loss in the registry promises, so that a new one is tested by being registered.

A new loss needs one thing here: an entry in `references.py`, its formula in plain Python.
"""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from rank_xmodal import losses, metrics

from .references import REFERENCES

every_loss = pytest.mark.parametrize("name", losses.names())
# Their value depends on the level of the scores.
POINTWISE = ("bce",)
# Tied items get a weight by a rank that tells them apart: the value is that of one order, the gradient isn't unique.
RANKED = ("lambdaloss", "lambdarank")
# These have a corner where two scores are equal.
CORNER_AT_TIES = (*RANKED, "neuralndcg")
# Least and largest value; the others lie between 0 and infinity.
RANGES = {"approxndcg": (-1, 0), "neuralndcg": (-1, 0), "smoothap": (0, 1)}
few = effort(max_examples=12, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)

CASES = {
    "perfect": ([3.0, 1.0, -1.0], [1, 0, 0]),
    "middle": ([1.0, 3.0, -1.0], [1, 0, 0]),
    "worst": ([-1.0, 3.0, 1.0], [1, 0, 0]),
    "two relevant": ([0.5, 0.2, -0.3, 1.0], [0, 1, 1, 0]),
    "most relevant": ([0.6, 0.1, -0.3, 1.2, 0.4, 0.9], [1, 1, 1, 1, 1, 0]),
    "graded": ([0.5, 0.2, -0.3, 1.0], [3, 0, 1, 2]),
    "graded, lowest label 1": ([0.5, 0.2, -0.3], [2, 1, 1]),
    "tied": ([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 2]),
    "constant": ([0.7, 0.7, 0.7, 0.7], [0, 1, 0, 0]),
    "constant, two relevant": ([0.0, 0.0, 0.0, 0.0, 0.0], [1, 1, 0, 0, 0]),
    "padded": ([0.5, 7.0, -0.3, 1.0, 0.9], [1, -1, 0, -1, 0]),
    "one pair": ([0.5, 7.0, -0.3, 1.0], [1, -1, 0, -1]),
    "wide": ([-12.0, 15.0, 0.0, 3.0], [1, 0, 1, 0]),
    "no relevant": ([0.5, 0.2, -0.3], [0, 0, 0]),
    "only relevant": ([0.5, 0.2, -0.3], [1, 1, 1]),
    "only relevant, padded": ([0.5, 0.2, -0.3], [2, 2, -1]),
    "one relevant item": ([0.5], [1]),
    "one relevant item, padded": ([0.5, 0.2], [2, -1]),
    "one non-relevant item": ([0.5], [0]),
    "only padding": ([0.5, 0.2], [-1, -1]),
}


def reference(name):
    """Return the plain loops of a loss and the settings to try it with, the defaults first."""
    if name not in REFERENCES:
        pytest.fail(f"{name} has no reference: add it to REFERENCES in tests/rank_xmodal/losses/references.py")
    function, others = REFERENCES[name]
    return function, [{}, *others]


def cases(name, ties=True):
    """Return the cases whose labels the loss takes."""
    highest = 1 if losses.REGISTRY[name].labels == "binary" else math.inf
    return {
        case: (scores, labels)
        for case, (scores, labels) in CASES.items()
        if max(labels) <= highest and (ties or len(set(scores)) == len(scores))
    }


def batch(lists):
    """Return the lists as one batch in float64, with NaN where they are padded to the length of the longest."""
    length = max(len(scores) for scores, _ in lists)
    scores = torch.tensor([s + [math.nan] * (length - len(s)) for s, _ in lists], dtype=torch.float64)
    return scores, torch.tensor([y + [-1] * (length - len(y)) for _, y in lists])


def rows(batch):
    """Return the lists of a batch as (scores, labels), each a plain list."""
    return zip(*(x.tolist() for x in batch), strict=True)


def draw(name, seed, lists=4, length=7):
    """Scores and labels with padding; every list has an item with label 0 and one with label 1."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(lists, length, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 4, (lists, length), generator=generator)
    labels[:, 0], labels[:, 1] = 0, 1
    if losses.REGISTRY[name].labels == "binary":
        labels = labels.clamp(max=1)
    order = torch.rand(lists, length, generator=generator).argsort(1)
    return scores, labels.gather(1, order)


def value_and_gradient(name, scores, labels, **settings):
    scores = scores.clone().requires_grad_()
    loss = losses.get(name, **settings)(scores, labels)
    loss.backward()
    return loss.detach(), scores.grad


def test_every_reference_is_of_a_loss_and_tries_all_its_settings():
    assert sorted(REFERENCES) == sorted(losses.names()), (
        "each loss of the registry has one entry of REFERENCES in tests/rank_xmodal/losses/references.py"
    )
    for name, (_, tried) in REFERENCES.items():
        changed = {parameter for settings in tried for parameter in settings}
        assert changed == {p.name for p in losses.REGISTRY[name].parameters}, f"tried of {name} in references.py"


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in losses.names() for case in cases(name)])
def test_equals_plain_loops(name, case):
    scores, labels = CASES[case]
    function, tried = reference(name)
    for settings in tried:
        expected = function(scores, labels, **settings)
        for dtype, rel in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
            batch_of_one = torch.tensor([scores], dtype=dtype), torch.tensor([labels])
            loss, gradient = value_and_gradient(name, *batch_of_one, **settings)
            if expected is None:
                assert loss == 0, settings
                assert (gradient == 0).all(), settings
            else:
                assert loss.item() == pytest.approx(expected, rel=rel, abs=rel / 10), (settings, dtype)


@every_loss
def test_a_batch_is_its_lists_and_its_mean_that_of_the_informative_ones(name):
    function, tried = reference(name)
    lists = [*cases(name).values(), *rows(draw(name, 0))]
    for settings in tried:
        expected = [function(scores, labels, **settings) for scores, labels in lists]
        informative = [value for value in expected if value is not None]
        loss = losses.get(name, **settings)
        assert loss(*batch(lists), reduction="none").tolist() == pytest.approx([value or 0.0 for value in expected])
        assert loss(*batch(lists)).item() == pytest.approx(sum(informative) / len(informative))


@every_loss
def test_gradcheck(name):
    lists = cases(name, ties=name not in CORNER_AT_TIES)
    scores, labels = batch([*lists.values(), *rows(draw(name, 0, lists=3, length=6))])
    scores = scores.nan_to_num().requires_grad_()
    assert torch.autograd.gradcheck(partial(losses.get(name), labels=labels), (scores,))


@every_loss
def test_gradient_of_each_list_is_its_slope_with_every_setting(name):
    """As gradcheck, in a tenth of its time: lists don't touch each other, so one step moves an item of each."""
    lists = cases(name, ties=name not in CORNER_AT_TIES)
    scores, labels = batch([*lists.values(), *rows(draw(name, 1))])
    steps = 1e-6 * torch.eye(scores.shape[1]).double()
    for settings in reference(name)[1]:
        loss = partial(losses.get(name, **settings), labels=labels, reduction="none")
        (gradient,) = torch.autograd.grad(loss(scores.requires_grad_()).sum(), scores)
        with torch.no_grad():
            slope = torch.stack([(loss(scores + step) - loss(scores - step)) / 2e-6 for step in steps], dim=1)
        torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-7, msg=lambda found, s=settings: f"{s}: {found}")


@pytest.mark.parametrize("name", [name for name in losses.names() if name not in RANGES])
def test_ten_thousand_below_a_positive_is_pulled_as_hard_as_30_below(name):
    """There the losses are straight lines; the logarithm of a softmax that has become 0 would be flat."""
    function, tried = reference(name)
    near, far, labels = torch.tensor([[-30.0, 1, 0]]).double(), torch.tensor([[-1e4, 1, 0]]), torch.tensor([[1, 0, 0]])
    for settings in tried:
        value, pull = value_and_gradient(name, near, labels, **settings)
        assert value.item() == pytest.approx(function([-30.0, 1.0, 0.0], [1, 0, 0], **settings)), settings
        loss, gradient = value_and_gradient(name, far, labels, **settings)
        assert gradient[0, 0] < -0.1, settings
        torch.testing.assert_close(gradient.double(), pull, rtol=1e-5, atol=1e-5)
        assert loss.item() == pytest.approx(value.item() - pull[0, 0].item() * (1e4 - 30), rel=1e-5), settings


@every_loss
@given(seed=seeds)
@few
def test_padding_changes_nothing_whatever_its_score(name, seed):
    scores, labels = draw(name, seed)
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
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_shuffling_a_list_shuffles_its_gradient(name, seed, tied):
    scores, labels = draw(name, seed, lists=12)
    if tied:
        scores = scores.round()
    order = torch.rand(12, 7, generator=torch.Generator().manual_seed(seed)).argsort(1)
    for settings in reference(name)[1]:
        loss, gradient = value_and_gradient(name, scores, labels, **settings)
        shuffled = value_and_gradient(name, scores.gather(1, order), labels.gather(1, order), **settings)
        torch.testing.assert_close(shuffled[0], loss)
        if not (tied and name in RANKED):
            torch.testing.assert_close(shuffled[1], gradient.gather(1, order))


@pytest.mark.parametrize("name", [name for name in losses.names() if name not in POINTWISE])
@given(seed=seeds, shift=st.floats(-100, 100))
@few
def test_adding_a_number_to_a_list_changes_nothing(name, seed, shift):
    scores, labels = draw(name, seed)
    loss, gradient = value_and_gradient(name, scores, labels)
    shifted_loss, shifted_gradient = value_and_gradient(name, scores + shift * torch.arange(4)[:, None], labels)
    torch.testing.assert_close(shifted_loss, loss)
    torch.testing.assert_close(shifted_gradient, gradient)


@every_loss
@given(seed=seeds)
@few
def test_repeating_the_batch_changes_neither_loss_nor_total_gradient(name, seed):
    scores, labels = draw(name, seed)
    loss, gradient = value_and_gradient(name, scores, labels)
    repeated_loss, repeated_gradient = value_and_gradient(name, scores.repeat(3, 1), labels.repeat(3, 1))
    torch.testing.assert_close(repeated_loss, loss)
    torch.testing.assert_close(repeated_gradient.view(3, 4, 7).sum(0), gradient)


@every_loss
def test_lists_without_information_do_not_dilute_the_others(name):
    scores, labels = draw(name, 0)
    loss, gradient = value_and_gradient(name, scores, labels)
    more_labels = torch.cat([labels, torch.zeros(2, 7).long(), torch.full((1, 7), -1)])
    diluted_loss, diluted_gradient = value_and_gradient(name, torch.cat([scores, torch.randn(3, 7)]), more_labels)
    torch.testing.assert_close(diluted_loss, loss)
    torch.testing.assert_close(diluted_gradient[:4], gradient)
    assert (diluted_gradient[4:] == 0).all()


@every_loss
def test_an_empty_batch_costs_nothing(name):
    loss, gradient = value_and_gradient(name, torch.zeros(0, 5), torch.zeros(0, 5))
    assert loss == 0
    assert gradient.shape == (0, 5)
    assert losses.get(name)(torch.zeros(0, 5), torch.zeros(0, 5), reduction="none").shape == (0,)


@every_loss
@pytest.mark.parametrize("gap", [100.0, 1e4, 1e30])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_gaps_are_finite(name, gap, sign):
    scores = sign * gap * torch.linspace(-1, 1, 51)[None]
    labels = torch.zeros(1, 51).index_fill_(1, torch.tensor([0, 25]), 1.0)
    loss, gradient = value_and_gradient(name, scores, labels)
    least, most = RANGES.get(name, (0, math.inf))
    assert least <= loss.item() <= most
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in losses.names() if name != "neuralndcg"])
@pytest.mark.parametrize("gap", [1e2, 1e4, 1e30])
def test_beside_extreme_gaps_what_is_within_reach_still_learns(name, gap):
    """Not neuralndcg: its relaxed sort looks at the differences of all scores."""
    _, gradient = value_and_gradient(name, torch.tensor([[-gap, gap, 0.0, 0.5]]), torch.tensor([[1, 0, 1, 0]]))
    assert gradient.isfinite().all()
    assert gradient[0, 2] < 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computes_in_float32_at_least(name, dtype):
    scores, labels = draw(name, 1, length=40)
    scores = scores.to(dtype)
    loss = losses.get(name)(scores, labels)
    wide = losses.get(name)(scores.double(), labels)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=1e-5)


@every_loss
def test_autocast_changes_nothing(name):
    scores, labels = draw(name, 1, length=40)
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
    scores, labels = draw(name, 2)
    torch.testing.assert_close(losses.get(name)(scores, labels.to(dtype)), losses.get(name)(scores, labels))


@every_loss
@pytest.mark.parametrize("labels", [[127, 127, 0, 127, 127, 1, -1], [100, 99, 0, 1, 127, 0, 3]])
def test_the_highest_grades_teach_as_in_float64(name, labels):
    """2^127 is a finite float32, but the sum of three is not: the loss was 0 or NaN."""
    scores, labels = draw(name, 0, lists=1)[0], torch.tensor([labels])
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
@pytest.mark.parametrize("labels", [[1, 0, 0], [0, 0, 0]])
@pytest.mark.parametrize("training", [False, True])
def test_nan_among_the_scores_is_refused(name, labels, training):
    """In a list that teaches nothing it vanished with the list."""
    scores = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.nan, 2.0]], requires_grad=training)
    with pytest.raises(ValueError, match="scores has NaN in 1 places, first in list 1: pass"):
        losses.get(name)(scores, torch.tensor([[1, 0, 0], labels]))


@every_loss
def test_bool_labels(name):
    scores, labels = draw(name, 2)
    labels = labels.clamp(0, 1)
    torch.testing.assert_close(losses.get(name)(scores, labels.bool()), losses.get(name)(scores, labels))


@every_loss
def test_input_is_left_as_it_was(name):
    scores, labels = draw(name, 3)
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


BAD_VALUES = {
    "float": ("a finite number above 0", [0, -1.0, math.inf, math.nan, "steep", True, 10**400]),
    "int": ("an integer of at least 1", [0, -1, 2.0, True, None]),
    "int | None": ("an integer of at least 1", [0, -1, 2.0, True]),
}


@every_loss
def test_bad_settings_name_parameter_value_and_remedy(name):
    for parameter in losses.REGISTRY[name].parameters:
        remedy, values = BAD_VALUES.get(parameter.type, ("", []))
        for value in values:
            with pytest.raises(ValueError, match=f"^{parameter.name} is {value!r}: pass {remedy}"):
                losses.REGISTRY[name].function(torch.zeros(1, 2), torch.zeros(1, 2), **{parameter.name: value})


@pytest.mark.parametrize("name", [n for n in losses.names() if "k" in {p.name for p in losses.REGISTRY[n].parameters}])
def test_a_huge_k_is_the_whole_list(name):
    scores, labels = draw(name, 4)
    whole = losses.get(name, k=7)(scores, labels)
    for k in (2**63, 10**30):
        assert torch.equal(losses.get(name, k=k)(scores, labels), whole)
