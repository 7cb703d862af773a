"""Batches side by side: in their order, the same bits, and an error ends it."""

import threading
import time

import pytest
import torch

from data_prep.computing import computed, threads_for


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_in_the_order_of_the_batches(threads):
    def slower_first(number):
        time.sleep(0.02 / (1 + number))
        return number, threading.current_thread().name

    found = [*computed(slower_first, range(12), threads)]
    assert [number for number, _ in found] == [*range(12)]
    assert len({name for _, name in found}) <= threads


def test_the_bits_do_not_depend_on_the_threads():
    """A product of these shapes, shared among two threads, may differ from one thread's."""
    torch.manual_seed(0)
    weight = torch.randn(768, 768)
    batches = [torch.randn(count, 768) for count in (5, 12, 1, 64, 9)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([*computed(lambda batch: torch.relu(batch @ weight) @ weight.T, batches, threads)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_ends_it_behind_those_before(threads):
    begun, got = [], []

    def work(number):
        begun.append(number)
        if number == 4:
            raise ValueError("four")
        return number

    with pytest.raises(ValueError, match="four"):
        got.extend(computed(work, range(100), threads))
    assert len(begun) <= 5 + threads


def test_one_batch_at_a_time_on_a_gpu():
    assert threads_for(torch.device("cuda")) == 1
    assert threads_for(torch.device("cpu")) == torch.get_num_threads()
