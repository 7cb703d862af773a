"""What runs are called."""

from __future__ import annotations

from rank_xmodal.scorers import ScorerSettings, class_of
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.registry import DEFAULT
from rank_xmodal.scorers.settings import ListSettings

HEADINGS = {"t2i": "text to image", "i2t": "image to text"}


def run_name(settings: ScorerSettings, direction: str) -> str:
    """Return what a run is called wherever it shows: listnet-t2i, with what differs from the defaults behind it."""
    trained = isinstance(settings, ListSettings)
    parts = [settings.loss if isinstance(settings, ListSettings) else settings.scorer, direction]
    if trained and settings.scorer != DEFAULT:
        parts.append(settings.scorer)
    elif (features := getattr(settings, "features", "full")) != "full":
        parts.append(features)
    if settings.on != Cosine.name:
        parts.append(f"on-{settings.on}")
    if settings.seed:
        parts.append(f"seed{settings.seed}")
    return "-".join(parts)


def row_name(settings: ScorerSettings) -> str:
    """Return what a table calls a run: its loss, or its scorer, with what it stands on."""
    if isinstance(settings, ListSettings):
        name = settings.loss
        if settings.scorer != DEFAULT:
            name += f" ({settings.scorer})"
        elif (features := getattr(settings, "features", "full")) != "full":
            name += f" ({features})"
    else:
        name = class_of(settings.scorer).label
    return name if settings.on == Cosine.name else f"{name} on {class_of(settings.on).label}"
