"""The encoder that made an embedding set, or that a run was trained with, loaded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from data_prep.encoder import Encoder, load_encoder, weights_named
from data_prep.weights import add_config
from rank_xmodal.errors import UserError


def silent(line: str) -> None:
    """Say nothing."""


def encoder_of(
    facts: dict[str, Any],
    device: str = "auto",
    *,
    where: str = "the ranker",
    pretrained: str | None = None,
    say: Callable[[str], None] = silent,
) -> Encoder:
    """Load an encoder by what a set's meta.json or a run's config.json says of it.

    Parameters
    ----------
    facts : dict
        encoder, pretrained, weights_sha256; weights_file and model_config where the model needs them.
    device : str
    where : str
        What messages call the set or run.
    pretrained : str or None
        Its weights, where they are not where they were.
    say : callable
        Told what is loaded.

    Raises
    ------
    UserError
        If nobody told which encoder it was, it can't be loaded, or its weights are others.
    """
    name = facts.get("encoder")
    if not name:
        raise UserError(
            f"{where}: was imported and doesn't say which encoder made it; only its own rows can ask. "
            "Import it again with --model and --pretrained."
        )
    if facts.get("model_config"):
        add_config(name, json.loads(facts["model_config"]), where)
    weights = pretrained or weights_named(facts.get("pretrained") or "", facts.get("weights_file"))
    encoder = load_encoder(name, weights, None if device == "auto" else device, say=say)
    if facts.get("weights_sha256") not in (None, encoder.sha256):
        raise UserError(
            f"{where}: was embedded with other weights than {encoder.pretrained}. Name them by --pretrained."
        )
    return encoder
