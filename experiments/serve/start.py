"""From runs on the disk to a server that answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rank_xmodal.errors import UserError


def serve(
    runs: Sequence[Path],
    data: Path | None = None,
    *,
    port: int = 8_000,
    host: str = "127.0.0.1",
    allow_host: Sequence[str] = (),
    rate: float = 20.0,
    threads: int | None = None,
    pretrained: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> None:
    """Serve runs of a set, or indexes, until Ctrl-C or SIGTERM.

    Parameters
    ----------
    runs : sequence of Path
        One of each direction at most.
    data : Path or None
        The embedding set that runs search.
    port, host
        Where to listen.
    allow_host : sequence of str
        Names under which it may be asked, beside localhost.
    rate : float
        Searches a second of each client; 0 for any number.
    threads : int or None
        Of torch; all cores but one, at most 4, if None.

    Raises
    ------
    UserError
        If the extra `serve` is not installed, the port is taken, or a run, set or index can't be used.
    """
    if rate < 0:
        raise UserError(f"--rate {rate:g}: must be 0, for any number, or more.")
    try:
        from experiments.serve import server
        from experiments.serve.app import make_app
        from experiments.serve.corpora import open_corpora
        from experiments.serve.limits import Limits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("experiments", "rank_xmodal", "data_prep"):
            raise
        raise UserError(
            f"serve: needs {error.name}, which is not installed. Run: pip install 'rank-xmodal[serve]'"
        ) from error
    from rank_xmodal.data.embedding_set import EmbeddingSet

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a client's broken form is the client's matter
    bound = server.listen(host, port)  # before a corpus is read, which takes longer
    try:
        if not server.is_loopback(host):
            say(
                f"--host {host}: whoever reaches this machine can search the corpus and see its captions and images; "
                "nobody is asked for a password."
            )
        opened = None if data is None else EmbeddingSet.open(data)
        corpora = open_corpora(runs, opened, pretrained=pretrained, device=device, say=say)
        for direction, corpus in corpora.items():
            found = corpus.searcher
            say(f"{direction}: {found.name}, {found.index.stack.scorer.label}, {len(found):,} candidates")
        names = [*allow_host, *([] if host in ("0.0.0.0", "::") else [f"[{host}]" if ":" in host else host])]
        count = threads or max(1, min(4, (os.cpu_count() or 1) - 1))
        app = make_app(corpora, Limits(rate=rate), hosts=names, threads=count)
        server.run(app, bound, say)
    finally:
        bound.close()
