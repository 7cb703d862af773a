"""From embeddings to a trained ranker on disk: ``python -m benchmarks.our_main DATA OUT EPOCHS``.

The counterpart of `benchmarks.allrank_main`: the same lists, model sizes, batch and epochs, a validation every epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.mining.miner import mine
from rank_xmodal import settings
from rank_xmodal.embedding_set import EmbeddingSet
from rank_xmodal.evaluation import first_stage
from rank_xmodal.ranker_folder import save
from rank_xmodal.training import train


def main(data: Path, out: Path, epochs: int) -> None:
    """Mine, train, save."""
    opened = EmbeddingSet.open(data)
    lists = mine(opened, "t2i", "train", negatives=50, pool=200, protocol="clean", seed=0)
    plan = settings.parse({"features": "concat", "loss": "listnet", "epochs": epochs, "device": "cpu"})
    trained = train(opened, lists, plan, validation=first_stage(opened, "t2i", "val"))
    save(out, trained.model, trained.bank, {"history": trained.history}, "")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
