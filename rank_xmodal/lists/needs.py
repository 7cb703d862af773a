"""What a scorer looks at, declared: whatever prepares lists for it gathers that and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rank_xmodal.errors import UserError

if TYPE_CHECKING:
    from rank_xmodal.data.embedding_set import EmbeddingSet


@dataclass(frozen=True)
class Needs:
    """What a scorer reads of a batch, or of the set, beside the query's embedding.

    Attributes
    ----------
    base : bool
        The first-stage score, `ListBatch.cosine`: only such a scorer can stand on another.
    neighbours : bool
        Candidates' nearest bank queries, `ListBatch.neighbour_cosine`.
    candidates : bool
        Candidates' embeddings, beyond what its `project` made of them.
    lists : bool
        Candidate lists to be trained on.
    tokens, labels, content : bool
        Words and patches, classes, or the captions and images themselves.
    """

    base: bool = False
    neighbours: bool = False
    candidates: bool = False
    lists: bool = False
    tokens: bool = False
    labels: bool = False
    content: bool = False

    def check(self, name: str, data: EmbeddingSet) -> None:
        """Check that a set holds what the scorer `name` needs of it.

        Raises
        ------
        UserError
            If it doesn't.
        """
        where = data.root or data.name
        if self.tokens and not isinstance(data.whole.meta.get("tokens"), dict):
            raise UserError(
                f"{where}: holds no words and cells, which scorer={name} needs. Make them with `rank-xmodal embed "
                "... --tokens features`, import them, or choose another scorer."
            )
        if self.labels and not data.labelled:
            raise UserError(
                f"{where}: has no classes, which scorer={name} needs. Give the captions table a column 'labels' and "
                "make the set again, or choose a scorer, method or objective that needs none, such as contrastive."
            )
        if self.content and (data.images["path"] == "").any():
            row = int((data.images["path"] == "").to_numpy().argmax())
            raise UserError(
                f"{where}: image row {row} has no path, and scorer={name} looks at the images themselves. "
                "Embed them with `rank-xmodal embed`."
            )
        if self.content and data.whole.meta.get("captions_lost"):
            raise UserError(
                f"{where}: {data.whole.meta['captions_lost']:,} of its captions are lost, and scorer={name} reads the "
                "captions themselves. Import the set again with a column 'caption'."
            )
