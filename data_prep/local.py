"""Words and cells of the frozen encoder: what its towers know before they pool it, projected or as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from data_prep.encoder import Encoder
from rank_xmodal.errors import UserError

Path = Literal["last", "values", "features"]
PATHS: tuple[Path, ...] = ("last", "values", "features")
_COUNTED = 1_024  # captions at a time
_TOLERANCE = 1e-3  # of a unit vector's entries in float16
_SIDE = 4  # cells along a map, at least, of the stage of a ResNet whose features are taken
_STAGES = (1, 2, 3, 4)  # of CLIP's ResNets, as `forward_intermediates` numbers them; 0 is the stem


@dataclass(frozen=True)
class Local:
    """What tokens of a batch are: the encoder's own embedding beside its parts.

    Attributes
    ----------
    pooled : Tensor (n, d), float32, L2-normalised
        The embedding that the model makes of these very parts.
    parts : list of Tensor (p_i, w), float32
        Cells of an image in reading order, or words of a caption in theirs: no padding, no start, no end. Those of the
        paths last and values are L2-normalised and as wide as the embedding, features are neither.
    """

    pooled: Tensor
    parts: list[Tensor]


class LocalEncoder:
    """An encoder that gives parts, too.

    Cells and words are projected as their tower projects what it pools, and brought to length 1. For the cells of a
    transformer there are two ways: its last layer, or the value path of its last block (`values`), for patch tokens of
    the last layer point away from the text; a convolutional tower has one way. Or they are kept as they stand before
    the projection (`features`): wider, not of length 1, and the two sides in spaces of their own.

    Features are of a ViT its last block's patch tokens after the last layer norm; of CLIP's ResNets the deepest stage
    with 4 x 4 cells at least; of a convolutional tower of timm's its last map; of the text the last layer's words after
    the last layer norm.

    Parameters
    ----------
    encoder : Encoder
    path : "last", "values" or "features"

    Attributes
    ----------
    encoder, path
        As given.
    image_facts : dict
        tower, layer, path and grid (rows, columns) of the cells.
    image_width, text_width : int
        Of a cell and of a word.
    normalised : bool
        Whether both are of length 1.

    References
    ----------
    Zhou et al.: Extract Free Dense Labels from CLIP (MaskCLIP), ECCV 2022, arXiv:2112.01071.

    Raises
    ------
    UserError
        If `path` is none of them, or a tower is of a kind that can't be taken apart.
    """

    def __init__(self, encoder: Encoder, path: Path = "values") -> None:
        if path not in PATHS:
            raise UserError(f"tokens={path!r}: must be one of {', '.join(PATHS)}.")
        self.encoder, self.path = encoder, path
        self.normalised = path != "features"
        self._image, self.image_facts, self.image_width = _image_tower(encoder, path)
        self._text, self._inside, self.text_width = _text_tower(encoder, path)

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
            If a cell is not finite, is zero and should be of length 1, or is a feature too large for float16; its image
            is called by its entry of `names`.
        """
        with self.encoder.forward_pass(len(pixels)):
            pooled, cells = self._image(pixels.to(self.encoder.device))
        return self._local(pooled, list(cells.float()), [f"image {name}" for name in names])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Local:
        """Encode captions.

        Raises
        ------
        UserError
            If a caption has no words, or a word is as a cell may not be.
        """
        tokens = self.encoder.tokenizer(list(texts)).to(self.encoder.device)
        with self.encoder.forward_pass(len(texts)):
            pooled, words, inside = self._text(tokens)
        return self._local(pooled, [w[m] for w, m in zip(words.float(), inside, strict=True)], [repr(t) for t in texts])

    def _local(self, pooled: Tensor, parts: list[Tensor], names: list[str]) -> Local:
        made = _unit if self.normalised else _in_range
        found = []
        for part, name in zip(parts, names, strict=True):
            if not len(part):
                raise UserError(f"{name}: has no words. Write a caption, or leave it out.")
            found.append(made(part, name))
        pooled = pooled.float()
        return Local(pooled / pooled.norm(dim=-1, keepdim=True), found)


def _unit(part: Tensor, name: str) -> Tensor:
    norm = part.norm(dim=-1, keepdim=True)
    if not bool((torch.isfinite(norm) & (norm > 0)).all()):
        raise UserError(f"{name}: a token is zero or not finite. The weights may be broken.")
    return part / norm


def _in_range(part: Tensor, name: str) -> Tensor:
    """Return a part as it is, if float16 can hold it."""
    largest = float(part.abs().max())
    if not math.isfinite(largest):
        raise UserError(f"{name}: a token is not finite. The weights may be broken; on a GPU, try --device cpu.")
    if bool(part.half().isinf().any()):
        raise UserError(
            f"{name}: a token has an entry of size {largest:,.0f}; float16 ends at 65,504. Take --tokens values, whose "
            "tokens are of length 1."
        )
    return part


_Image = Callable[[Tensor], tuple[Tensor, Tensor]]


