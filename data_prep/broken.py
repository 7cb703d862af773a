"""Image files that can't be used: an error that names them, or left out and told at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_prep.datasets.corpus import Corpus
from data_prep.images import REMEDY
from rank_xmodal.errors import UserError

_SHOWN = 5
_TOLD = 100  # at the end, where they are left out: nothing else names them


class Broken:
    """The image files of a corpus that were found to be broken so far.

    Parameters
    ----------
    corpus : Corpus
    paths : sequence of Path
        Its image files.
    skip : bool
        Leave them out; otherwise the first that are found are an error.

    Attributes
    ----------
    why : dict
        Of each row of the images that can't be used, what is wrong with its file.
    """

    def __init__(self, corpus: Corpus, paths: Sequence[Path], skip: bool) -> None:
        self.corpus, self.paths, self.skip = corpus, paths, skip
        self.why: dict[int, str] = {}

    def found(self, bad: Mapping[int, str]) -> None:
        """Take down rows and what is wrong with their files.

        Raises
        ------
        UserError
            If there is one, and they may not be left out.
        """
        if bad and not self.skip:
            raise UserError(
                f"{self.corpus.name}: {len(bad):,} image file(s) can't be used. Bring them again, take them "
                f"out of the corpus, or leave them out with --skip-broken.\n{self._listed(bad)}"
            )
        self.why.update(bad)

    def found_late(self, row: int, error: UserError) -> None:
        """Take down a row whose file can't be decoded.

        Raises
        ------
        UserError
            If it may not be left out.
        """
        if not self.skip:
            image = self.corpus.images["image_id"].iloc[row]
            raise UserError(
                f"{error} (image_id {image!r}, row {row} of the images.) Or leave out all such files with "
                "--skip-broken. What was encoded before is kept."
            ) from error
        self.why[row] = reason(self.paths[row], error)

    def rest(self) -> Corpus:
        """Return the corpus without these images and their captions.

        Raises
        ------
        UserError
            If nothing is left.
        """
        if self.why and len(self.why) == len(self.paths):
            raise UserError(
                f"{self.corpus.name}: none of the {len(self.paths):,} image files can be used. Name the folder of "
                f"your images with --root.\n{self._listed(self.why)}"
            )
        return self.corpus.without(list(self.why)) if self.why else self.corpus

    def tell(self, say: Callable[[str], None], captions: int) -> None:
        """Say how many images, and captions with them, were left out, and which: the first hundred."""
        if self.why:
            also = f", and {captions:,} captions with them" if captions else ""
            say(f"{self.corpus.name}: left out {len(self.why):,} of {len(self.paths):,} images{also}:")
            for line in self._listed(self.why, _TOLD).splitlines():
                say(line)

    def _listed(self, bad: Mapping[int, str], most: int = _SHOWN) -> str:
        ids = self.corpus.images["image_id"]
        rows = sorted(bad)
        lines = [f"  {self.paths[row]} (image_id {ids.iloc[row]!r}) {bad[row]}" for row in rows[:most]]
        return "\n".join(lines + [f"  ... and {len(bad) - most:,} more"] * (len(bad) > most))


def reason(path: Path, error: UserError) -> str:
    """Return what an error says of a file, without its name and what to do."""
    said = str(error).removeprefix(f"{path}: ").removeprefix(f"{path.absolute()}: ")  # as a worker calls it
    return said.removesuffix(REMEDY).rstrip()
