"""A trained ranker on disk: config.json, model.safetensors, query_bank.npy and a model card.

docs/formats.md says what stands in them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.files import open_npy, replacing, sha256, write_json, write_text
from rank_xmodal.files.tensors import digest_of, read_tensors, write_tensors
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.facts import FORMAT, read_facts
from rank_xmodal.scorers.registry import class_of, parse
from rank_xmodal.scorers.stack import Stack

_BASE = "base."  # before the names of the base's tensors
_WEIGHTS, _BANK = "model.safetensors", "query_bank.npy"
FILES = ("config.json", _WEIGHTS, _BANK, "README.md")


def save(path: Path, stack: Stack, facts: dict[str, Any], card: str) -> None:
    """Write a ranker, its files whole or not at all.

    Parameters
    ----------
    path : Path
        The run's folder; other files in it stay.
    stack : Stack
    facts : dict
        What config.json says beside the scorer's own settings: direction, embedding set, metrics.
    card : str
        The model card, Markdown.
    """
    tensors = {**stack.scorer.state, **{_BASE + name: value for name, value in stack.base.state.items()}}
    bank = np.asarray(stack.bank)
    write_tensors(path / "model.safetensors", tensors)
    with replacing(path / "query_bank.npy") as part, part.open("wb") as handle:
        np.save(handle, bank)
    write_text(path / "README.md", card)
    parts = {"settings": stack.scorer.settings.model_dump(mode="json"), "model": stack.scorer.config}
    base = {"settings": stack.base.settings.model_dump(mode="json"), "model": stack.base.config}
    hashes = {_WEIGHTS: digest_of(tensors), _BANK: sha256(bank)}
    write_json(
        path / "config.json",
        {"format": FORMAT, "scorer": stack.scorer.name, **parts, "base": base, "sha256": hashes, **facts},
    )


def load(path: Path | str) -> tuple[Stack, dict[str, Any]]:
    """Read a ranker back: the stack on the CPU, ready to score, and config.json's contents.

    Raises
    ------
    UserError
        If a file is missing or broken, or the weights don't fit the config.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        unfinished = (
            " Its training was interrupted: the same command goes on." if (path / "checkpoint").is_dir() else ""
        )
        raise UserError(
            f"{path}: holds no trained ranker (no config.json).{unfinished or ' Train one with `rank-xmodal train`.'}"
        )
    facts = read_facts(path)
    lacking = [key for key in ("model", "base", "direction") if facts.get(key) is None]
    if lacking:
        raise UserError(f"{path}: not a whole ranker (config.json says no {lacking[0]}). Train again.")
    state = read_tensors(path / _WEIGHTS)
    bank = open_npy(path / _BANK, "Train again.")
    if bank.ndim != 2 or bank.dtype not in (np.float16, np.float32):  # the latter where sides are not aligned
        raise UserError(
            f"{path / _BANK}: expected (m, d) float16 or float32, found {bank.shape} {bank.dtype}. Train again."
        )
    bank = np.array(bank)
    _check_whole(path, facts, state, bank)
    own = {name: value for name, value in state.items() if not name.startswith(_BASE)}
    of_base = {name[len(_BASE) :]: value for name, value in state.items() if name.startswith(_BASE)}
    try:
        stack = Stack(_loaded(facts, own, path), bank, _loaded(facts["base"], of_base, path))
    except UserError:
        raise
    except Exception as error:  # of any scorer, one's own included, whose config isn't what it wrote
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{path}: not a whole ranker ({why}). Train again.") from error
    return stack, facts


def _check_whole(path: Path, facts: dict[str, Any], state: dict[str, torch.Tensor], bank: np.ndarray) -> None:
    """Compare weights and bank with the hashes taken when they were written; earlier versions took none."""
    for name, found in ((_WEIGHTS, digest_of(state)), (_BANK, sha256(bank))):
        said = facts.get("sha256", {}).get(name, found)
        if said != found:
            raise UserError(
                f"{path / name}: damaged, or of another run: config.json has its hash as {said[:12]}, it is "
                f"{found[:12]}. Bring the folder again from a copy, or train again."
            )
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise UserError(f"{path / _WEIGHTS}: {bad[0]} holds NaN or infinity. Train again.")
    if not np.isfinite(bank).all():
        raise UserError(f"{path / _BANK}: holds NaN or infinity. Train again.")


def _loaded(facts: dict[str, Any], state: dict[str, torch.Tensor], path: Path) -> Scorer:
    settings = parse(facts["settings"], str(path / "config.json"))
    model, kind = facts["model"], class_of(settings.scorer)
    layers = model.get("layers", 0)
    if isinstance(layers, int) and layers > len(state):
        raise UserError(f"{path}: not a whole ranker (layers={layers}, and {len(state)} tensors). Train again.")
    # First without memory: sizes that the weights don't have must not be allocated. torch warns that nothing is copied.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
        kind(settings).load(model, state)
    return kind(settings).load(model, state)
