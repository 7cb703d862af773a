"""From a model name and a tag or file to weights on disk, with the mistakes caught that open_clip lets through."""

from __future__ import annotations

import difflib
import errno
import json
import lzma
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, sha256_of_file
from rank_xmodal.torchvision_ops import make_importable

MODELS = Path(__file__).parent / "models"
SCENES_MODEL, SCENES_TAG = "scenes-clip", "scenes"
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class Weights:
    """Weights on this disk, and how images are prepared for them.

    Attributes
    ----------
    model : str
        open_clip's name of the architecture.
    tag : str
        What was asked for: a pretrained tag, or a file's name.
    path : Path
    sha256 : str
        Of the file at `path`, as it is there (compressed, where it is).
    preprocess : dict
        mean, std, interpolation, resize_mode; empty where open_clip's defaults hold.
    notes : tuple of str
        What a user should know about this choice.
    by_hand : bool
        A file that the user named, and not one that the tag leads to.
    config : dict or None
        Of a model that open_clip doesn't know by itself.
    """

    model: str
    tag: str
    path: Path
    sha256: str
    preprocess: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    by_hand: bool = False
    config: dict[str, Any] | None = None


_ADDED: dict[str, dict[str, Any]] = {}  # configs that were added by name


def read_config(path: Path) -> dict[str, Any]:
    """Read a model's config file.

    Raises
    ------
    UserError
        If it is missing, or no open_clip config.
    """
    if not path.is_file():
        raise UserError(f"model={str(path)!r}: no such file. Name one of open_clip's models, or a config file of one.")
    found = read_json(path)
    wanted = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(found, dict) or not set(wanted) <= set(found):
        raise UserError(f"{path}: no open_clip config; it needs the keys {', '.join(wanted)}.")
    return found


def add_config(name: str, config: dict[str, Any], where: str) -> None:
    """Tell open_clip of a model that it doesn't know.

    Raises
    ------
    UserError
        If it knows another one by that name.
    """
    open_clip = import_open_clip()
    if name in open_clip.list_models():
        if open_clip.get_model_config(name) != config:
            raise UserError(f"{where}: open_clip has another model named {name!r}. Give the config file another name.")
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(config), encoding="utf-8")
            open_clip.add_model_config(path)
    _ADDED[name] = config


def import_open_clip() -> Any:
    """Import open_clip, with the demo's model among its configurations."""
    make_importable()
    import open_clip

    if SCENES_MODEL not in open_clip.list_models():
        open_clip.add_model_config(MODELS)
    return open_clip


def resolve(model: str, pretrained: str | None) -> Weights:
    """Find or download the weights.

    Parameters
    ----------
    model : str
        One of open_clip's names, scenes-clip, or a config file of open_clip's, NAME.json.
    pretrained : str
        A tag of that model, the path of a weights file, or TAG=FILE: the file that belongs to a tag, brought along by
        hand, with the tag's own image preparation and checks. A file may be .xz-compressed.

    Raises
    ------
    UserError
        If the name or tag is unknown, the two don't fit (QuickGELU), the file is missing, or there is no network.
    """
    open_clip = import_open_clip()
    if model.endswith(".json"):
        config = Path(model)
        name = config.stem
        add_config(name, read_config(config), model)
    else:
        name = model.replace("/", "-")  # as open_clip does: ViT-B/32 is ViT-B-32
    if name not in open_clip.list_models():
        raise UserError(f"model={model!r}: open_clip has no such model. {_near(name, open_clip.list_models())}")
    if not pretrained:
        raise UserError(f"model={model!r}: name its weights with --pretrained; {_tags_of(open_clip, name)}")

    if name == SCENES_MODEL and pretrained == SCENES_TAG:
        path = MODELS / f"{SCENES_MODEL}.safetensors.xz"
        if not path.is_file():
            raise UserError(f"{path}: the demo's weights are missing. Install the package again.")
        return Weights(name, SCENES_TAG, path, sha256_of_file(path))
    if open_clip.get_pretrained_cfg(name, pretrained):
        check_quick_gelu(name, pretrained)
        path = _download(open_clip, name, pretrained)
        return Weights(name, pretrained, path, sha256_of_file(path), _facts(open_clip, name, pretrained))

    tag, _, file = pretrained.partition("=")
    if file and open_clip.get_pretrained_cfg(name, tag):
        check_quick_gelu(name, tag)
        path = _existing(open_clip, name, file)
        return Weights(name, tag, path, sha256_of_file(path), _facts(open_clip, name, tag), by_hand=True)
    path = _existing(open_clip, name, pretrained)
    return replace(_from_file(open_clip, name, path), config=_ADDED.get(name))


def check_quick_gelu(model: str, tag: str) -> None:
    """Check that the model computes the activation that the tag's weights were trained with.

    open_clip only warns when they differ, and computes the wrong embeddings. It decides by the two `quick_gelu` flags
    compared here, before anything is downloaded.

    Raises
    ------
    UserError
        If they differ; the message names the model that fits.
    """
    open_clip = import_open_clip()
    have = bool(open_clip.get_model_config(model).get("quick_gelu", False))
    need = bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False))
    other = _other_activation(model)
    # One published model (roberta-ViT-B-32) lacks the flag in open_clip's table of tags and has no sibling: its
    # configuration is the one that its weights were trained with.
    if have != need and open_clip.get_pretrained_cfg(other, tag):
        raise UserError(
            f"model={model!r} with pretrained={tag!r}: these weights were trained with {'Quick' if need else ''}GELU, "
            f"this model computes {'Quick' if have else ''}GELU and the embeddings would be wrong. Use --model {other}."
        )


