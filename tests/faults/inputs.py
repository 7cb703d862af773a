"""What the commands of the campaign read: small arrays, captions, photos, an encoder, plans."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

IMAGES, WIDTH, CELLS = 48, 8, 4
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PLAN = "rows:\n  plain: {scorer: csls}\n  centred: {scorer: csls, on: centred}\n"


def make(folder: Path) -> None:
    """Write all of it."""
    folder.mkdir(parents=True)
    arrays(folder, "", seed=0)
    arrays(folder, "other-", seed=1)
    arrays(folder, "many-", seed=3, images=150)
    kinds(folder / "kinds.mat")
    photos(folder / "photos")
    encoder(folder)
    (folder / "plan.yaml").write_text(PLAN)


def splits(images: int) -> list[str]:
    """Return the split of each image."""
    train, val = images * 6 // 10, images * 2 // 10
    return ["train"] * train + ["val"] * val + ["test"] * (images - train - val)


def arrays(folder: Path, prefix: str, seed: int, images: int = IMAGES) -> None:
    """Write image and text embeddings that resemble each other, tokens around them, and their captions."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(images, WIDTH))
    text = image + 0.5 * rng.normal(size=image.shape)
    np.save(folder / f"{prefix}A.npy", image.astype(np.float32))
    np.save(folder / f"{prefix}B.npy", text.astype(np.float32))
    cells, counts = np.repeat(image[:, None], CELLS, 1), rng.integers(2, 5, images)
    words = np.repeat(text, counts, 0)
    np.save(folder / f"{prefix}cells.npy", (cells + rng.normal(size=cells.shape)).astype(np.float32))
    np.save(folder / f"{prefix}words.npy", (words + rng.normal(size=words.shape)).astype(np.float32))
    np.save(folder / f"{prefix}offsets.npy", np.concatenate([[0], counts.cumsum()]))
    rows = [f"t{i},{i},{prefix}caption {i},{split}\n" for i, split in enumerate(splits(images))]
    (folder / f"{prefix}C.csv").write_text("caption_id,image_id,caption,split\n" + "".join(rows))


def kinds(path: Path) -> None:
    """Write features of two kinds, 7 and 4 wide, with three classes, as a MATLAB file."""
    from scipy.io import savemat

    rng, sizes = np.random.default_rng(2), {"tr": 40, "te": 12}
    image, text = rng.normal(size=(3, 7)), rng.normal(size=(3, 4))
    variables = {}
    for part, count in sizes.items():
        kind = np.arange(count) % 3
        noise = [0.3 * rng.normal(size=(count, width)) for width in (7, 4)]
        variables |= {f"I_{part}": image[kind] + noise[0], f"T_{part}": text[kind] + noise[1], f"L_{part}": kind + 1}
    savemat(path, variables)


def photos(folder: Path, count: int = 12) -> None:
    """Write a few photos with a table of captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        split = ("train", "train", "val", "test")[i % 4]
        lines += [f"{i}.png,photo number {i}{more},{split}" for more in ("", " again")]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


def encoder(folder: Path) -> None:
    """Write a random CLIP: its config and its weights."""
    from safetensors.torch import save_file

    from data_prep.weights import import_open_clip

    open_clip = import_open_clip()
    config = folder / "tiny-faults.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-faults")
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "attn_mask"}
    save_file(state, folder / "tiny-faults.safetensors")
