"""May this place be written to?"""

from __future__ import annotations

from pathlib import Path

from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, recover


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Check that `out` is free, or an embedding set that the user wants replaced.

    Raises
    ------
    UserError
        If it is something else: a folder of photos must not vanish because of a slip in --out.
    """
    recover(out.resolve().parent)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        meta = read_json(out / "meta.json")
    except (UserError, OSError):
        meta = None
    if not (isinstance(meta, dict) and {"format", "fingerprint"} <= meta.keys()):
        raise UserError(f"{out}: it is there already and is no embedding set. Choose another --out.")
    if not overwrite:
        raise UserError(
            f"{out}: it holds other embeddings ({meta.get('dataset') or meta.get('name')}, {meta.get('encoder')}, "
            f"{meta.get('pretrained')}). Choose another --out, or replace them with --overwrite."
        )
