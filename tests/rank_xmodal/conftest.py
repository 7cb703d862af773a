"""A planted corpus to learn from, lists of it, and random batches."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import write_tokens
from rank_xmodal.evaluation.judging import judge
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import choose_bank
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.stack import TrainingPart, fit_stack, rows_of, score_rows
from rank_xmodal.training.watch import Watch


@pytest.fixture(autouse=True)
def one_thread():
    """These tensors are too small to share between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def embedding_set(image, text, pairs, image_split, text_split, grades=1, name="hand-made"):
    """Return a set in memory; `pairs` are (image, text) rows, the embeddings are scaled to length 1."""
    image, text = (np.asarray(x, dtype=np.float64) for x in (image, text))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    pairs = np.asarray(pairs, dtype=np.int32).reshape(-1, 2)
    return EmbeddingSet(
        image.astype(np.float16),
        text.astype(np.float16),
        pd.DataFrame({"image_id": [f"i{k}" for k in range(len(image))], "path": "", "split": image_split}),
        pd.DataFrame(
            {
                "text_id": [f"t{k}" for k in range(len(text))],
                "text": [f"caption {k}" for k in range(len(text))],
                "split": text_split,
            }
        ),
        pd.DataFrame({"image": pairs[:, 0], "text": pairs[:, 1], "grade": grades}),
        {"fingerprint": name, "name": name},
    )


def planted(images=400, per_image=2, d=24, seed=0):
    """Return a corpus in which half of the dimensions are noise and some images are hubs: there is much to learn."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(images, d))
    text = np.repeat(image, per_image, axis=0)
    text = text + rng.normal(size=text.shape) * np.r_[np.full(d // 2, 0.5), np.full(d // 2, 3.0)]
    image[::10] += 2.0 * text.mean(axis=0) / np.linalg.norm(text.mean(axis=0))
    splits = np.array(["train"] * (images // 2) + ["val"] * (images // 4) + ["test"] * (images - images // 4 * 3))
    owner = np.repeat(np.arange(images), per_image)
    pairs = np.stack([owner, np.arange(len(owner))], axis=1)
    return embedding_set(image, text, pairs, splits, splits[owner], name=f"planted {seed}")


def lists_of(data, direction="t2i", depth=30):
    """Return training lists as they occur in use: the top of the train gallery, queries without a hit dropped."""
    stage = rank_gallery(data, direction, "train", depth=depth)
    kept = (stage.lists.labels > 0).any(axis=1)
    arrays = {name: getattr(stage.lists, name)[kept] for name in ("query", "candidates", "labels", "cosine")}
    return CandidateLists(**arrays, info=stage.lists.info)


def chosen(**values):
    """Return settings for a training of a second; of our ranker over embeddings, unless they say otherwise."""
    ours = {} if "scorer" in values else {"features": "embeddings"}
    return scorers.parse({"epochs": 3, "batch_size": 32, "device": "cpu", "dropout": 0.1, **ours, **values})


def train(data, lists, settings, *, direction="t2i", validation=None, **watch):
    """Return a stack, fitted on these lists; keywords are those of `Watch`."""
    return fit_stack(
        scorers.class_of(settings.scorer)(settings), data, direction, parts=[TrainingPart(lists, data)],
        validation=validation, seed=settings.seed, device=torch.device("cpu"), watch=Watch(**watch),
    )  # fmt: skip


def report_of(stack, data, direction="t2i", **options):
    """Return the test report of a stack and its values by query."""
    gallery = rank_gallery(data, direction, "test", **options)
    return judge(score_rows(rows_of(stack, data), data, gallery.lists, torch.device("cpu")), gallery)


def held_out(data, direction, split="val"):
    """Return lists to choose by, scored by cosine alone."""
    gallery = rank_gallery(data, direction, split)
    stack = Stack(Cosine(), data.queries(direction)[choose_bank(data, direction)])
    return HeldOut(gallery, stack.tensors(data, gallery.lists, torch.device("cpu")))


def random_batch(lists=3, length=7, dim=12, near=10, seed=0):
    """Return a batch without padding."""
    draw = torch.Generator().manual_seed(seed)
    return ListBatch(
        query=torch.randn(lists, dim, generator=draw),
        candidates=torch.randn(lists, length, dim, generator=draw),
        cosine=torch.rand(lists, length, generator=draw),
        neighbour_cosine=torch.rand(lists, length, near, generator=draw).sort(-1, descending=True).values,
        mask=torch.ones(lists, length, dtype=torch.bool),
    )


def pad(batch, places=4):
    """Return the batch with places of padding behind, filled with what would show if anybody looked at it."""
    b, _, dim = batch.candidates.shape
    return ListBatch(
        batch.query,
        torch.cat([batch.candidates, torch.full((b, places, dim), 9.0)], 1),
        torch.cat([batch.cosine, torch.full((b, places), 5.0)], 1),
        torch.cat([batch.neighbour_cosine, torch.ones(b, places, batch.neighbour_cosine.shape[-1])], 1),
        torch.cat([batch.mask, torch.zeros(b, places, dtype=torch.bool)], 1),
    )


def planted_tokens(path, images=400, per_image=2, seed=0):
    """Return a set in a folder whose words and cells say what its embeddings can't.

    An image shows two of forty things, each in a cell of its own, and a caption names both; the embeddings know the
    first of them and noise.
    """
    rng = np.random.default_rng(seed)
    things = rng.normal(size=(40, 16))
    names = rng.normal(size=(40, 12))
    shown = np.stack([rng.choice(40, 2, replace=False) for _ in range(images)])
    cells = rng.normal(size=(images, 6, 16)) * 0.3
    for row, pair in enumerate(shown):
        cells[row, rng.choice(6, 2, replace=False)] += things[pair]
    owner = np.repeat(np.arange(images), per_image)
    first = rng.normal(size=(40, 24))
    image = first[shown[:, 0]] + rng.normal(size=(images, 24)) * 0.7
    text = first[shown[owner, 0]] + rng.normal(size=(len(owner), 24)) * 0.7
    words, counts = [], []
    for row in owner:
        others = rng.normal(size=(rng.integers(1, 4), 12)) * 0.3
        said = np.concatenate([names[shown[row]] + rng.normal(size=(2, 12)) * 0.2, others])
        words.append(rng.permutation(said))
        counts.append(len(said))
    splits = np.array(["train"] * (images // 2) + ["val"] * (images // 4) + ["test"] * (images - images // 4 * 3))
    pairs = np.stack([owner, np.arange(len(owner))], axis=1)
    data = embedding_set(image, text, pairs, splits, splits[owner], name=f"planted tokens {seed}").write(path)
    return write_tokens(
        data, [cells.astype(np.float16)], [np.concatenate(words).astype(np.float16)],
        np.concatenate([[0], np.cumsum(counts)]), (images, 6, 16, 12), {"normalised": False},
    )  # fmt: skip


@pytest.fixture(scope="session")
def with_tokens(tmp_path_factory):
    """The planted set with tokens."""
    return planted_tokens(tmp_path_factory.mktemp("tokens") / "set")


@pytest.fixture(scope="session")
def corpus(with_tokens):
    """The planted corpus as `data`, its lists for training as `lists`, one with tokens, and the functions above."""
    data = planted()
    return SimpleNamespace(
        data=data,
        with_tokens=with_tokens,
        lists=lists_of(data),
        embedding_set=embedding_set,
        planted=planted,
        lists_of=lists_of,
        chosen=chosen,
        held_out=held_out,
        train=train,
        report_of=report_of,
        random_batch=random_batch,
        pad=pad,
    )