def _other_activation(model: str) -> str:
    return model.removesuffix("-quickgelu") if model.endswith("-quickgelu") else f"{model}-quickgelu"


def _facts(open_clip: Any, model: str, tag: str) -> dict[str, Any]:
    cfg = open_clip.get_pretrained_cfg(model, tag)
    return {key: cfg[key] for key in _PREPROCESS if key in cfg}


def _from_file(open_clip: Any, model: str, path: Path) -> Weights:
    """Say what is known of a file that comes without a tag: whose it is, by its checksum, or what all tags share."""
    digest = sha256_of_file(path)
    for name in (model, _other_activation(model)):
        for tag in open_clip.list_pretrained_tags_by_model(name):
            # OpenAI's addresses hold the whole checksum, open_clip's releases its first eight digits.
            url = open_clip.get_pretrained_cfg(name, tag).get("url", "")
            if digest in url or f"-{digest[:8]}." in url:
                if name == model:
                    check_quick_gelu(model, tag)
                    return Weights(model, tag, path, digest, _facts(open_clip, model, tag), by_hand=True)
                raise UserError(f"{path}: these are the {tag!r} weights of {name}. Use --model {name}.")
    tags = open_clip.list_pretrained_tags_by_model(model)
    ways = [_facts(open_clip, model, tag) for tag in tags]
    notes = []
    if any(way != ways[0] for way in ways):
        notes.append(
            f"{path.name}: the published weights of {model} differ in how images are prepared; this file is taken to "
            f"be of the usual kind. Write --pretrained TAG={path.name} if it belongs to a tag."
        )
    if _other_activation(model) in open_clip.list_models():
        have = "QuickGELU" if open_clip.get_model_config(model).get("quick_gelu") else "GELU"
        notes.append(
            f"{path.name}: a file doesn't say which activation it was trained with; {model} computes {have}. "
            f"If that is wrong, use --model {_other_activation(model)}."
        )
    same = ways[0] if ways and not any(way != ways[0] for way in ways) else {}
    return Weights(model, path.name, path, digest, same, tuple(notes), by_hand=True)


def _existing(open_clip: Any, model: str, pretrained: str) -> Path:
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"pretrained={pretrained!r}: a folder. Name the weights file in it.")
    other = _other_activation(model)
    if open_clip.get_pretrained_cfg(other, pretrained):
        raise UserError(f"model={model!r}: it has no weights {pretrained!r}; {other} has. Use --model {other}.")
    near = difflib.get_close_matches(pretrained.lower(), _tags(open_clip, model), 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"pretrained={pretrained!r}: no such file, and no tag of {model}. {hint}"
        f"For {model}, {_tags_of(open_clip, model)}"
    )


def _tags(open_clip: Any, model: str) -> list[str]:
    return [SCENES_TAG] if model == SCENES_MODEL else list(open_clip.list_pretrained_tags_by_model(model))


def _tags_of(open_clip: Any, model: str) -> str:
    tags = _tags(open_clip, model)
    return f"its tags are {', '.join(tags)}." if tags else "it has no tags, so give a weights file."


def _near(name: str, known: Iterable[str]) -> str:
    lower = {k.lower(): k for k in known}
    near = [lower[key] for key in difflib.get_close_matches(name.lower(), lower, 3, 0.5)]
    return f"Did you mean {', '.join(near)}?" if near else "`open_clip.list_models()` lists them."


def _download(open_clip: Any, model: str, tag: str) -> Path:
    """Return the file of a tag, from the cache or from the network."""
    from open_clip.pretrained import download_pretrained

    cfg = open_clip.get_pretrained_cfg(model, tag)
    try:
        return Path(download_pretrained(cfg))
    except Exception as error:  # open_clip turns whatever the hub, urllib or the cache raised into errors of its own
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"pretrained={tag!r}: the disk is full. Free some space and run again; HF_HOME moves the cache."
            ) from error
        raise UserError(_bring(model, tag, cfg, error)) from error


def _bring(model: str, tag: str, cfg: dict[str, Any], error: Exception) -> str:
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= 200 else reason[:200] + "..."
    if cfg.get("hf_hub"):
        from huggingface_hub import constants
        from open_clip.constants import HF_SAFE_WEIGHTS_NAME

        repo, _, file = cfg["hf_hub"].rpartition("/")
        file = file or HF_SAFE_WEIGHTS_NAME
        where = f"{file} of https://huggingface.co/{repo}"
        cache = (
            f", or copy the folder models--{repo.replace('/', '--')} of a machine that has it into "
            f"{constants.HF_HUB_CACHE}"
        )
    else:
        file = Path(cfg.get("url", "")).name
        where, cache = cfg.get("url", ""), f", or put it into {Path('~/.cache/clip').expanduser()}"
    return (
        f"model={model!r}, pretrained={tag!r}: the weights are not on this machine and can't be downloaded ({reason}). "
        f"Bring {where} and name it: --pretrained {tag}=/path/to/{file}{cache}."
    )


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield a weights file that open_clip can read: the file itself, or what a .xz holds, in a temporary folder.

    Raises
    ------
    UserError
        If the .xz is broken or the temporary folder is full.
    """
    if path.suffix != ".xz":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rank-xmodal-") as folder:
        target = Path(folder) / path.stem
        try:
            with lzma.open(path, "rb") as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except (lzma.LZMAError, EOFError) as error:
            raise UserError(f"{path}: not a whole .xz file ({error}). Bring it again.") from error
        except OSError as error:
            raise UserError(f"{path}: can't be unpacked into {folder} ({error.strerror}). Set TMPDIR.") from error
        yield target
