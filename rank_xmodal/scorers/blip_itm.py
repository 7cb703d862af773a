"""BLIP's image-text matching: a transformer that reads a caption while it looks at an image."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from rank_xmodal.errors import UserError, first_line
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.first_few import above_the_rest, first_few
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.torchvision_ops import make_importable


class BlipITMSettings(ScorerSettings):
    """Which BLIP, and how many candidates it looks at."""

    model: str = Field(
        "Salesforce/blip-itm-base-coco", description="a BLIP for retrieval on the Hugging Face hub, or its folder"
    )
    batch_size: int = Field(16, ge=1, description="pairs at a time")
    top: int = Field(5, ge=1, description="first candidates of a list that are scored; the others stay below them")


class BlipITM(Scorer):
    """``score = log-odds of a match``, of the first few candidates of each list; the others follow in their order.

    A cross-encoder: it reads each pair anew, so nothing can be prepared for a corpus. There is nothing to fit.

    References
    ----------
    Li et al.: BLIP: Bootstrapping Language-Image Pre-training, ICML 2022, arXiv:2201.12086.
    """

    name = "blip_itm"
    label = "BLIP ITM"
    paper = (
        "Li et al.: BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and "
        "Generation, ICML 2022, arXiv:2201.12086"
    )
    Settings: ClassVar[type[BlipITMSettings]] = BlipITMSettings
    settings: BlipITMSettings

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._device = torch.device("cpu")
        self._loaded: tuple[Any, Any] | None = None

    @property
    def needs(self) -> Needs:
        """The first stage's score, captions and images."""
        return Needs(base=True, content=True)

    @torch.inference_mode()
    def score(self, batch: ListBatch) -> Tensor:
        """Return the log-odds of a match of the first few, and below them the others, (B, L) float32.

        Raises
        ------
        UserError
            If transformers isn't installed, the model can't be loaded, or an image can't be read.
        """
        assert batch.content is not None
        assert batch.query_row is not None
        assert batch.rows is not None
        places = first_few(batch, self.settings.top)
        rows, queries = batch.rows.tolist(), batch.query_row.tolist()
        pairs = [
            batch.content.pair(query, row[place])
            for query, row, own in zip(queries, rows, places, strict=True)
            for place in own
        ]
        scores = iter(self._matched(pairs))
        return above_the_rest(batch, [[next(scores) for _ in own] for own in places])

    def _matched(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Return the log-odds of a match of captions and image files."""
        # One image's pairs one behind the other: it is looked at once for all that stand in a block.
        order = sorted(range(len(pairs)), key=lambda place: pairs[place][1])
        found = [0.0] * len(pairs)
        for start in range(0, len(order), self.settings.batch_size):
            block = order[start : start + self.settings.batch_size]
            odds = self._odds([pairs[place][0] for place in block], [pairs[place][1] for place in block])
            for place, value in zip(block, odds.tolist(), strict=True):
                found[place] = value
        return found

    def _odds(self, captions: list[str], paths: list[str]) -> Tensor:
        model, processor = self._load()
        distinct = sorted(set(paths))
        images = [_image(path) for path in distinct]
        pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        seen = model.vision_model(pixel_values=pixels.to(self._device)).last_hidden_state
        words = processor.tokenizer(
            captions, padding=True, truncation=True, max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._device)  # fmt: skip
        # The model's own forward would look at an image once for each of its captions.
        read = model.text_encoder(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"],
            encoder_hidden_states=seen[[distinct.index(path) for path in paths]],
        ).last_hidden_state  # fmt: skip
        logits = model.itm_head(read[:, 0]).float()
        return logits[:, 1] - logits[:, 0]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            model, processor = _open(self.settings.model)
            self._loaded = model.to(self._device).eval().requires_grad_(False), processor
        return self._loaded

    def to(self, device: torch.device) -> Self:
        """Move the model, or have it loaded there."""
        self._device = device
        if self._loaded is not None:
            self._loaded[0].to(device)
        return self


def _open(name: str) -> tuple[Any, Any]:
    """Return a BLIP with its matching head, and what prepares images and captions for it."""
    try:
        make_importable()  # transformers prepares images with torchvision
        import transformers
    except ImportError as error:
        raise UserError(
            f"scorer=blip_itm needs the package transformers, which can't be imported ({error}). Install it with "
            "`pip install 'rank-xmodal[blip]'`."
        ) from error
    where = f"scorer=blip_itm: model={name!r}"
    remedy = "Name a BLIP for image-text retrieval on the Hugging Face hub, or a folder that holds one."
    kind: Any = transformers.BlipForImageTextRetrieval
    try:
        # Safetensors alone: a pickled file of weights can run code.
        model, told = kind.from_pretrained(name, use_safetensors=True, output_loading_info=True)
        processor = transformers.BlipProcessor.from_pretrained(name)
    except Exception as error:  # a foreign or broken folder fails in whatever way its files suggest
        raise UserError(
            f"{where}: can't be loaded ({first_line(error)}). {remedy} Its weights must be .safetensors; pickled ones "
            "(.bin) are never read, for they can run code."
        ) from error
    missing = sorted(key for key in told["missing_keys"] if "position_ids" not in key)
    if missing:
        raise UserError(f"{where}: has no weights for {missing[0]}: another kind of BLIP, or damaged. {remedy}")
    return model, processor


def _image(path: str) -> Any:
    """Return the image in a file, upright, in RGB."""
    from transformers.image_utils import load_image

    file = Path(os.path.abspath(path))  # a name that looks like an address is not looked up
    if not path or not file.is_file():
        raise UserError(f"{path or 'an image without a path'}: no such image. Bring the file again.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Image size .* exceeds limit")  # Pillow's own, of gigabytes once decoded
            return load_image(str(file))
    except MemoryError:
        raise
    except Exception as error:  # whatever its bytes suggest
        raise UserError(f"{path}: can't be read as an image ({error}). Bring the file again.") from error
