"""An imported set that says which encoder made it, and that this is true."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from data_prep.importing import import_embeddings
from data_prep.importing_clip_retrieval import import_clip_retrieval
from experiments.cli.main import cli
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError


@pytest.fixture
def arrays(corpus, encoder, tmp_path):
    """Return A.npy, B.npy and C.csv that `encoder` made of ten photos and their captions."""
    np.save(tmp_path / "A.npy", encoder.encode_images(corpus.paths()).astype(np.float32) * 3)
    np.save(tmp_path / "B.npy", encoder.encode_texts(list(corpus.texts["text"])))
    table = pd.DataFrame(
        {
            "caption_id": corpus.texts["text_id"],
            "image_id": corpus.relevance["image"],
            "caption": corpus.texts["text"],
            "split": corpus.texts["split"],
            "image_file": [str(corpus.paths()[row]) for row in corpus.relevance["image"]],
        }
    )
    table.to_csv(tmp_path / "C.csv", index=False)
    return [tmp_path / name for name in ("A.npy", "B.npy", "C.csv")]


def change(path, row, value=None):
    array = np.load(path)
    array[row] = np.roll(array[row], 1) if value is None else value
    np.save(path, array)


def test_the_set_says_which_encoder_made_it(arrays, encoder, tmp_path, said):
    data = import_embeddings(*arrays, tmp_path / "set", encoder=encoder, say=said)
    told = {key: data.meta[key] for key in ("encoder", "pretrained", "weights_sha256", "weights_file")}
    assert told == {
        "encoder": "tiny-test", "pretrained": "tiny.safetensors", "weights_sha256": encoder.sha256,
        "weights_file": encoder.weights_file,
    }  # fmt: skip
    assert "precision" not in data.meta, "nobody knows"
    assert "8 images and 8 captions encoded again are as in the arrays (cosine 1.000 and above)" in said


def test_another_encoder_is_found_out_by_images(arrays, encoder, tmp_path, said):
    change(arrays[0], 9)
    with pytest.raises(
        UserError, match=r"image row 9 \(.*9\.png\): encoded by --model tiny-test .* the cosine -?0\.\d{3}"
    ):
        import_embeddings(*arrays, tmp_path / "set", encoder=encoder, say=said)
    assert not (tmp_path / "set").exists()


def test_and_by_captions_where_files_are_gone(arrays, corpus, encoder, tmp_path, said):
    for path in corpus.paths():
        path.unlink()
    change(arrays[1], 19)
    with pytest.raises(UserError, match=r"caption row 19 \('caption number 19'\): encoded by"):
        import_embeddings(*arrays, tmp_path / "set", encoder=encoder, say=said)
    change(arrays[1], 19, np.load(arrays[1])[0])
    pd.read_csv(arrays[2]).drop(columns="caption").to_csv(arrays[2], index=False)
    data = import_embeddings(*arrays, tmp_path / "set", encoder=encoder, say=said)
    assert "taken on your word" in said
    assert data.meta["encoder"] == "tiny-test"


def test_broken_files_say_nothing_of_the_encoder(arrays, corpus, encoder, tmp_path, said):
    for path in corpus.paths()[1:]:
        path.write_text("no image")
    import_embeddings(*arrays, tmp_path / "set", encoder=encoder, say=said)
    assert "1 images and 8 captions encoded again" in said


def test_files_are_found_from_the_folder_that_the_set_will_have(arrays, corpus, encoder, tmp_path, said):
    table = pd.read_csv(arrays[2])
    table["image_file"] = [os.path.relpath(path, tmp_path / "sets/set") for path in table["image_file"]]
    table.to_csv(arrays[2], index=False)
    import_embeddings(*arrays, tmp_path / "sets/set", encoder=encoder, say=said)
    assert "8 images and 8 captions encoded again" in said


def test_its_width_is_checked_first(arrays, encoder, tmp_path, said):
    np.save(arrays[0], np.load(arrays[0])[:, :16])
    with pytest.raises(UserError, match=r"A\.npy: is 16 wide, and embeddings of --model tiny-test are 32 wide"):
        import_embeddings(*arrays, tmp_path / "set", encoder=encoder, say=said)


def test_images_alone_and_clip_retrieval(arrays, corpus, encoder, tmp_path, said):
    data = import_embeddings(arrays[0], None, None, tmp_path / "alone", encoder=encoder, say=said)
    assert data.meta["encoder"] == "tiny-test"
    root = tmp_path / "retrieval"
    for kind, name in (("img_emb", arrays[0]), ("text_emb", arrays[1])):
        (root / kind).mkdir(parents=True)
        array = np.load(name)
        np.save(root / kind / f"{kind}_0.npy", array[corpus.relevance["image"]] if kind == "img_emb" else array)
    (root / "metadata").mkdir()
    table = pd.DataFrame(
        {
            "image_path": [str(corpus.paths()[row]) for row in corpus.relevance["image"]],
            "caption": corpus.texts["text"],
        }
    )
    table.to_parquet(root / "metadata/metadata_0.parquet")
    data = import_clip_retrieval(root, tmp_path / "set", encoder=encoder, say=said)
    assert data.meta["weights_sha256"] == encoder.sha256
    change(root / "text_emb/text_emb_0.npy", 0)
    with pytest.raises(UserError, match="caption row 0"):
        import_clip_retrieval(root, tmp_path / "other", encoder=encoder, say=said)


def test_on_the_command_line(arrays, encoder, tmp_path):
    def run(*words):
        return CliRunner().invoke(cli, ["import", *map(str, words), "--out", str(tmp_path / "set")])

    given = ("--images", arrays[0], "--texts", arrays[1], "--captions", arrays[2])
    for words, message in (
        ((*given, "--model", "tiny-test"), "--model and --pretrained belong together"),
        ((*given, "--unaligned", "--model", "a", "--pretrained", "b"), "--unaligned features are of two kinds"),
        (("--mat", "x.mat", "--model", "a", "--pretrained", "b"), "--mat takes the place of all other inputs"),
        (("--nus-wide", "x", "--model", "a", "--pretrained", "b"), "--nus-wide takes the place of all other inputs"),
        (given[:4], "--texts B.npy and --captions C.csv belong together"),
        ((*given[:2], "--unaligned"), "--texts B.npy and --captions C.csv belong together"),
    ):
        done = run(*words)
        assert isinstance(done.exception, UserError), message
        assert message in str(done.exception)
    done = run(*given, "--model", "tiny-test", "--pretrained", encoder.weights_file)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "set/meta.json").read_text())["encoder"] == "tiny-test"
    assert os.path.samefile(EmbeddingSet.open(tmp_path / "set").meta["weights_file"], encoder.weights_file)
