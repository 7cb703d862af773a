"""A trained ranker on disk: config.json, model.safetensors, query_bank.npy and a model card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rank_xmodal.allrank_ranker import AllRankRanker
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, replacing, write_json
from rank_xmodal.ranker import ContextAwareRanker, RankerConfig

FORMAT = 2
Ranker = ContextAwareRanker | AllRankRanker
_KINDS: dict[str, type[Ranker]] = {"rank_xmodal": ContextAwareRanker, "allrank": AllRankRanker}


def build(kind: str, config: RankerConfig) -> Ranker:
    """Make an untrained ranker of a kind, "rank_xmodal" or "allrank"."""
    return _KINDS[kind](config)


def save(path: Path, model: Ranker, bank: np.ndarray, facts: dict[str, Any], card: str) -> None:
    """Write a ranker, its files whole or not at all.

    Parameters
    ----------
    path : Path
        The run's folder; other files in it stay.
    model : ContextAwareRanker or AllRankRanker
    bank : ndarray (m, d), float16
    facts : dict
        What config.json says beside the model's own config: direction, embedding set, settings, metrics.
    card : str
        The model card, Markdown.
    """
    kind = next(name for name, cls in _KINDS.items() if isinstance(model, cls))
    path.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(path / "model.safetensors") as part:
        save_file(state, part)
    with replacing(path / "query_bank.npy") as part, part.open("wb") as handle:
        np.save(handle, np.asarray(bank, dtype=np.float16))
    with replacing(path / "README.md") as part:
        part.write_text(card, encoding="utf-8")
    write_json(path / "config.json", {"format": FORMAT, "kind": kind, "model": asdict(model.config), **facts})


def load(path: Path | str) -> tuple[Ranker, np.ndarray, dict[str, Any]]:
    """Read a ranker back: the model in evaluation mode on the CPU, its query bank and config.json's contents.

    Raises
    ------
    UserError
        If a file is missing or broken, or the weights don't fit the config.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: holds no trained ranker (no config.json). Train one with `rank-xmodal train`.")
    facts = read_json(path / "config.json")
    if facts.get("format") != FORMAT or facts.get("kind") not in _KINDS:
        raise UserError(f"{path / 'config.json'}: format {facts.get('format')!r}, expected {FORMAT}. Train again.")
    try:
        config = RankerConfig(**{**facts["model"], "blocks": tuple(facts["model"]["blocks"])})
        model = build(facts["kind"], config)
        model.load_state_dict(load_file(path / "model.safetensors"))
        bank = np.load(path / "query_bank.npy", allow_pickle=False)
    except (FileNotFoundError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a whole ranker ({' '.join(str(error).split())[:300]}). Train again.") from error
    return model.eval(), bank, facts


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
