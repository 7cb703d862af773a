import numpy as np
import pandas as pd

from experiments.folds import fold_of, main
from rank_xmodal.embedding_set import EmbeddingSet


def test_every_image_is_tested_once_and_all_rows_are_printed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(40, 8))
    text = image + 0.5 * rng.normal(size=image.shape)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    rows = range(40)
    data = EmbeddingSet(
        image.astype(np.float16),
        text.astype(np.float16),
        pd.DataFrame({"image_id": [f"i{k}" for k in rows], "path": "", "split": "train"}),
        pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": [f"c{k}" for k in rows], "split": "train"}),
        pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
    ).write(tmp_path / "set")
    parts = [fold_of(data, fold, 2, 0) for fold in range(2)]
    tested = np.concatenate([np.flatnonzero(part.images["split"] == "test") for part in parts])
    assert sorted(tested.tolist()) == list(rows)
    assert all((part.images["split"] == part.texts["split"]).all() for part in parts)
    main(["--data", str(tmp_path / "set"), "--folds", "2", "--permutations", "1", "--set", "epochs=1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert [line.split()[1] for line in lines[:6]] == ["clip", "csls", "lambdarank", "neuralndcg", "listnet", "ranknet"]
