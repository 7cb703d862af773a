"""A real open_clip model, small and random, and image files of many kinds; nothing here touches the network."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.datasets import Corpus
from data_prep.datasets.corpus import image_table, relevance_table, text_table
from data_prep.encoder import Encoder, load_encoder
from data_prep.weights import import_open_clip

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Offline, whoever imported huggingface_hub first, and one thread."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def open_clip():
    return import_open_clip()


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory, open_clip) -> Path:
    """The weights file of a model "tiny-test", which open_clip knows from now on, beside "tiny-test-quickgelu"."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny-test.json").write_text(json.dumps(TINY))
    (folder / "tiny-test-quickgelu.json").write_text(json.dumps({**TINY, "quick_gelu": True}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-test")
    path = folder / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}, path)
    return path


@pytest.fixture(scope="session")
def _tiny(tiny_weights) -> Encoder:
    return load_encoder("tiny-test", str(tiny_weights), device="cpu", say=lambda line: None)


@pytest.fixture
def encoder(_tiny) -> Encoder:
    _tiny.truncated = 0
    return _tiny


@dataclass
class Said:
    """Collects what would be printed."""

    lines: list

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture
def said() -> Said:
    return Said([])


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture(name="picture")
def _picture():
    return picture


def make_corpus(root: Path, count: int = 10) -> Corpus:
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        picture(i).save(root / name)
    splits = ["train"] * (count - 2) + ["val", "test"]
    owner = [i for i in range(count) for _ in range(2)]
    return Corpus(
        "made",
        image_table([str(i) for i in range(count)], names, splits),
        text_table(
            [str(i) for i in range(2 * count)],
            [f"caption number {i}" for i in range(2 * count)],
            [splits[i] for i in owner],
        ),
        relevance_table(owner),
        root,
    )


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return make_corpus(tmp_path / "photos")


@pytest.fixture
def nus_wide(tmp_path) -> Path:
    """Return a folder with NUS-WIDE's text files for 14 photos: photo 6 has no class, photo 7 no tags."""
    root = tmp_path / "nus"
    names = [f"actor\\{i:04d}_{100 + i}.jpg" for i in range(14)]
    parts = {"Train": list(range(13, 4, -1)), "Test": list(range(5))}  # in another order than the whole list's
    rng = np.random.default_rng(0)
    truth = {
        "sky": [i != 6 for i in range(14)],
        "lake": [i in (1, 9) for i in range(14)],
        "elk": [i == 9 for i in range(14)],
    }

    def put(path: str, lines: list) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("\r\n".join(map(str, lines)) + "\r\n")

    put("ImageList/Imagelist.txt", names)
    put("NUS_WID_Tags/All_Tags.txt", [f"{100 + i}      {'' if i == 7 else f'nature t{i} '}" for i in range(14)])
    for label, column in truth.items():
        put(f"Groundtruth/AllLabels/Labels_{label}.txt", [int(v) for v in column])
    for part, rows in parts.items():
        put(f"ImageList/{part}Imagelist.txt", [names[i] for i in rows])
        for label, column in truth.items():
            put(f"Groundtruth/TrainTestLabels/Labels_{label}_{part}.txt", [int(column[i]) for i in rows])
        put(
            f"NUS_WID_Tags/{part}_Tags1k.dat",
            ["\t".join(str(int(i != 7 and k in (0, i % 4))) for k in range(5)) + "\t" for i in rows],
        )
        low = "NUS_WID_Low_Level_Features/Low_Level_Features"
        put(f"{low}/BoW_{part}_int.dat", [f"{i} 0 {i + 1} " for i in rows])
        for kind, width in (("CH", 3), ("CM55", 2), ("CORR", 2), ("EDH", 1), ("WT", 2)):
            put(
                f"{low}/{part}_Normalized_{kind}.dat",
                [" ".join(f"{v:.4f}" for v in rng.random(width)) + " " for _ in rows],
            )
    return root
