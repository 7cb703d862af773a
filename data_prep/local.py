"""Words and cells of the frozen encoder: what its towers know before they pool it, in the space of its embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from data_prep.encoder import Encoder
from rank_xmodal.errors import UserError

Path = Literal["last", "values"]
PATHS: tuple[Path, ...] = ("last", "values")
_COUNTED = 1_024  # captions at a time
_TOLERANCE = 1e-3  # of a unit vector's entries in float16


@dataclass(frozen=True)
class Local:
    """What tokens of a batch are: the encoder's own embedding beside its parts.

    Attributes
    ----------
    pooled : Tensor (n, d), float32, L2-normalised
        The embedding that the model makes of these very parts.
    parts : list of Tensor (p_i, d), float32, L2-normalised
        Cells of an image in reading order, or words of a caption in theirs: no padding, no start, no end.
    """

    pooled: Tensor
    parts: list[Tensor]


class LocalEncoder:
    """An encoder that gives parts, too.

    Cells are projected as the tower projects what it pools. Of a transformer there are two ways: its last layer, or
    the value path of its last block (`values`), for patch tokens of the last layer point away from the text.

    Parameters
    ----------
    encoder : Encoder
    path : "last" or "values"
        Of an image tower that is a transformer; a convolutional one has one way.

    References
    ----------
    Zhou et al.: Extract Free Dense Labels from CLIP (MaskCLIP), ECCV 2022, arXiv:2112.01071.

    Raises
    ------
    UserError
        If a tower is of a kind whose parts can't be projected.
    """

    def __init__(self, encoder: Encoder, path: Path = "values") -> None:
        if path not in PATHS:
            raise UserError(f"tokens={path!r}: must be one of {', '.join(PATHS)}.")
        self.encoder = encoder
        self._image, self.image_facts = _image_tower(encoder, path)
        self._text, self._inside = _text_tower(encoder)

    def count_words(self, texts: Sequence[str]) -> int:
        """Return how many words captions have together, as the tokenizer counts and cuts them."""
        parts = (list(texts[start : start + _COUNTED]) for start in range(0, len(texts), _COUNTED))
        return sum(int(self._inside(self.encoder.tokenizer(part)).sum()) for part in parts)

    @torch.inference_mode()
    def images(self, pixels: Tensor, names: Sequence[str]) -> Local:
        """Encode prepared images, (n, 3, height, width).

        Raises
        ------
        UserError
            If a cell is zero or not finite; its image is called by its entry of `names`.
        """
        with self.encoder.autocast():
            pooled, cells = self._image(pixels.to(self.encoder.device))
        return _local(pooled, list(cells.float()), [f"image {name}" for name in names])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Local:
        """Encode captions.

        Raises
        ------
        UserError
            If a caption has no words, or a word is zero or not finite.
        """
        tokens = self.encoder.tokenizer(list(texts)).to(self.encoder.device)
        with self.encoder.autocast():
            pooled, words, inside = self._text(tokens)
        return _local(pooled, [w[m] for w, m in zip(words.float(), inside, strict=True)], [repr(t) for t in texts])


def _local(pooled: Tensor, parts: list[Tensor], names: list[str]) -> Local:
    unit = []
    for part, name in zip(parts, names, strict=True):
        if not len(part):
            raise UserError(f"{name}: has no words. Write a caption, or leave it out.")
        norm = part.norm(dim=-1, keepdim=True)
        if not bool((torch.isfinite(norm) & (norm > 0)).all()):
            raise UserError(f"{name}: a token is zero or not finite. The weights may be broken.")
        unit.append(part / norm)
    pooled = pooled.float()
    return Local(pooled / pooled.norm(dim=-1, keepdim=True), unit)


_Image = Callable[[Tensor], tuple[Tensor, Tensor]]


def _image_tower(encoder: Encoder, path: Path) -> tuple[_Image, dict[str, Any]]:
    visual = encoder.model.visual
    kind = type(visual).__name__
    if kind == "VisionTransformer" and getattr(visual, "attn_pool", None) is None:
        facts = {"tower": "vit", "layer": "last block", "path": path, "grid": list(visual.grid_size)}
        return (lambda pixels: _vit(visual, pixels, path)), facts
    if kind == "ModifiedResNet":
        side = visual.image_size // 32 if isinstance(visual.image_size, int) else visual.image_size[0] // 32
        return (lambda pixels: _resnet(visual, pixels)), {
            "tower": "resnet",
            "layer": "last stage",
            "grid": [side, side],
        }
    if kind == "TimmModel":
        probe = visual.trunk.forward_features(torch.zeros(1, 3, *_size(visual), device=encoder.device))
        if probe.ndim == 4 and _pools_by_mean(visual):
            return (lambda pixels: _timm(visual, pixels)), {
                "tower": "timm", "layer": "last map", "grid": list(probe.shape[2:])
            }  # fmt: skip
    raise UserError(
        f"--tokens: the image tower of {encoder.name} ({kind}) has parts that can't be projected one by one. Take a "
        "model with a ViT or ResNet of CLIP's, or a convolutional tower of timm's with mean pooling."
    )


def _size(visual: Any) -> tuple[int, int]:
    size = visual.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _vit(visual: Any, pixels: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    count = 1 if path == "last" else min(2, len(visual.transformer.resblocks))
    out = visual.forward_intermediates(pixels, indices=count, output_fmt="NLC", normalize_intermediates=path == "last")
    cells = out["image_intermediates"][0]
    if path == "values":
        block = visual.transformer.resblocks[-1]
        if count == 1:  # a single block: what goes into it are the embedded patches
            cells = visual._embeds(pixels)[:, 1:]
        width = cells.shape[-1]
        inside = block.ln_1(cells)
        values = inside @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
        cells = visual.ln_post(block.attn.out_proj(values))
    return out["image_features"], cells if visual.proj is None else cells @ visual.proj


def _resnet(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    out = visual.forward_intermediates(pixels, indices=1)
    cells = out["image_intermediates"][0].flatten(2).transpose(1, 2)
    pool = visual.attnpool
    return out["image_features"], pool.c_proj(pool.v_proj(cells))


def _timm(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    grid = visual.trunk.forward_features(pixels)
    pooled = visual.head(visual.trunk.forward_head(grid))
    n, width, height, across = grid.shape
    # The head is linear, so what it makes of each cell alone has the embedding as its mean.
    alone = grid.permute(0, 2, 3, 1).reshape(-1, width, 1, 1)
    return pooled, visual.head(visual.trunk.forward_head(alone)).view(n, height * across, -1)


@torch.inference_mode()
def _pools_by_mean(visual: Any) -> bool:
    """Return whether a tower's embedding is the mean of its projected cells."""
    before = torch.get_rng_state()
    pixels = torch.randn(2, 3, *_size(visual), device=next(visual.parameters()).device)
    torch.set_rng_state(before)
    pooled, cells = _timm(visual, pixels)
    scale = pooled.abs().max().clamp(min=1e-6)
    return bool(((cells.mean(1) - pooled).abs() < _TOLERANCE * scale).all())


