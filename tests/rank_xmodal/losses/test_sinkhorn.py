import pytest
import torch

from rank_xmodal.losses._sinkhorn import sinkhorn_sort


def by_matrices(logits, iterations):
    matrix = torch.softmax(logits, dim=2)
    for _ in range(iterations):
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
        matrix = matrix / matrix.sum(dim=2, keepdim=True)
    return matrix


@pytest.mark.parametrize("iterations", [1, 2, 7, 50])
def test_value_and_gradient_equal_autograd_through_the_matrices(iterations):
    torch.manual_seed(0)
    logits, values, weight = 3 * torch.randn(3, 5, 5).double(), torch.rand(3, 5).double(), torch.randn(3, 5).double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = sinkhorn_sort(ours, values, iterations)
    reference = torch.bmm(by_matrices(theirs, iterations), values[:, :, None]).squeeze(2)
    torch.testing.assert_close(found, reference)
    (found * weight).sum().backward()
    (reference * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_everything_sorted_keeps_its_sum():
    values = torch.rand(2, 6)
    torch.testing.assert_close(sinkhorn_sort(torch.randn(2, 6, 6), values, 50).sum(1), values.sum(1))


def test_gradcheck():
    logits, values = torch.randn(2, 4, 4).double().requires_grad_(), torch.rand(2, 4).double()
    assert torch.autograd.gradcheck(lambda x: sinkhorn_sort(x, values, 4), (logits,))


def test_a_second_backward_pass_gives_the_same_gradient():
    logits, values = torch.randn(2, 5, 5).double().requires_grad_(), torch.rand(2, 5).double()
    out = sinkhorn_sort(logits, values, 6).square().sum()
    first, second = (torch.autograd.grad(out, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_permutation_with_denormal_entries_is_left_alone():
    logits = torch.full((1, 4, 4), -93.0) + 93.0 * torch.eye(4)  # e^-93 is denormal in float32
    values = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    torch.testing.assert_close(sinkhorn_sort(logits, values, 20), values)


def test_a_second_derivative_is_refused_and_not_silently_wrong():
    logits, values = torch.randn(2, 5, 5).double().requires_grad_(), torch.rand(2, 5).double()
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(sinkhorn_sort(logits, values, 6).sum(), logits, create_graph=True)


def test_a_loss_that_is_kept_does_not_keep_the_matrices():
    logits, values = torch.randn(2, 5, 5).double().requires_grad_(), torch.rand(2, 5).double()
    out = sinkhorn_sort(logits, values, 6).sum()
    out.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        out.backward()
