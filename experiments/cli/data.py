"""Verbs that make embedding sets and candidate lists: embed, import, mine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from experiments.cli import options
from experiments.cli.options import PATH, say
from experiments.cli.terminal import echo
from rank_xmodal.errors import UserError


@click.command()
@click.option(
    "--dataset",
    type=click.Choice(
        ["scenes", "flickr30k", "coco", "folder", "parquet", "pascal_sentences", "mirflickr", "nus_wide", "wikipedia"]
    ),
    required=True,
)
@click.option(
    "--root", type=PATH, required=True, help="The dataset's folder (scenes: made there), or its Parquet file."
)
@click.option(
    "--model",
    required=True,
    help="open_clip's model name, e.g. ViT-B-32-quickgelu, or a config file of one; scenes-clip is the demo's.",
)
@click.option("--pretrained", required=True, help="A pretrained tag of that model, or a weights file.")
@click.option("--out", type=PATH, required=True, help="Folder of the embedding set.")
@click.option(
    "--captions", type=PATH, help="folder: the CSV or Parquet of captions; without one, a corpus to search in."
)
@click.option("--name", help="What tables and MLflow call this set; the folder's name if not given.")
@click.option("--batch-size", type=options.count(1), default=64, show_default=True)
@click.option(
    "--seed", type=options.SEED, default=None, help="scenes, and what is dealt out: folders and Parquet files without "
    "splits, pascal_sentences, mirflickr.",
)  # fmt: skip
@click.option("--classes", type=options.count(1), help="nus_wide: keep the classes with the most images (10, or 21).")
@click.option("--overwrite", is_flag=True, help="Replace another embedding set at --out.")
@click.option(
    "--skip-broken", is_flag=True,
    help="Leave out images that are missing, damaged or no images, with their captions, and say which.",
)  # fmt: skip
@click.option(
    "--tokens", type=click.Choice(["values", "last", "features"]),
    help="Keep words and cells, too: of a ViT's patches the value path of its last block, or its last layer; or both "
    "sides' features before the projection.",
)  # fmt: skip
@options.parallel
@options.device
def embed(
    dataset: str, root: Path, model: str, pretrained: str, out: Path, captions: Path | None, name: str | None,
    batch_size: int, seed: int | None, classes: int | None, overwrite: bool, skip_broken: bool, tokens: Any,
    parallel: str, device: str,
) -> None:  # fmt: skip
    """Embed a dataset's images and captions with a frozen CLIP. Interrupted, it goes on where it stopped."""
    from data_prep.allocator import keep_blocks
    from data_prep.datasets import load
    from data_prep.embed import embed as run
    from data_prep.embed_tokens import embed_tokens
    from data_prep.encoder import load_encoder
    from data_prep.local import LocalEncoder
    from rank_xmodal.parallel import executor_named

    keep_blocks()
    given: dict[str, Any] = {"seed": seed, "captions": captions, "classes": classes}
    if skip_broken and dataset in ("folder", "flickr30k", "coco"):  # they look for the files themselves
        given["skip_broken"] = True
    if dataset == "parquet":
        given["images"] = Path(f"{os.path.abspath(out)}.images")
    corpus = load(dataset, root, say=say, **given)
    encoder = load_encoder(model, pretrained, None if device == "auto" else device, say=say)
    local = LocalEncoder(encoder, tokens) if tokens else None  # which towers it can't take is said before the work
    with executor_named(parallel) as executor:
        made = run(
            corpus, encoder, out, batch_size=batch_size, overwrite=overwrite, skip_broken=skip_broken, name=name,
            say=say, executor=executor, device=device,
        )  # fmt: skip
        if local is not None:
            made = embed_tokens(corpus, local, made, batch_size=batch_size, say=say, executor=executor, device=device)
    _describe(made)