_Text = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
_Inside = Callable[[Tensor], Tensor]


def _text_tower(encoder: Encoder) -> tuple[_Text, _Inside]:
    model = encoder.model
    tower = getattr(model, "text", model)
    if not hasattr(tower, "ln_final") or getattr(tower, "cls_emb", None) is not None:
        raise UserError(
            f"--tokens: the text tower of {encoder.name} ({type(tower).__name__}) has words that can't be projected "
            "one by one. Take a model with CLIP's text transformer."
        )
    kind = getattr(model, "text_pool_type", None) or getattr(tower, "pool_type", "argmax")
    if kind not in ("argmax", "eos"):
        raise UserError(f"--tokens: the text tower of {encoder.name} pools by {kind!r}; argmax and eos are known.")

    def end_of(tokens: Tensor) -> Tensor:
        return (tokens == tower.eos_id).int().argmax(-1) if kind == "eos" else tokens.argmax(-1)

    def inside(tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return (place > 0) & (place < end_of(tokens)[:, None])

    def run(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = model.forward_intermediates(
            text=tokens, text_indices=1, normalize_intermediates=True, normalize=False, text_output_fmt="NLC"
        )
        words = out["text_intermediates"][-1]
        projection = tower.text_projection
        if projection is not None:
            words = projection(words) if isinstance(projection, torch.nn.Linear) else words @ projection
        own = words[torch.arange(len(words)), end_of(tokens)]
        if not torch.allclose(own.float(), out["text_features"].float(), rtol=1e-2, atol=1e-2):
            raise UserError(
                f"--tokens: {encoder.name} pools its words otherwise than by their last; they can't be used."
            )
        return out["text_features"], words, inside(tokens)

    return run, inside
