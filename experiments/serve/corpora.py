"""What a server searches: a searcher for each direction, taken anew where its index on disk has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from experiments.use.searcher import Searcher, is_index
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.use.index_folder import MANIFEST

# Files of an exact index; of a database what counts its rows, and the folder with a file for each of its versions.
_CHANGING = (MANIFEST, "lance.json", "lance/items.lance/_versions")


class Corpus:
    """A searcher that follows its index.

    Parameters
    ----------
    searcher : Searcher
    folder : Path or None
        The index that it was opened from; None of a corpus in memory.
    reopen : callable or None
        What opens it again.
    say : callable
        Told when it was.
    """

    def __init__(
        self,
        searcher: Searcher,
        folder: Path | None = None,
        reopen: Callable[[], Searcher] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.searcher, self.folder, self.reopen, self.say = searcher, folder, reopen, say
        self._stamp = self._now()

    def __len__(self) -> int:
        """Return how many candidates it has now."""
        return len(self.searcher)

    def _now(self) -> list[tuple[int, int, int]] | None:
        """Return what tells one state of the folder from another, None where it has no manifest just now."""
        if self.folder is None or not is_index(self.folder):
            return None
        found = []
        for name in _CHANGING:
            with suppress(OSError):
                stat = (self.folder / name).stat()
                found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        return found

    def refresh(self) -> bool:
        """Open the index again if it has changed; costs a few stats. Return whether it had.

        Searches in other threads see the corpus of before, or that of after. One that can't be read is tried again
        when it changes the next time, and what was served stays.
        """
        stamp = self._now()
        if self.reopen is None or stamp is None or stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            found = self.reopen()
            if found.direction != self.searcher.direction:
                raise UserError(f"{found.name}: is of the direction {found.direction} now. Start the server again.")
        except UserError as error:
            self.say(f"{self.folder}: has changed and can't be opened; the index of before stays. {error}")
            return False
        found.encode.share(self.searcher.encode)
        self.searcher = found
        self.say(f"{self.folder}: has changed, {len(found):,} candidates now")
        return True


def open_corpora(
    runs: Sequence[Path],
    data: EmbeddingSet | None,
    *,
    pretrained: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> dict[str, Corpus]:
    """Return what is served by its direction; encoders are loaded, one that several use once.

    Parameters
    ----------
    runs : sequence of Path
        Runs, whose corpus is that of `data`, or indexes; one of each direction.
    data : EmbeddingSet or None

    Raises
    ------
    UserError
        If two are of one direction, a run has no set, or anything can't be opened.
    """
    found: dict[str, Corpus] = {}
    for run in runs:

        def reopen(folder: Path = run) -> Searcher:
            return Searcher.of_index(folder, pretrained=pretrained, device=device, say=say)

        if is_index(run):
            corpus = Corpus(reopen(), run, reopen, say)
        elif data is None:
            raise UserError(f"{run}: is a run, which has no corpus of its own. Name an embedding set by --data.")
        else:
            corpus = Corpus(Searcher.of_run(run, data, pretrained=pretrained, device=device, say=say))
        direction = corpus.searcher.direction
        if direction in found:
            raise UserError(
                f"{run}: is {direction}, as {found[direction].searcher.name} is. Name one of each direction."
            )
        for other in found.values():
            corpus.searcher.encode.share(other.searcher.encode)
        found[direction] = corpus
    for corpus in found.values():
        _ = corpus.searcher.encode.encoder  # now, not when the first client asks
    return found
