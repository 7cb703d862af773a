"""allRank's own main program on lists of ours: libsvm files, training, its metrics, its saved model.

``python -m benchmarks.allrank_main DATA OUT EPOCHS``: a process of its own, so that all of it is counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from data_prep.mining.miner import mine
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.torchvision_ops import make_importable


def main(data: Path, out: Path, epochs: int) -> None:
    """Write the lists of the paper's recipe as libsvm files, then run `allrank.main`."""
    make_importable()
    from allrank import main as program
    from allrank.data.dataset_saving import write_to_libsvm_without_masked

    out.mkdir(parents=True)
    opened = EmbeddingSet.open(data)
    for split, role in (("train", "train"), ("val", "vali")):
        lists = mine(opened, "t2i", split, negatives=50, pool=200, protocol="clean", seed=0)
        query = opened.text_emb[lists.query].astype(np.float32)
        pairs = (
            np.concatenate(
                [np.broadcast_to(q, (lists.length, len(q))), opened.image_emb[rows].astype(np.float32)], axis=1
            )
            for q, rows in zip(query, lists.candidates, strict=True)
        )
        write_to_libsvm_without_masked(str(out / f"{role}.txt"), pairs, iter(lists.labels))
    config = {
        "model": {
            "fc_model": {"sizes": [64], "input_norm": False, "activation": None, "dropout": 0.0},
            "transformer": {"N": 2, "d_ff": 128, "h": 4, "positional_encoding": None, "dropout": 0.1},
            "post_model": {"output_activation": None, "d_output": 1},
        },
        "data": {
            "path": str(out),
            "num_workers": 0,
            "batch_size": 32,
            "slate_length": 51,
            "validation_ds_role": "vali",
        },
        "optimizer": {"name": "Adam", "args": {"lr": 0.001}},
        "lr_scheduler": {"name": None, "args": {}},
        "training": {"epochs": epochs, "gradient_clipping_norm": 1.0, "early_stopping_patience": epochs},
        "loss": {"name": "listNet", "args": {}},
        "metrics": ["mrr_1", "ndcg_10"],
        "val_metric": "mrr_1",
    }
    (out / "config.json").write_text(json.dumps(config))
    sys.argv = ["allRank", "--job-dir", str(out / "job"), "--run-id", "bench"]
    sys.argv += ["--config-file-name", str(out / "config.json")]
    program.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
