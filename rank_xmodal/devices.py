"""Where tensors live."""

from __future__ import annotations

import torch

from rank_xmodal.errors import UserError


def pick_device(name: str) -> torch.device:
    """Return the device a setting names; "auto" is CUDA where there is one.

    Raises
    ------
    UserError
        If torch doesn't know it or can't reach it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name!r}: {str(error).splitlines()[0]}. Use cpu or auto.") from error
    return device
