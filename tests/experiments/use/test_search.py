"""A query of the user's own: with a scorer that reads words and cells, and with a last stage behind the ranker."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.datasets.corpus import Corpus, image_table, relevance_table, text_table
from data_prep.embed import embed
from data_prep.embed_tokens import embed_tokens
from data_prep.encoder import load_encoder
from data_prep.local import LocalEncoder
from data_prep.weights import import_open_clip
from experiments.run.train import run_training
from experiments.use.search import search
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, write_json
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.use.reranker import Reranker

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 1},
}
COLOURS = ("red", "green", "blue", "black", "white", "yellow", "pink", "brown", "grey", "orange")
SPLITS = ["train"] * 40 + ["val"] * 8 + ["test"] * 12
QUICK = {"scorer": "late_interaction", "steps": 4, "width": 8, "folds": 2, "device": "cpu"}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return a tiny encoder of random weights."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("encoder")
    config = folder / "tiny-search.json"
    config.write_text(json.dumps(TINY))
    open_clip = import_open_clip()
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-search")
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}, folder / "w.safetensors")
    return load_encoder(str(config), str(folder / "w.safetensors"), "cpu", say=quiet)


@pytest.fixture(scope="module")
def place(tmp_path_factory, encoder):
    """Return a folder with one corpus as `features`, `values` and `plain`, and runs of both directions on the first."""
    folder = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    names = [f"{row}.png" for row in range(len(SPLITS))]
    (folder / "photos").mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / "photos" / name)
    texts = [f"a {COLOURS[row % 10]} thing of {COLOURS[row // 10]} number {row}" for row in range(len(SPLITS))]
    ids = [str(row) for row in range(len(SPLITS))]
    corpus = Corpus(
        "made", image_table(ids, names, SPLITS), text_table(ids, texts, SPLITS), relevance_table(range(len(SPLITS))),
        folder / "photos",
    )  # fmt: skip
    for path in ("features", "values", None):
        data = embed(corpus, encoder, folder / (path or "plain"), progress=False, say=quiet)
        if path:
            data = embed_tokens(corpus, LocalEncoder(encoder, path), data, say=quiet)
    data = EmbeddingSet.open(folder / "features")
    for direction in ("t2i", "i2t"):
        run_training(data, direction, scorers.parse(QUICK), folder / direction, tracking=None, say=quiet)
    return folder


def opened(place, name="features"):
    return EmbeddingSet.open(place / name)


def test_a_run_knows_which_tokens_it_was_trained_on(place):
    told = read_json(place / "t2i/config.json")["tokens"]
    assert told == read_json(place / "features/meta.json")["tokens"]
    assert (told["path"], told["image_width"], told["text_width"]) == ("features", 64, 48)
    again: list[str] = []
    run_training(opened(place), "t2i", scorers.parse(QUICK), place / "t2i", tracking=None, say=again.append)
    assert "already trained" in again[0]
    with pytest.raises(UserError, match="holds a ranker trained with other settings or on other data"):
        run_training(opened(place, "values"), "t2i", scorers.parse(QUICK), place / "t2i", tracking=None, say=quiet)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("split", [None, "test"])
def test_ones_own_caption_is_scored_as_the_same_one_of_the_set(place, direction, split):
    data, row = opened(place), 50
    images, texts = tables_of(data)
    asking, found = (texts, images) if direction == "t2i" else (images, texts)
    rows = np.arange(len(SPLITS)) if split is None else data.candidate_rows(direction, split)
    index = Reranker.from_pretrained(place / direction, "cpu").index(
        np.asarray(data.candidates(direction)[rows]), ids=rows, tokens=found.select(torch.from_numpy(rows))
    )
    expected = index.search(data.queries(direction)[[row]], k=5, tokens=asking.select(torch.tensor([row])))
    asked = {"text": data.texts["text"][row]} if direction == "t2i" else {"image": image_files(data)[row]}
    hits = search(place / direction, data, **asked, k=5, split=split, device="cpu", say=quiet)
    np.testing.assert_allclose([hit["score"] for hit in hits], expected.scores[0], atol=2e-3)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert len({hit["id"] for hit in hits} & set(map(str, expected.ids[0]))) >= 4


def test_the_command_line_searches_with_tokens(place, run, capsys):
    run("search", place / "t2i", "--data", place / "features", "--text", "a red thing", "-k", 3, "--device", "cpu")
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", r"reads words and cells, and .*plain holds none\. Make them with .* --tokens features"),
        ("values", "was trained on other tokens than .*path 'values' in place of 'features'"),
    ],
)
def test_a_set_without_its_tokens_is_refused(place, name, said):
    with pytest.raises(UserError, match=said):
        search(place / "t2i", opened(place, name), text="a red thing", device="cpu", say=quiet)


def test_a_query_cannot_be_made_for_tokens_that_were_imported(place, tmp_path):
    """Nor for those that the encoder would make otherwise today."""
    meta = read_json(place / "features/meta.json")
    for facts, said in (
        ({"tower": "import", "layer": None, "path": None, "grid": None}, "its words and cells were imported"),
        ({"grid": [4, 1]}, r"are not those that its encoder makes now \(grid \[2, 2\] in place of \[4, 1\]\)"),
    ):
        told = {**meta["tokens"], **facts}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for file in (place / "features").iterdir():
            if file.is_file():
                (folder / file.name).symlink_to(file)
        (folder / "meta.json").unlink()
        write_json(folder / "meta.json", {**meta, "tokens": told})
        run = folder / "run"
        run.mkdir()
        for file in (place / "t2i").iterdir():
            (run / file.name).symlink_to(file)
        (run / "config.json").unlink()
        write_json(run / "config.json", {**read_json(place / "t2i/config.json"), "tokens": told})
        with pytest.raises(UserError, match=said):
            search(run, EmbeddingSet.open(folder), text="a red thing", device="cpu", say=quiet)


def test_a_last_stage_puts_the_first_few_in_order_again(place, tiny_blip, rerank_server, run, capsys):
    """With a ranker that reads tokens, to an endpoint and to a BLIP of this machine."""
    ask = ("search", place / "t2i", "--data", place / "features", "--text", "a red thing", "-k", 8, "--device", "cpu")
    run(*ask)
    before = [line.split() for line in capsys.readouterr().out.splitlines()]
    run(*ask, "--then", "remote", "--then-set", f"url={rerank_server.url}", "--then-set", "top=3", "--depth", 50)
    after = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[4] for line in after[3:]] == [line[4] for line in before[3:]], "the fourth and those behind it"
    assert {line[4] for line in after[:3]} == {line[4] for line in before[:3]}
    (asked,) = rerank_server.asked
    assert asked["query"] == "a red thing"
    best = max(asked["documents"], key=lambda document: rerank_server.of("a red thing", document))
    assert best["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert float(after[0][1]) == pytest.approx(rerank_server.of("a red thing", best), abs=1e-3)
    run(*ask, "--then", "blip_itm", "--then-set", f"model={tiny_blip}")
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_captions_of_an_image_go_to_the_endpoint_too(place, rerank_server):
    image = image_files(opened(place))[3]
    for depth in (None, 20):
        hits = search(
            place / "i2t", opened(place), image=image, k=2, device="cpu", say=quiet, then="remote", depth=depth,
            then_set=[f"url={rerank_server.url}"],
        )  # fmt: skip
    assert len(hits) == 2
    assert {type(document) for document in rerank_server.asked[0]["documents"]} == {str}
    assert len(rerank_server.asked[0]["documents"]) == 5
    assert list(rerank_server.asked[0]["query"]) == ["content"]


def test_a_run_of_the_endpoint_alone_is_searched_and_judged(place, rerank_server, run, capsys):
    url = f"url={rerank_server.url}"
    run("train", "--data", place / "plain", "--direction", "t2i", "--scorer", "remote", "--set", url, "--set",
        "device=cpu", "--out", place / "remote", "--no-tracking")  # fmt: skip
    assert "rerank endpoint" in (place / "remote/README.md").read_text()
    run("evaluate", place / "remote", "--data", place / "plain", "--device", "cpu")
    run("search", place / "remote", "--data", place / "plain", "--text", "a thing", "-k", 4, "--device", "cpu")
    assert len(capsys.readouterr().out.splitlines()[-4:]) == 4
    assert rerank_server.asked[-1]["query"] == "a thing"


@pytest.mark.parametrize(
    ("then", "assignments", "said"),
    [
        ("blip_it", (), r"--then blip_it: settings: scorer='blip_it': no such scorer\. Did you mean 'blip_itm'"),
        ("vsepp", (), "--then vsepp: scorer=vsepp can't come last"),
        ("remote", ("tpo=3",), "--then remote: settings: unknown key 'tpo' .* Did you mean 'top'"),
        ("remote", ("top",), "--then remote: .*'top': write it as key=value"),
        (None, ("top=3",), "--then-set top=3: is a setting of a last stage"),
        ("remote", (), "scorer=remote: url is empty"),
    ],
)
def test_a_last_stage_that_cannot_be_is_refused(place, then, assignments, said):
    with pytest.raises(UserError, match=said):
        search(
            place / "t2i", opened(place), text="a thing", device="cpu", say=quiet, then=then, then_set=assignments
        )  # fmt: skip


def test_a_filter_before_a_last_stage_is_refused_and_nobody_is_asked(place, rerank_server):
    with pytest.raises(UserError, match="a search with a last stage can't be filtered"):
        search(
            place / "t2i", opened(place), text="a thing", device="cpu", say=quiet, where=["split=test"], then="remote",
            then_set=[f"url={rerank_server.url}"],
        )  # fmt: skip
    assert not rerank_server.asked
