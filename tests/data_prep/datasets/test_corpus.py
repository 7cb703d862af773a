"""A corpus without some of its images."""

import numpy as np
import pandas as pd

from data_prep.datasets.corpus import Corpus, image_table, text_table


def test_captions_of_nothing_else_go_with_their_images(tmp_path):
    pairs = [(0, 0), (1, 1), (2, 1), (2, 2), (3, 3)]  # caption 1 describes two images, caption 4 none
    relevance = pd.DataFrame([(i, t, 1 + t) for i, t in pairs], columns=["image", "text", "grade"])
    relevance = relevance.astype({"image": "int32", "text": "int32", "grade": "uint8"})
    corpus = Corpus(
        "made",
        image_table(list("abcd"), list("abcd"), ["train", "val", "test", "test"]),
        text_table(list("vwxyz"), list("VWXYZ"), ["train"] * 5),
        relevance,
        tmp_path,
    )
    rest = corpus.without([0, 2])
    assert rest.images["image_id"].tolist() == ["b", "d"]
    assert rest.texts["text_id"].tolist() == ["w", "y", "z"]
    assert rest.relevance.to_dict("list") == {"image": [0, 1], "text": [0, 1], "grade": [2, 4]}
    assert rest.relevance.dtypes.equals(relevance.dtypes)
    assert rest.images["split"].tolist() == ["val", "test"]
    assert np.array_equal(corpus.without([]).relevance, relevance)
