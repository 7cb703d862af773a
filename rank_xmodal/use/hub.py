"""Rankers on the Hugging Face Hub: fetched by their name, and pushed with a card that says what they are."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError, first_line
from rank_xmodal.scorers.folder import FILES, save
from rank_xmodal.scorers.stack import Stack

_NAME = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
# Of the machine or the store that a run was made in; nobody else can use them.
_OWN = ("mlflow_run", "weights_file")


def is_repository(name: str) -> bool:
    """Say whether this is the name of a repository, "user/name", and no folder here.

    >>> is_repository("anna/listnet-t2i"), is_repository("runs/a/b"), is_repository("../x")
    (True, False, False)
    """
    return bool(_NAME.fullmatch(name)) and not Path(name).exists()


def fetched(name: str, revision: str | None = None) -> Path:
    """Return the folder of a ranker of the Hub, downloaded once and kept in Hugging Face's cache.

    Parameters
    ----------
    name : str
        "user/name".
    revision : str or None
        A branch, tag or commit; the newest if None.

    Raises
    ------
    UserError
        If there is no such repository, it may not be read, or it can't be reached and is not in the cache.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # huggingface_hub's, or those of the HTTP library that its version stands on
        raise UserError(
            f"{name}: no folder here, and no ranker of that name could be fetched from the Hub ({first_line(error)}). "
            "Name a run's folder, or a repository that you may read while you are online."
        ) from error


def push(
    name: str, stack: Stack, facts: dict[str, Any], card: str, *, licence: str, private: bool, token: str | None = None
) -> str:
    """Upload a ranker, and return where it is.

    Parameters
    ----------
    name : str
        "user/name".
    stack, facts
        As `scorers.folder.save` takes them; what only means something on this machine is left out.
    card : str
        Markdown; its front matter gets the licence.
    licence : str
        As the Hub calls it, such as "mit".
    private : bool
        Whether others may not see it.
    token : str or None
        By default that of `hf auth login`.

    Raises
    ------
    UserError
        If the name or the licence is none, or the upload fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r}: is no name of a repository. Write USER/NAME.")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name!r}: is no name of a repository ({first_line(error)}). Write USER/NAME.") from error
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise UserError(f"licence={licence!r}: name one as the Hub does, such as mit, apache-2.0 or cc-by-4.0.")
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder), name, stack, facts, card, licence)
        try:
            api = HfApi(token=token)
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="A ranker of rank_xmodal")
        except Exception as error:  # as above
            raise UserError(
                f"{name}: can't be pushed ({first_line(error)}). Be online, and log in by `hf auth login`."
            ) from error
    return f"https://huggingface.co/{name}"


def stage(folder: Path, name: str, stack: Stack, facts: dict[str, Any], card: str, licence: str) -> None:
    """Write what is uploaded into a folder: the ranker, and its card as others may read it."""
    told = {key: value for key, value in facts.items() if key not in _OWN}
    if isinstance(told.get("encoder"), dict):
        told["encoder"] = {key: value for key, value in told["encoder"].items() if key not in _OWN}
    save(folder, stack, told, published_card(card, name, licence))


def published_card(card: str, name: str, licence: str) -> str:
    r"""Return a run's card with a licence, and the repository in place of the run's folder.

    >>> print(published_card('---\ntags: [clip]\n---\nReranker.from_pretrained("/home/a/run")', "a/b", "mit"))
    ---
    license: mit
    tags: [clip]
    ---
    Reranker.from_pretrained("a/b")
    """
    card = re.sub(r'from_pretrained\("(?:[^"\\]|\\.)*"\)', lambda _: f"from_pretrained({json.dumps(name)})", card)
    body = re.fullmatch(r"---\n(?P<facts>.*?)\n?---\n(?P<text>.*)", card, re.DOTALL)
    if body is None:
        return f"---\nlicense: {licence}\nlibrary_name: rank_xmodal\n---\n\n{card or '# A ranker of rank_xmodal'}"
    known = [line for line in body["facts"].splitlines() if not line.startswith("license:")]
    return "\n".join(["---", f"license: {licence}", *known, "---", body["text"]])
