"""rank_xmodal: learning to rank over frozen CLIP embeddings."""

from rank_xmodal import losses, metrics
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.ranker import ContextAwareRanker
from rank_xmodal.reranker import Reranker

__all__ = ["CandidateLists", "ContextAwareRanker", "EmbeddingSet", "Reranker", "UserError", "losses", "metrics"]
