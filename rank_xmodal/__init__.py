"""rank_xmodal: learning to rank over frozen CLIP embeddings."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rank_xmodal import losses, metrics, scorers
    from rank_xmodal.data.candidate_lists import CandidateLists
    from rank_xmodal.data.embedding_set import EmbeddingSet
    from rank_xmodal.errors import UserError
    from rank_xmodal.scorers.context_aware.ranker import ContextAwareRanker
    from rank_xmodal.use.reranker import Reranker

__version__ = "0.2.0"
__all__ = [
    "CandidateLists",
    "ContextAwareRanker",
    "EmbeddingSet",
    "Reranker",
    "UserError",
    "__version__",
    "losses",
    "metrics",
    "scorers",
]

# Imported when first asked for (PEP 562): torch takes two seconds, which `rank-xmodal --help` has no use for.
_MODULES = {
    "CandidateLists": "data.candidate_lists",
    "ContextAwareRanker": "scorers.context_aware.ranker",
    "EmbeddingSet": "data.embedding_set",
    "Reranker": "use.reranker",
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
