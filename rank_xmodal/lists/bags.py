"""Words and cells on the device: a table of one side, and what is taken out of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self


@dataclass(frozen=True)
class Bag:
    """Tokens of n items, and what is known of each item as a whole.

    Attributes
    ----------
    values : Tensor (n, T, d), float32; 0 at padding
    mask : Tensor (n, T), bool
        False at padding.
    whole : Tensor (n, e), float32
        No columns where there is nothing to know.
    """

    values: Tensor
    mask: Tensor
    whole: Tensor

    @classmethod
    def of(cls, values: Tensor, mask: Tensor, whole: Tensor | None = None) -> Bag:
        """Return tokens, of nothing else if no `whole` is given, zero where the mask says padding."""
        return cls(values * mask[..., None], mask, values.new_zeros(len(values), 0) if whole is None else whole)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Tensor) -> Bag:
        """Return some of the items, (k,) int64."""
        return Bag(*(part.index_select(0, rows) for part in (self.values, self.mask, self.whole)))

    def to(self, device: torch.device) -> Bag:
        """Return the same on a device."""
        return Bag(self.values.to(device), self.mask.to(device), self.whole.to(device))

    @classmethod
    def join(cls, parts: list[Bag]) -> Bag:
        """Return the items of several, one behind the other; the shorter ones are padded."""
        longest = max(part.mask.shape[1] for part in parts)
        return cls(
            torch.cat([torch.nn.functional.pad(p.values, (0, 0, 0, longest - p.mask.shape[1])) for p in parts]),
            torch.cat([torch.nn.functional.pad(p.mask, (0, longest - p.mask.shape[1])) for p in parts]),
            torch.cat([part.whole for part in parts]),
        )


@dataclass(frozen=True)
class TokenTable:
    """All tokens of one side, as stored.

    Attributes
    ----------
    values : Tensor (N, d), float16
        Item after item; on the CPU still memory-mapped.
    offsets : Tensor (n + 1,), int64
        Item i has the tokens ``values[offsets[i] : offsets[i + 1]]``.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of_images(cls, cells: np.ndarray) -> TokenTable:
        """Return the table of (n, P, d) cells."""
        n, count, width = cells.shape
        return cls(_tensor(cells).view(n * count, width), torch.arange(n + 1) * count)

    @classmethod
    def of_texts(cls, words: np.ndarray, offsets: np.ndarray) -> TokenTable:
        """Return the table of (W, d) words."""
        return cls(_tensor(words), torch.from_numpy(np.array(offsets)))

    @property
    def width(self) -> int:
        """Width d of a token."""
        return self.values.shape[1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        return type(self)(self.values.to(device), self.offsets.to(device))

    def select(self, rows: Tensor) -> Self:
        """Return a table of some of the items alone, (k,) int64; their tokens are copied."""
        first, count = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        ends = torch.cat([count.new_zeros(1), count.cumsum(0)])
        place = torch.arange(int(ends[-1]), device=ends.device)
        at = torch.repeat_interleave(first - ends[:-1], count) + place
        return type(self)(self.values.index_select(0, at), ends)

    def take(self, rows: Tensor) -> Bag:
        """Return the tokens of items, (n,) int64, in float32."""
        first, count = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        place = torch.arange(int(count.max()) if len(count) else 0, device=rows.device)
        mask = place < count[:, None]
        at = (first[:, None] + place).clamp(max=len(self.values) - 1)
        found = self.values.index_select(0, at.flatten()).unflatten(0, at.shape).float()
        return Bag.of(found, mask)


def _tensor(array: np.ndarray) -> Tensor:
    """Return an array that may not be written to as a tensor that nobody writes to, without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.asarray(array))
