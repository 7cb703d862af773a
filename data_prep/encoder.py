"""The frozen encoder: any open_clip model with any weights, images and captions in, unit vectors out."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.images import read_image
from data_prep.weights import Weights, import_open_clip, resolve, unpacked
from rank_xmodal.errors import UserError, first_line

_COUNTING = threading.Lock()  # batches are encoded side by side
PRECISIONS = ("auto", "fp32", "fp16", "bf16")


@dataclass
class Encoder:
    """A model in eval mode with its image preparation and tokenizer.

    Attributes
    ----------
    name, pretrained, sha256 : str
        Architecture, tag (or file name) and checksum of the weights file.
    dim : int
        Width of an embedding.
    precision : "fp32", "fp16" or "bf16"
        What the forward pass runs in; weights and normalisation are fp32.
    weights_file : str or None
        The weights file, where the user named one: what loads this encoder again.
    config : dict or None
        Of a model that open_clip doesn't know by itself: what tells it again.
    truncated : int
        Captions met so far that are longer than the model's context and were cut by the tokenizer.
    """

    name: str
    pretrained: str
    sha256: str
    model: Any
    preprocess: Callable[[Any], torch.Tensor]
    tokenizer: Any
    device: torch.device
    precision: str
    dim: int = 0
    weights_file: str | None = None
    config: dict[str, Any] | None = None
    truncated: int = 0

    @property
    def identity(self) -> dict[str, str]:
        """What decides the embeddings, beside the input."""
        config = {"model_config": json.dumps(self.config, sort_keys=True)} if self.config else {}
        return {
            **config,
            "encoder": self.name,
            "pretrained": self.pretrained,
            "weights_sha256": self.sha256,
            "precision": self.precision,
        }

    def load_image(self, image: Any) -> torch.Tensor:
        """Read and prepare one image, (3, height, width) float32; safe to call from several threads.

        Parameters
        ----------
        image : path or PIL image

        Raises
        ------
        UserError
            If the file is missing, cut short or no image.
        """
        return self.preprocess(read_image(image))

    def encode_pixels(self, pixels: torch.Tensor, names: Sequence[str]) -> np.ndarray:
        """Embed prepared images, (n, 3, height, width) -> (n, d) float16, L2-normalised.

        Raises
        ------
        UserError
            If an embedding is not finite; it is called by its entry of `names`.
        """
        return self._run(self.model.encode_image, pixels, [f"image {name}" for name in names])

    def encode_images(self, images: Sequence[Any], batch_size: int = 64) -> np.ndarray:
        """Embed image files or PIL images, n -> (n, d) float16, L2-normalised.

        Raises
        ------
        UserError
            If an image can't be read or its embedding is not finite.
        """
        parts = [np.empty((0, self.dim), dtype=np.float16)]
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            names = [str(x) if isinstance(x, (str, Path)) else f"{start + i}" for i, x in enumerate(batch)]
            parts.append(self.encode_pixels(torch.stack([self.load_image(x) for x in batch]), names))
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Embed captions, n -> (n, d) float16, L2-normalised; too long ones are cut and counted in `truncated`.

        Raises
        ------
        UserError
            If an embedding is not finite.
        """
        parts = [np.empty((0, self.dim), dtype=np.float16)]
        for start in range(0, len(texts), batch_size):
            batch = list(texts[start : start + batch_size])
            tokens = self.tokenizer(batch)
            cut = sum(self._too_long(t, row) for t, row in zip(batch, tokens, strict=True))
            with _COUNTING:
                self.truncated += cut
            parts.append(self._run(self.model.encode_text, tokens, [f"caption {text!r}" for text in batch]))
        return np.concatenate(parts)

    def _too_long(self, text: str, tokens: torch.Tensor) -> bool:
        if tokens[-1] == 0:  # room was left: spares tokenizing twice
            return False
        inner = getattr(self.tokenizer, "tokenizer", None)  # transformers' tokenizer, special tokens included
        count = len(inner(text)["input_ids"]) if inner is not None else len(self.tokenizer.encode(text)) + 2
        return count > len(tokens)

    @contextmanager
    def forward_pass(self, count: int) -> Iterator[None]:
        """Let a forward pass of `count` items run in the encoder's precision.

        Raises
        ------
        UserError
            If they don't fit into the device's memory.
        """
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)
        try:
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.name}: {count} at a time don't fit into the memory of {self.device}. Lower --batch-size."
            ) from error

    @torch.inference_mode()
    def _run(self, forward: Callable[..., torch.Tensor], batch: torch.Tensor, names: list[str]) -> np.ndarray:
        with self.forward_pass(len(batch)):
            out = forward(batch.to(self.device))
        out = out.float()
        norm = out.norm(dim=-1, keepdim=True)
        bad = torch.nonzero(~torch.isfinite(norm[:, 0]) | (norm[:, 0] == 0))
        if len(bad):
            remedy = "Try --precision fp32. " if self.precision != "fp32" else ""
            raise UserError(
                f"{names[int(bad[0])]}: {self.name} gives an embedding that is not finite or zero. "
                f"{remedy}The weights {self.pretrained!r} may be broken."
            )
        return (out / norm).half().cpu().numpy()