@click.command("import")
@click.option("--images", type=PATH, help="A.npy, or clip-retrieval's folder.")
@click.option("--texts", type=PATH, help="B.npy")
@click.option("--unaligned", is_flag=True, help="The sides are features of two kinds: keep them as they are.")
@click.option(
    "--mat", type=PATH, multiple=True,
    help="A .mat file of features of two kinds and classes, in place of these; once for each where they are several.",
)  # fmt: skip
@click.option(
    "--variable", "variables", multiple=True, metavar="ROLE=NAME[,NAME]",
    help="--mat: images, texts or labels, and its variables of train and test, or one of all.",
)  # fmt: skip
@click.option(
    "--labels", type=PATH, multiple=True,
    help="--mat: lists whose lines end in the number of a class, of train and of test, where it holds no labels.",
)  # fmt: skip
@click.option("--nus-wide", type=PATH, help="The folder of NUS-WIDE's text files, in place of all these.")
@click.option(
    "--nus-features",
    type=click.Choice(["normalized", "bow"]),
    help="--nus-wide: five features, 634 wide, or SIFT words.",
)
@click.option("--classes", type=options.count(1), help="--nus-wide: keep the classes with the most images (10, or 21).")
@click.option("--val", type=float, default=0.0, help="--mat, --nus-wide: share of train that becomes val.")
@click.option("--captions", type=PATH, help="C.csv: caption_id,image_id[,caption][,split][,labels]")
@click.option(
    "--model", help="The model that made the arrays, as for embed: then new texts and images can be searched."
)
@click.option("--pretrained", help="--model: its tag or weights file.")
@click.option(
    "--image-tokens", type=PATH, help="cells.npy (images, cells, width): with --text-tokens and --text-offsets."
)
@click.option("--text-tokens", type=PATH, help="words.npy (words of all captions, width)")
@click.option("--text-offsets", type=PATH, help="offsets.npy (captions + 1,): where each caption's words begin.")
@click.option("--out", type=PATH, required=True, help="Folder of the embedding set.")
@click.option("--name", help="What tables and MLflow call this set; the folder's name if not given.")
@click.option("--overwrite", is_flag=True, help="Replace another embedding set at --out.")
def import_(
    images: Path | None, texts: Path | None, unaligned: bool, mat: tuple[Path, ...], variables: tuple[str, ...],
    labels: tuple[Path, ...], nus_wide: Path | None, nus_features: str | None, classes: int | None, val: float,
    captions: Path | None, model: str | None, pretrained: str | None, image_tokens: Path | None,
    text_tokens: Path | None, text_offsets: Path | None, out: Path, name: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Take embeddings made elsewhere: .npy files with a CSV, clip-retrieval's folder, .mat files, or NUS-WIDE's own."""
    from data_prep.importing_tokens import import_tokens

    if (model is None) != (pretrained is None):
        raise UserError("import: --model and --pretrained belong together. Give both, or neither.")
    if model and unaligned:
        raise UserError("import: --unaligned features are of two kinds, and no --model makes both. Leave one out.")
    others = images or texts or captions or model or unaligned or image_tokens or text_tokens or text_offsets
    if nus_wide is None and (nus_features or classes):
        raise UserError("import: --nus-features and --classes belong to --nus-wide. Leave them out.")
    if not mat and (variables or labels):
        raise UserError("import: --variable and --labels belong to --mat. Leave them out.")
    if nus_wide is not None:
        if others or mat:
            raise UserError("import: --nus-wide takes the place of all other inputs. Leave them out.")
        _describe(_from_nus_wide(nus_wide, nus_features or "normalized", classes, val, out, name, overwrite))
        return
    if mat:
        if others:
            raise UserError("import: --mat takes the place of all other inputs. Leave them out.")
        _describe(_from_mat(mat, variables, labels, val, out, name, overwrite))
        return
    if val:
        raise UserError("import: --val belongs to --mat and --nus-wide. Leave it out.")
    if images is None:
        raise UserError("import: give --images A.npy, a clip-retrieval folder, --mat FILE, or --nus-wide FOLDER.")

    tokens = [image_tokens, text_tokens, text_offsets]
    if any(tokens) and not all(tokens):
        raise UserError("import: --image-tokens, --text-tokens and --text-offsets belong together. Give all, or none.")
    if images.is_dir() and (texts or captions or unaligned):
        raise UserError(
            f"--images {images} is a folder, clip-retrieval's layout: leave out --texts, --captions, --unaligned."
        )
    if (texts is None) != (captions is None) or (texts is None and unaligned):
        raise UserError(
            "import: --texts B.npy and --captions C.csv belong together. Give both, or neither for images alone, a "
            "corpus to search in."
        )
    made = _from_arrays(images, texts, captions, unaligned, model, pretrained, out, name, overwrite)
    if image_tokens and text_tokens and text_offsets:
        made = import_tokens(made, image_tokens, text_tokens, text_offsets)
    _describe(made)


def _from_arrays(
    images: Path, texts: Path | None, captions: Path | None, unaligned: bool, model: str | None,
    pretrained: str | None, out: Path, name: str | None, overwrite: bool,
) -> Any:  # fmt: skip
    from data_prep.encoder import load_encoder
    from data_prep.importing import import_embeddings
    from data_prep.importing_clip_retrieval import import_clip_retrieval

    encoder = load_encoder(model, pretrained, say=say) if model else None
    if images.is_dir():
        return import_clip_retrieval(images, out, name, encoder=encoder, overwrite=overwrite, say=say)
    return import_embeddings(
        images, texts, captions, out, name, unaligned=unaligned, encoder=encoder, overwrite=overwrite, say=say
    )


def _from_mat(
    mat: tuple[Path, ...], variables: tuple[str, ...], labels: tuple[Path, ...], val: float, out: Path,
    name: str | None, overwrite: bool,
) -> Any:  # fmt: skip
    from data_prep.importing_mat import ROLES, import_mat

    told: dict[str, list[str]] = {}
    for one in variables:
        role, _, names = one.partition("=")
        if role not in ROLES or not names or role in told:
            raise UserError(f"--variable {one}: say images=NAME,NAME, texts=... and labels=..., each once.")
        told[role] = names.split(",")
    return import_mat(mat, out, name, variables=told or None, labels=labels, val=val, overwrite=overwrite, say=say)


def _from_nus_wide(
    root: Path, features: str, classes: int | None, val: float, out: Path, name: str | None, overwrite: bool
) -> Any:
    from data_prep.importing_nus_wide import import_nus_wide

    return import_nus_wide(root, out, name, features=features, classes=classes, val=val, overwrite=overwrite, say=say)


def _describe(made: Any) -> None:
    counts = ", ".join(
        f"{split} {n['images']:,} images / {n['texts']:,} texts" for split, n in made.meta["counts"].items()
    )
    classes = f"; {len(made.classes):,} classes" if made.labelled else ""
    cells = f"; {made.meta['tokens']['cells']} cells an image, words" if made.meta.get("tokens") else ""
    wide = f"{made.dim}" if made.aligned else f"images {made.dims[0]} and texts {made.dims[1]}, not aligned,"
    echo(f"{made.root}: {wide} wide; {counts}{classes}{cells}")


def _pool(context: click.Context, parameter: click.Parameter, value: str) -> int | str:
    if value == "all":
        return value
    try:
        return int(options.count(1)(value, parameter, context))
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message.rstrip('.')}; or say 'all'.") from None


@click.command()
@click.argument("data", type=PATH)
@options.direction
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="train", show_default=True)
@click.option("--negatives", type=options.count(1, 100_000), default=50, show_default=True)
@click.option("--pool", default="200", show_default=True, callback=_pool, help="Random candidates per query, or all.")
@click.option("--protocol", type=click.Choice(["clean", "paper", "natural"]), default="clean", show_default=True)
@click.option("--seed", type=options.SEED, default=0, show_default=True)
@click.option("--range-min", type=options.count(0), default=0, show_default=True, help="Skip the most similar ones.")
@click.option("--absolute-margin", type=options.FINITE, help="Keep negatives this far below the positive's cosine.")
@click.option("--relative-margin", type=options.FINITE, help="The same, as a share of the positive's cosine.")
@click.option("--max-score", type=options.FINITE, help="Keep negatives of at most this cosine.")
@click.option(
    "--shards", type=options.count(1), default=1, show_default=True,
    help="--pool all: search the gallery in so many parts, where a worker can't hold all of it.",
)  # fmt: skip
@options.parallel
@click.option("--out", type=PATH, help="By default lists/DIRECTION-SPLIT.parquet in DATA.")
def mine(data: Path, direction: str, split: str, out: Path | None, parallel: str, **options: Any) -> None:
    """Mine hard negatives by CLIP cosine into candidate lists."""
    from data_prep.mining.miner import mine as run
    from data_prep.mining.statistics import format_report
    from data_prep.progress import progress_bar
    from experiments.run.lists import default_path
    from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
    from rank_xmodal.parallel import executor_named

    opened = EmbeddingSet.open(data)
    way = check_direction(direction)
    done, total = 0, len(opened.query_rows(way, split))
    with executor_named(parallel) as executor, progress_bar("queries", total, say=say) as advance:

        def progress(count: int, total: int) -> None:
            nonlocal done
            advance(count - done)
            done = count

        lists = run(opened, way, split, progress=progress, executor=executor, **options)
    target = out or default_path(opened, way, split)
    lists.write(target)
    echo(format_report(lists))
    echo(f"wrote {target}: {len(lists):,} lists of {lists.length}")


COMMANDS = (embed, import_, mine)
