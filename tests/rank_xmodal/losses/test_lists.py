"""What is done to every loss's input: which items are above the lowest, and what labels are refused."""

import numpy as np
import pytest
import torch

from rank_xmodal.losses._lists import above_lowest, prepare


def test_above_lowest():
    _, labels, valid = prepare(
        torch.zeros(4, 3), torch.tensor([[1, 0, -1], [2, 1, 2], [1, 1, -1], [-1, -1, -1]]), "mean"
    )
    assert above_lowest(labels, valid).int().tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("label", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_labels_that_are_no_grades_are_refused(label, dtype):
    """NaN is not at least 0: it would pass for padding."""
    labels = torch.tensor([[1, label, 0]], dtype=dtype)
    with pytest.raises(ValueError, match="labels holds NaN or infinity: pass grades of at least 0, and -1"):
        prepare(torch.zeros(1, 3), labels, "mean")


def test_padding_that_wrapped_around_in_uint8_is_refused():
    labels = torch.tensor([[1, 0, -1]]).to(torch.uint8)
    with pytest.raises(ValueError, match=r"labels holds 255 in uint8, .* pass a signed dtype"):
        prepare(torch.zeros(1, 3), labels, "mean")


def test_uint8_without_padding_and_any_negative_number_as_padding_are_taken():
    _, labels, _ = prepare(torch.zeros(1, 3), torch.tensor([[1, 0, 3]], dtype=torch.uint8), "mean")
    assert labels.tolist() == [[1.0, 0.0, 3.0]]
    _, labels, valid = prepare(torch.zeros(1, 3), torch.tensor([[1.0, -7.0, -torch.inf]]), "mean")
    assert labels.tolist() == [[1.0, -1.0, -1.0]]
    assert valid.tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    ("wrong", "found"), [(None, "None"), ([[1.0, 0.0]], "of type list"), (np.ones((1, 2)), "of type ndarray")]
)
def test_what_is_no_tensor_is_refused(wrong, found):
    good = torch.ones(1, 2)
    with pytest.raises(ValueError, match=f"^scores is {found}: pass a torch tensor"):
        prepare(wrong, good, "mean")
    with pytest.raises(ValueError, match=f"^labels is {found}: pass a torch tensor"):
        prepare(good, wrong, "mean")


def test_labels_that_are_no_real_numbers_or_elsewhere_are_refused():
    scores = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"^labels has dtype torch.complex64: pass"):
        prepare(scores, torch.zeros(1, 2, dtype=torch.complex64), "mean")
    with pytest.raises(ValueError, match=r"^labels is on meta, scores on cpu: pass"):
        prepare(scores, torch.zeros(1, 2, device="meta"), "mean")


def test_infinite_scores_of_both_signs_are_not_taken_for_nan():
    scores, _, _ = prepare(torch.tensor([[torch.inf, -torch.inf, 0.0]]), torch.tensor([[1, 0, 0]]), "mean")
    assert scores.tolist() == [[torch.inf, -torch.inf, 0.0]]


def test_a_training_on_an_accelerator_is_not_kept_waiting_for_a_check():
    """On a device that holds no numbers, asking for one fails: only the dtype of the labels may be looked at."""
    labels = torch.zeros(2, 3, dtype=torch.int8, device="meta")
    prepare(torch.zeros(2, 3, device="meta", requires_grad=True), labels, "mean")
