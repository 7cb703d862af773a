"""A list of 51 that every loss knows a closed form for, and allRank to compare with."""

import importlib
import sys
import types

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    """These tensors are too small to share between threads."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def one_of_51():
    """51 equal scores, and labels of which one is 1."""
    return torch.zeros(1, 51), torch.eye(51)[7:8]


@pytest.fixture(scope="session")
def allrank():
    """Namespace with allRank's `losses` and `metrics` modules; the test is skipped where allRank is not installed.

    Imported without its data loader, which needs torchvision and Google Cloud to define the number -1.
    """
    pytest.importorskip("allrank")
    loader = "allrank.data.dataset_loading"
    stand_in = None
    if loader not in sys.modules:
        stand_in = types.ModuleType(loader)
        stand_in.PADDED_Y_VALUE = -1
        sys.modules[loader] = stand_in
    try:
        return types.SimpleNamespace(
            losses=importlib.import_module("allrank.models.losses"),
            metrics=importlib.import_module("allrank.models.metrics"),
        )
    finally:
        if stand_in is not None:
            del sys.modules[loader]
