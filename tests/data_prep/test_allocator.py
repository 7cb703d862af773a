"""What is freed is kept: the kernel is asked for pages once, not for each batch."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from data_prep.allocator import keep_blocks
torch.set_num_threads(1)
able = sys.argv[1] == "keep" and keep_blocks()
for _ in range(10):
    torch.zeros(50_000_000, dtype=torch.uint8).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(50_000_000, dtype=torch.uint8).add_(1)
print(able, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    ended = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    able, count = ended.stdout.split()
    return able == "True", int(count)


def test_large_blocks_are_asked_for_once():
    able, kept = faults("keep")
    if not able:
        pytest.skip("another C library")
    assert kept * 3 < faults("plain")[1]
