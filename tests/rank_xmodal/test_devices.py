"""Which devices are taken, and what is too large for them."""

import pytest
import torch

from rank_xmodal.devices import check_memory, pick_device
from rank_xmodal.errors import UserError

CPU = torch.device("cpu")


def test_cpu_and_auto_are_there():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["quantum", "cuda:99", "meta", "cpu:7", "", "hpu", "vulkan"])
def test_another_is_told_those_that_there_are(name):
    with pytest.raises(UserError, match=rf"^device='{name}': not on this machine\. Use auto or one of cpu"):
        pick_device(name)


def test_one_that_is_there_and_fails_says_why(monkeypatch):
    def busy(*arguments, **options):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.empty", busy)
    with pytest.raises(
        UserError, match=r"^device='cuda:1': CUDA error: .* are busy\. Use auto or one of cpu, cuda, cuda:0, cuda:1"
    ):
        pick_device("cuda:1")


def test_what_is_larger_than_the_machine_is_refused():
    check_memory(1 << 20, CPU, "a list")
    with pytest.raises(UserError, match=r"^a network takes at least 9.31e\+08 GiB of memory; cpu has [0-9.,]+ GiB\.$"):
        check_memory(10**18, CPU, "a network")


def test_a_device_whose_memory_is_not_known_is_not_judged():
    check_memory(10**18, torch.device("meta"), "a network")
