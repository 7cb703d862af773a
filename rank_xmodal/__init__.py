"""rank_xmodal: learning to rank over frozen CLIP embeddings."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rank_xmodal import losses, metrics
    from rank_xmodal.candidate_lists import CandidateLists
    from rank_xmodal.embedding_set import EmbeddingSet
    from rank_xmodal.errors import UserError
    from rank_xmodal.ranker import ContextAwareRanker
    from rank_xmodal.reranker import Reranker

__all__ = ["CandidateLists", "ContextAwareRanker", "EmbeddingSet", "Reranker", "UserError", "losses", "metrics"]

# Imported when first asked for (PEP 562): torch takes two seconds, which `rank-xmodal --help` has no use for.
_MODULES = {
    "CandidateLists": "candidate_lists",
    "ContextAwareRanker": "ranker",
    "EmbeddingSet": "embedding_set",
    "Reranker": "reranker",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"rank_xmodal.{_MODULES[name]}"), name)
    try:
        return importlib.import_module(f"rank_xmodal.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"rank_xmodal.{name}":
            raise
        raise AttributeError(f"module 'rank_xmodal' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
