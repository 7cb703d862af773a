import pytest
import torch

from rank_xmodal.losses._sinkhorn import sinkhorn


def by_matrices(matrix, iterations):
    for _ in range(iterations):
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
        matrix = matrix / matrix.sum(dim=2, keepdim=True)
    return matrix


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_value_and_gradient_equal_autograd_through_the_matrices(iterations):
    matrix, weight = torch.rand(3, 5, 5).double() + 0.01, torch.randn(3, 5, 5).double()
    ours, theirs = matrix.clone().requires_grad_(), matrix.clone().requires_grad_()
    row, column = sinkhorn(ours, iterations)
    scaled, reference = row[:, :, None] * ours * column[:, None, :], by_matrices(theirs, iterations)
    torch.testing.assert_close(scaled, reference)
    (scaled * weight).sum().backward()
    (reference * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_scaled_matrix_is_doubly_stochastic():
    matrix = torch.rand(2, 6, 6) + 0.1
    row, column = sinkhorn(matrix, 50)
    scaled = row[:, :, None] * matrix * column[:, None, :]
    torch.testing.assert_close(scaled.sum(1), torch.ones(2, 6))
    torch.testing.assert_close(scaled.sum(2), torch.ones(2, 6))


def test_gradcheck_of_both_outputs():
    matrix = (torch.rand(2, 4, 4).double() + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: sinkhorn(m, 4), (matrix,))


def test_a_permutation_with_denormal_entries_is_left_alone():
    matrix = torch.eye(4)[None] + 1e-40
    row, column = sinkhorn(matrix, 20)
    torch.testing.assert_close(row * column, torch.ones(1, 4))
