"""The Containerfile's text; it is built by nobody here."""

import json
import re
from pathlib import Path

from experiments.cli.use import serve

ROOT = Path(__file__).parents[3]
LINES = [line for line in (ROOT / "Containerfile").read_text().splitlines() if not line.startswith("#")]


def said(word):
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{word} ")]


def test_what_it_runs_is_a_command_that_there_is():
    arguments = [*json.loads(said("ENTRYPOINT")[0]), *json.loads(said("CMD")[0])]
    assert arguments[:2] == ["rank-xmodal", "serve"]
    context = serve.make_context("serve", arguments[2:])
    assert context.params["runs"] == (Path("/index"),)
    assert context.params["host"] == "0.0.0.0"
    assert [str(context.params["port"])] == said("EXPOSE")
    assert serve.make_context("serve", ["/index"]).params["host"] == "127.0.0.1", "the default is the own machine"


def test_it_is_no_root_and_copies_what_is_installed():
    words = [line.split()[0] for line in LINES if line and not line.startswith(" ")]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert said("USER") == ["serve"]
    copied = {part for line in said("COPY") for part in line.split()[:-1]}
    assert {"pyproject.toml", "README.md", "rank_xmodal", "data_prep", "experiments"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^serve = \[", project, re.MULTILINE)
    assert '".[serve]"' in " ".join(LINES)


def test_what_torch_needs_is_not_looked_for_where_torch_alone_is():
    (installed,) = [part for part in " ".join(LINES).split("pip install") if "--index-url" in part]
    assert "--no-deps" in installed
