"""Where tensors live, and how much memory there is."""

from __future__ import annotations

import os
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

from rank_xmodal.errors import UserError


def pick_device(name: str) -> torch.device:
    """Return the device a setting names; "auto" is CUDA where there is one.

    Raises
    ------
    UserError
        If this machine doesn't have it, or it can't be used; names those that there are.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there, reason = _present(), "not on this machine"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        if name in there:
            reason = str(error).splitlines()[0]
    else:
        # Torch takes any number behind "cpu", and meta, on which tensors hold nothing.
        if device.type not in ("cpu", "meta") or str(device) == "cpu":
            return device
    raise UserError(f"device={name!r}: {reason}. Use auto or one of {', '.join(there)}.")


def _present() -> list[str]:
    cuda = torch.cuda.device_count()
    found = ["cpu", *(["cuda"] if cuda else []), *(f"cuda:{number}" for number in range(cuda))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def check_memory(needed: int, device: torch.device, where: str) -> None:
    """Refuse what can't fit: better than an allocation that fails, or a process that the system kills.

    Parameters
    ----------
    needed : int
        Bytes.
    device : torch.device
    where : str
        What the message calls that which needs them, with the settings to change.

    Raises
    ------
    UserError
        If that is more than the device has, whether or not others use it at the moment.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    elif device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return
    if needed > total:
        size, there = (f"{count / 2**30:,.3g} GiB" for count in (needed, total))
        raise UserError(f"{where} takes at least {size} of memory; {device} has {there}.")


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # takes a millisecond to find them


def alone() -> None:
    """Let what this thread multiplies run in it alone, where others do as much beside it. OpenMP counts by thread."""
    torch.get_num_threads()  # which sets them when a thread first asks
    _libraries().limit(limits=1, user_api="openmp")