def _image_tower(encoder: Encoder, path: Path) -> tuple[_Image, dict[str, Any], int]:
    """Return what gives embedding and cells of pixels, the facts of the cells and their width."""
    visual = encoder.model.visual
    kind = type(visual).__name__
    kept = path == "features"
    if kind == "VisionTransformer" and getattr(visual, "attn_pool", None) is None:
        facts = {"tower": "vit", "layer": "last block", "path": path, "grid": list(visual.grid_size)}
        return (lambda pixels: _vit(visual, pixels, path)), facts, visual.transformer.width if kept else encoder.dim
    if kind == "ModifiedResNet" and kept:
        stage, grid, width = _stage(visual, encoder.device)
        facts = {"tower": "resnet", "layer": f"stage {stage}", "path": path, "grid": grid}
        return (lambda pixels: _resnet_stage(visual, pixels, stage)), facts, width
    if kind == "ModifiedResNet":
        side = _size(visual)[0] // 32
        facts = {"tower": "resnet", "layer": "last stage", "grid": [side, side]}
        return (lambda pixels: _resnet(visual, pixels)), facts, encoder.dim
    if kind == "TimmModel":
        probe = visual.trunk.forward_features(torch.zeros(1, 3, *_size(visual), device=encoder.device))
        facts = {"tower": "timm", "layer": "last map", "grid": list(probe.shape[2:])}
        # A map of channels first; some towers of windows have them last.
        if kept and probe.ndim == 4 and probe.shape[1] == visual.trunk.num_features:
            return (lambda pixels: _timm_map(visual, pixels)), {**facts, "path": path}, int(probe.shape[1])
        if not kept and probe.ndim == 4 and _pools_by_mean(visual):
            return (lambda pixels: _timm(visual, pixels)), facts, encoder.dim
    what = "no cells that could be kept" if kept else "parts that can't be projected one by one"
    timm = "" if kept else ", with mean pooling unless --tokens is features"
    raise UserError(
        f"--tokens: the image tower of {encoder.name} ({kind}) has {what}. Take a model with a ViT or ResNet of "
        f"CLIP's, or a convolutional tower of timm's{timm}."
    )


def _size(visual: Any) -> tuple[int, int]:
    size = visual.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _vit(visual: Any, pixels: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    last = path != "values"
    count = 1 if last else min(2, len(visual.transformer.resblocks))
    out = visual.forward_intermediates(pixels, indices=count, output_fmt="NLC", normalize_intermediates=last)
    cells = out["image_intermediates"][0]
    if path == "values":
        block = visual.transformer.resblocks[-1]
        if count == 1:  # a single block: what goes into it are the embedded patches
            cells = visual._embeds(pixels)[:, 1:]
        width = cells.shape[-1]
        inside = block.ln_1(cells)
        values = inside @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
        cells = visual.ln_post(block.attn.out_proj(values))
    return out["image_features"], cells if visual.proj is None or path == "features" else cells @ visual.proj


def _resnet(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    out = visual.forward_intermediates(pixels, indices=1)
    cells = _cells(out["image_intermediates"][0])
    pool = visual.attnpool
    return out["image_features"], pool.c_proj(pool.v_proj(cells))


@torch.inference_mode()
def _stage(visual: Any, device: torch.device) -> tuple[int, list[int], int]:
    """Return the deepest stage of a ResNet that has 4 x 4 cells, or else the last: its number, grid and width."""
    out = visual.forward_intermediates(
        torch.zeros(1, 3, *_size(visual), device=device), indices=_STAGES, intermediates_only=True
    )
    shapes = {stage: one.shape[1:] for stage, one in zip(_STAGES, out["image_intermediates"], strict=True)}
    stage = max((stage for stage, (_, *grid) in shapes.items() if min(grid) >= _SIDE), default=_STAGES[-1])
    width, *grid = map(int, shapes[stage])
    return stage, grid, width


def _resnet_stage(visual: Any, pixels: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    # With the last stage, whatever is wanted: the tower pools what it ran last.
    out = visual.forward_intermediates(pixels, indices=[stage, _STAGES[-1]])
    return out["image_features"], _cells(out["image_intermediates"][0])


def _cells(grid: Tensor) -> Tensor:
    """Return a map's cells in reading order: (n, width, rows, columns) -> (n, rows * columns, width)."""
    return grid.flatten(2).transpose(1, 2)


def _timm_map(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    grid = visual.trunk.forward_features(pixels)
    return visual.head(visual.trunk.forward_head(grid)), _cells(grid)


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


def _text_tower(encoder: Encoder, path: Path) -> tuple[_Text, _Inside, int]:
    """Return what gives embedding and words of tokens and where words are, that alone, and the words' width."""
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

    kept = path == "features"

    def end_of(tokens: Tensor) -> Tensor:
        return (tokens == tower.eos_id).int().argmax(-1) if kind == "eos" else tokens.argmax(-1)

    def inside(tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return (place > 0) & (place < end_of(tokens)[:, None])

    def project(words: Tensor) -> Tensor:
        projection = tower.text_projection
        if projection is None:
            return words
        return projection(words) if isinstance(projection, torch.nn.Linear) else words @ projection

    def run(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = model.forward_intermediates(
            text=tokens, text_indices=1, normalize_intermediates=True, normalize=False, text_output_fmt="NLC"
        )
        words = out["text_intermediates"][-1]
        projected = project(words)
        own = projected[torch.arange(len(words)), end_of(tokens)]
        if not torch.allclose(own.float(), out["text_features"].float(), rtol=1e-2, atol=1e-2):
            raise UserError(
                f"--tokens: {encoder.name} pools its words otherwise than by their last; they can't be used."
            )
        return out["text_features"], words if kept else projected, inside(tokens)

    return run, inside, tower.transformer.width if kept else encoder.dim