def load_encoder(
    model: str,
    pretrained: str | None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    say: Callable[[str], None] = print,
) -> Encoder:
    """Load an open_clip model with its weights.

    Parameters
    ----------
    model : str
        open_clip's name, e.g. "ViT-B-32-quickgelu", "scenes-clip", or a config file of open_clip's, NAME.json.
    pretrained : str
        A tag of that model ("openai"; "scenes" for scenes-clip), a weights file (safetensors, or what
        torch.load(weights_only=True) accepts; .xz too), or TAG=FILE.
    device : str, optional
        "cuda" where there is one, else "cpu".
    precision : "auto", "fp32", "fp16" or "bf16"
        auto: fp16 on CUDA, fp32 elsewhere.

    Raises
    ------
    UserError
        If name, tag, file, device or precision can't be used, or the weights belong to another model.
    """
    target = _device(device)
    precision = _precision(precision, target)
    weights = resolve(model, pretrained)
    for note in weights.notes:
        say(note)
    network, preprocess, tokenizer = _build(weights)
    network.to(target).eval().requires_grad_(False)
    encoder = Encoder(weights.model, weights.tag, weights.sha256, network, preprocess, tokenizer, target, precision)
    encoder.weights_file = str(weights.path.resolve()) if weights.by_hand else None
    encoder.config = weights.config
    # Asked of the model itself: configurations of CoCa and of timm's towers spell the width differently.
    with torch.inference_mode():
        encoder.dim = int(network.encode_text(tokenizer(["a"]).to(target)).shape[-1])
    return encoder


def weights_named(tag: str, file: str | None) -> str:
    """Return what `load_encoder` finds the weights of an encoder by again: its tag, its file, or TAG=FILE.

    A file that was given for a tag is prepared for as the tag's are.
    """
    if file is None:
        return tag
    return file if tag in ("", Path(file).name) else f"{tag}={file}"


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA raises AssertionError
        raise UserError(f"device={str(device)!r}: {str(error).splitlines()[0]} Use --device cpu.") from error
    return target


def _precision(precision: str, device: torch.device) -> str:
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision='fp16': slow and inexact on a CPU. Use fp32 or bf16.")
    return precision


def _build(weights: Weights) -> tuple[Any, Any, Any]:
    open_clip = import_open_clip()
    with unpacked(weights.path) as file, _never_unpickling():
        try:
            network, preprocess = open_clip.create_model_from_pretrained(
                weights.model,
                pretrained=str(file),
                **{f"image_{key}": value for key, value in weights.preprocess.items()},
                weights_only=True,  # the default, and said here because it must never become another
            )
        except ImportError as error:
            raise UserError(f"model={weights.model!r}: needs a package that is not installed ({error}).") from error
        except pickle.UnpicklingError as error:
            code = "GLOBAL" in str(error) or "REDUCE" in str(error)
            what = "loading it could run code that it carries" if code else "it is something else, or damaged"
            raise UserError(
                f"{weights.path}: not a plain weights file; {what}. Bring the .safetensors file of these weights."
            ) from error
        except Exception as error:  # a foreign or broken file fails in whatever way its bytes suggest
            raise UserError(_why(weights, error)) from error
        try:
            tokenizer = open_clip.get_tokenizer(weights.model)
        except Exception as error:
            raise UserError(
                f"model={weights.model!r}: its tokenizer is not on this machine and can't be fetched ({error}). Run "
                "once on a machine with network and copy its Hugging Face cache here."
            ) from error
    return network, preprocess, tokenizer


@contextmanager
def _never_unpickling() -> Iterator[None]:
    """Forbid torch.load to run code, open_clip's second attempt (after a TypeError) included."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _why(weights: Weights, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "TorchScript" in str(error):
        return f"{weights.path}: a TorchScript archive, not plain weights. Bring their .safetensors file."
    if any("Missing key" in line or "size mismatch" in line or "Unexpected key" in line for line in lines):
        first = next(line for line in lines if "key" in line or "size mismatch" in line)
        return (
            f"{weights.path}: these weights are not of model {weights.model!r} ({first[:160]}). "
            "Name the model that they were trained with in --model."
        )
    said = first_line(error)
    return f"{weights.path}: can't be read as weights of {weights.model!r} ({said}). Is it another model's, or damaged?"
