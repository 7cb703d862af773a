"""A trained ranker on disk: config.json, model.safetensors, query_bank.npy and a model card.

docs/formats.md says what stands in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rank_xmodal.data.embedding_set import check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.files import read_json, replacing, write_json
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.registry import class_of, parse
from rank_xmodal.scorers.stack import Stack

FORMAT = 3
_EARLIER = 2  # had rankers alone, without a base, and called the scorer `kind`
_BASE = "base."  # before the names of the base's tensors
FILES = ("config.json", "model.safetensors", "query_bank.npy", "README.md")


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
    path.mkdir(parents=True, exist_ok=True)
    tensors = {**stack.scorer.state, **{_BASE + name: value for name, value in stack.base.state.items()}}
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path / "model.safetensors") as part:
        save_file(state, part)
    with replacing(path / "query_bank.npy") as part, part.open("wb") as handle:
        np.save(handle, np.asarray(stack.bank, dtype=np.float16))
    with replacing(path / "README.md") as part:
        part.write_text(card, encoding="utf-8")
    parts = {"settings": stack.scorer.settings.model_dump(mode="json"), "model": stack.scorer.config}
    base = {"settings": stack.base.settings.model_dump(mode="json"), "model": stack.base.config}
    write_json(path / "config.json", {"format": FORMAT, "scorer": stack.scorer.name, **parts, "base": base, **facts})


def load(path: Path | str) -> tuple[Stack, dict[str, Any]]:
    """Read a ranker back: the stack on the CPU, ready to score, and config.json's contents.

    Raises
    ------
    UserError
        If a file is missing or broken, or the weights don't fit the config.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: holds no trained ranker (no config.json). Train one with `rank-xmodal train`.")
    facts = read_facts(path)
    try:
        state = load_file(path / "model.safetensors")
        own = {name: value for name, value in state.items() if not name.startswith(_BASE)}
        of_base = {name[len(_BASE) :]: value for name, value in state.items() if name.startswith(_BASE)}
        bank = np.load(path / "query_bank.npy", allow_pickle=False)
        stack = Stack(_loaded(facts, own, path), bank, _loaded(facts["base"], of_base, path))
        check_direction(facts["direction"])
        if facts.get("calibration"):
            Calibration(**facts["calibration"])
    except (FileNotFoundError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a whole ranker ({' '.join(str(error).split())[:300]}). Train again.") from error
    return stack, facts


def _loaded(facts: dict[str, Any], state: dict[str, torch.Tensor], path: Path) -> Scorer:
    settings = parse(facts["settings"], str(path / "config.json"))
    return class_of(settings.scorer)(settings).load(facts["model"], state)


def read_facts(path: Path) -> dict[str, Any]:
    """Read a run's config.json as this version writes it; those of the version before are understood.

    Raises
    ------
    UserError
        If it is missing, broken or of another version.
    """
    facts = read_json(path / "config.json")
    if not isinstance(facts, dict):
        raise UserError(f"{path / 'config.json'}: holds a {type(facts).__name__}, not a run's facts. Train again.")
    told, model = facts.get("settings"), facts.get("model")
    if isinstance(told, dict) and isinstance(model, dict) and "blocks" in model and told.get("features") == "full":
        # Before there were cross-fitted scores, full meant the embeddings.
        facts = {**facts, "settings": {**told, "features": "embeddings"}}
    if facts.get("format") == _EARLIER and facts.get("kind") in ("rank_xmodal", "allrank"):
        settings = parse({**facts.get("settings", {}), "ranker": facts["kind"]}, str(path / "config.json"))
        clip = {"settings": Cosine().settings.model_dump(mode="json"), "model": {}}
        dumped = settings.model_dump(mode="json")
        facts = {**facts, "format": FORMAT, "scorer": settings.scorer, "settings": dumped, "base": clip}
    if facts.get("format") != FORMAT:
        raise UserError(f"{path / 'config.json'}: format {facts.get('format')!r}, expected {FORMAT}. Train again.")
    return facts
