"""`flickr30k` and `coco` with the splits of Karpathy and Fei-Fei (CVPR 2015, arXiv 1412.2306)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.datasets.corpus import Corpus, image_table, leaves, relevance_table, text_table
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json

_CAPTIONS = "caption_datasets.zip (https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip)"
_IMAGES = {
    "flickr30k": "the Flickr30K images (request them at https://shannon.cs.illinois.edu/DenotationGraph/)",
    "coco": "train2014.zip and val2014.zip (http://images.cocodataset.org/zips/train2014.zip, .../val2014.zip)",
}
_FOLDERS = {
    "flickr30k": (".", "flickr30k-images", "flickr30k_images", "images", "Images", "flickr30k_images/flickr30k_images"),
    "coco": (".", "images", "coco", "coco/images"),
}
_PUT = {"flickr30k": "flickr30k-images", "coco": "train2014 and val2014"}
# The 30,504 images of COCO's validation set that the split leaves over; everybody trains on them.
_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def load_karpathy(
    name: str,
    root: Path,
    images: Path | None = None,
    skip_broken: bool = False,
    say: Callable[[str], None] = print,
) -> Corpus:
    """Read dataset_<name>.json and find the image folder; all captions of an image are kept, be they 5, 6 or 7.

    Parameters
    ----------
    name : "flickr30k" or "coco"
    root : Path
        Holds the JSON file (or annotations/ does) and the image folder.
    images : Path, optional
        The image folder, where it is none of the usual ones.
    skip_broken : bool
        Images may be missing: `embed` leaves them out, as it does all that it can't read.

    Raises
    ------
    UserError
        If the JSON, the image folder or an image is missing, an image leads out of the folder, or the JSON isn't
        Karpathy's.
    """
    root = Path(root)
    source = _find_json(name, root)
    entries = _entries(name, source)
    names = [_file_names(entry) for entry in entries]
    for row, path in ((row, path) for row, paths in enumerate(names) for path in paths):
        if leaves(path):
            raise UserError(
                f"{source}: image {row} ({path!r}) leads out of the image folder. Take the file from {_CAPTIONS}."
            )
    folder, form = _find_images(name, root, images, names)
    paths = [options[form] for options in names]
    missing = [path for path in paths if not os.path.isfile(folder / path)]  # pathlib raises for names too long
    if missing and not skip_broken:
        raise UserError(
            f"{folder}: {len(missing):,} of the {len(paths):,} images that {source.name} lists are not there, the "
            f"first being {missing[0]}. Unpack {_IMAGES[name]} there again, or leave such images out with "
            "--skip-broken."
        )

    ids: list[str] = []
    splits: list[str] = []
    texts: list[str] = []
    text_ids: list[str] = []
    text_splits: list[str] = []
    owner: list[int] = []
    for row, entry in enumerate(entries):
        split = _SPLITS.get(str(entry.get("split")))
        if split is None:
            raise UserError(
                f"{source}: image {row} ({paths[row]}) has split {entry.get('split')!r}; expected train, restval, val "
                f"or test. Take the file from {_CAPTIONS}."
            )
        ids.append(Path(paths[row]).stem)
        splits.append(split)
        for sentence in entry["sentences"]:
            text = " ".join(str(sentence["raw"]).split())  # a few end in a line break
            if not text:
                raise UserError(f"{source}: image {row} ({paths[row]}) has an empty caption. Delete that sentence.")
            texts.append(text)
            text_ids.append(str(sentence.get("sentid", len(text_ids))))
            text_splits.append(split)
            owner.append(row)
    _unique(source, "file name", ids)
    _unique(source, "sentid", text_ids)
    return Corpus(
        name=name,
        images=image_table(ids, paths, splits),
        texts=text_table(text_ids, texts, text_splits),
        relevance=relevance_table(owner),
        image_root=folder,
    )


def _find_json(name: str, root: Path) -> Path:
    file = f"dataset_{name}.json"
    places = [root / file, root / "annotations" / file, root / "karpathy" / file, root / "caption_datasets" / file]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{root}: no {file} (looked for {', '.join(str(p.relative_to(root)) for p in places)}). "
        f"It is in {_CAPTIONS}; put it at {places[0]}."
    )


def _entries(name: str, source: Path) -> list[dict[str, Any]]:
    value = read_json(source)
    entries = value.get("images") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{source}: not a dataset file of Karpathy's (no list 'images'). Take it from {_CAPTIONS}.")
    found = value.get("dataset")
    if found not in (None, name):
        raise UserError(f"{source}: it says it is {found!r}, not {name!r}. Take dataset_{name}.json from {_CAPTIONS}.")
    for row, entry in enumerate(entries):
        sentences = entry.get("sentences") if isinstance(entry, dict) else None
        good = isinstance(sentences, list) and all(isinstance(s, dict) and "raw" in s for s in sentences)
        if not good or not sentences or not isinstance(entry.get("filename"), str):
            raise UserError(
                f"{source}: image {row} lacks a filename or sentences with 'raw' text. Take the file from {_CAPTIONS}."
            )
    return entries


def _file_names(entry: dict[str, Any]) -> tuple[str, str]:
    file, sub = entry["filename"], entry.get("filepath")
    return (f"{sub}/{file}" if sub else file), file


def _find_images(name: str, root: Path, images: Path | None, names: list[tuple[str, str]]) -> tuple[Path, int]:
    """Return the folder that holds most of a sample, and whether with subfolders (0) or flat (1)."""
    folders = [Path(images)] if images else [root / sub for sub in _FOLDERS[name]]
    sample = names[:: max(1, len(names) // 50)]
    found = [
        (sum(os.path.isfile(folder / options[form]) for options in sample), -i, -form)
        for i, folder in enumerate(folders)
        for form in (0, 1)
        if folder.is_dir()
    ]
    hits, i, form = max(found, default=(0, 0, 0))
    if not hits:
        looked = ", ".join(str(folder) for folder in folders)
        raise UserError(
            f"{root}: the images of {name} are not there (looked for {names[0][0]} and others in {looked}). Unpack "
            f"{_IMAGES[name]} so that {root} holds {_PUT[name]}."
        )
    return folders[-i], -form


def _unique(source: Path, what: str, ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise UserError(f"{source}: {what} {twice!r} stands there twice. Take the file from {_CAPTIONS}.")
