"""rank_xmodal: learning to rank over frozen CLIP embeddings."""
