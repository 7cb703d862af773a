"""Let torchvision be imported on a CPU-only torch.

The Linux torchvision wheel carries operators compiled against CUDA libraries. On a CPU-only torch they can't load, and
the import fails on ``operator torchvision::nms does not exist``, although nothing here calls them. Declaring their
schemas is enough. On a machine where the operators load this does nothing.
"""

from __future__ import annotations

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the declarations live as long as this object


def make_importable() -> None:
    """Import torchvision, declaring its missing operator schemas first where, and only where, that is needed."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _library is not None:
            raise
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # left half-imported by the failure
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
        import torchvision  # noqa: F401
