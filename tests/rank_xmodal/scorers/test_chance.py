"""Random order: one number a pair, even, and another for another seed."""

import torch

from rank_xmodal import scorers
from rank_xmodal.lists.list_batch import ListBatch


def batch(queries, rows):
    shape = rows.shape
    return ListBatch(
        query=torch.zeros(len(queries), 3), candidates=torch.zeros(*shape, 3), cosine=torch.zeros(shape),
        neighbour_cosine=torch.zeros(*shape, 0), mask=torch.ones(shape, dtype=torch.bool), query_row=queries, rows=rows,
    )  # fmt: skip


def test_a_pair_has_one_number_in_any_list():
    scorer = scorers.get("chance")
    whole = scorer.score(batch(torch.arange(200), torch.arange(300).expand(200, -1)))
    some = scorer.score(batch(torch.tensor([7, 150]), torch.tensor([[2, 9], [299, 0]])))
    assert some.tolist() == [whole[7, [2, 9]].tolist(), whole[150, [299, 0]].tolist()]
    assert whole.unique().numel() > 0.99 * whole.numel()


def test_numbers_are_even_and_know_neither_query_nor_candidate():
    whole = scorers.get("chance").score(batch(torch.arange(400), torch.arange(500).expand(400, -1)))
    count = torch.histc(whole, bins=20, min=0, max=1) / whole.numel()
    assert (count - 0.05).abs().max() < 0.003
    assert (whole.mean(0) - 0.5).abs().max() < 0.08
    assert (whole.mean(1) - 0.5).abs().max() < 0.08
    assert abs(float(torch.corrcoef(torch.stack([whole[:, 0], whole[:, 1]]))[0, 1])) < 0.2


def test_another_seed_draws_another_order():
    one, other, again = (
        scorers.get("chance", seed=seed).score(batch(torch.arange(9), torch.arange(50).expand(9, -1)))
        for seed in (0, 1, 0)
    )
    assert torch.equal(one, again)
    assert (one.argsort(1) == other.argsort(1)).float().mean() < 0.1
