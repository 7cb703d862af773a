"""The documents: their Python runs, their links lead somewhere, their commands exist, versions agree."""

import itertools
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import rank_xmodal
from experiments.cli.main import cli
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    ROOT / "mlruns" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# What the changelog says of earlier versions need not be true of this one.
TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]


def named(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def fenced(text, language):
    """Return the fenced blocks of a language with the line that each begins in."""
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text[: match.start(1)].count("\n"), match.group(1)) for match in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with the embedding set and the run that the documents speak of."""
    folder, draw = tmp_path_factory.mktemp("docs"), np.random.default_rng(0)
    image = draw.normal(size=(160, 16))
    text = image + 0.7 * draw.normal(size=image.shape)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    rows, split = np.arange(len(image)), np.repeat(["train", "val", "test"], [80, 20, 60])
    data = EmbeddingSet(
        image.astype(np.float16),
        text.astype(np.float16),
        pd.DataFrame({"image_id": [f"{row}.jpg" for row in rows], "path": "", "split": split}),
        pd.DataFrame({"text_id": rows.astype(str), "text": [f"caption {row}" for row in rows], "split": split}),
        pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
    ).write(folder / "data" / "photos")
    settings = scorers.parse({"epochs": 1, "device": "cpu"})
    out = folder / "runs" / "photos" / "listnet-t2i"
    run_training(data, "t2i", settings, out, tracking=None, say=lambda line: None)
    return folder


@pytest.mark.parametrize("page", named([ROOT / "README.md", ROOT / "docs" / "guide.md"]))
def test_python_blocks_run(page, place, monkeypatch):
    """One after the other, in a folder with the set and the run that they name."""
    blocks = fenced(page.read_text(encoding="utf-8"), "python")
    assert blocks
    monkeypatch.chdir(place)
    threads, names = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    try:
        for line, block in blocks:
            exec(compile("\n" * line + block, str(page), "exec"), names)
    finally:
        torch.set_num_threads(threads)


def slugs(text):
    """Return the names that GitHub gives the headings of a page."""
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def links(text):
    """Return where a page's links and pictures point to, code left out."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_somewhere(page):
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link}: no such file"
        assert ROOT in target.parents, f"{link}: leaves the project"
        if heading:
            assert heading in slugs(target.read_text(encoding="utf-8")), f"{link}: no such heading"


def code_of(text):
    """Return the code of a page, a line at a time: inline, fenced but for Python and YAML, and indented."""
    text = re.sub(r"^```(?:python|yaml)\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = [line.strip() for line in prose.splitlines() if re.match(r" {4}", line)]
    return [
        *(line for _, block in fenced(text, r"\w*") for line in block.splitlines()),
        *indented,
        *re.findall(r"`([^`\n]+)`", prose),
    ]


def words(line):
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a lone quotation mark: prose
        return []


def calls(text):
    """Yield the verb and the words behind it of every `rank-xmodal VERB ...`, and of `VERB --option ...` in code."""
    for line in code_of(text):
        found = words(line)
        for place, word in enumerate(found[:-1]):
            if word == "rank-xmodal" and not found[place + 1].startswith("-"):
                yield found[place + 1], found[place + 2 :]
        if found[:1] and found[0] in cli.commands and any(word.startswith("--") for word in found):
            yield found[0], found[1:]


def options_of(command):
    return {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}


SETTINGS = {key for name in scorers.names() for key in scorers.class_of(name).Settings.model_fields}


@pytest.mark.parametrize("page", named(TODAY))
def test_commands_exist(page):
    for verb, rest in calls(page.read_text(encoding="utf-8")):
        assert verb in cli.commands, f"rank-xmodal {verb}: no such command"
        command = cli.commands[verb]
        for place, word in enumerate(rest):
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in options_of(command), f"rank-xmodal {verb} {word}: no such option"
            if word == "--set":
                assert rest[place + 1].partition("=")[0] in SETTINGS, f"--set {rest[place + 1]}: no such setting"
        chosen = {option: parameter for parameter in command.params for option in parameter.opts}
        for option, value in itertools.pairwise(rest):
            if option in chosen and isinstance(chosen[option].type, click.Choice):
                assert value in chosen[option].type.choices, f"rank-xmodal {verb} {option} {value}: no such choice"


@pytest.mark.parametrize("page", named(TODAY))
def test_options_exist(page):
    """Those that stand alone, as in `--on vsepp`, are options of some command."""
    known = {option for command in cli.commands.values() for option in options_of(command)}
    for code in re.findall(r"`(--[^`\n]+)`", page.read_text(encoding="utf-8")):
        for word in words(code):
            assert not word.startswith("--") or word in known, f"{code}: no command has it"


@pytest.mark.parametrize("page", named(TODAY))
def test_targets_of_make_exist(page):
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", rules, re.M)) | set(
        re.search(r"^LOSSES := (.+)$", rules, re.M).group(1).split()
    )
    variables = set(re.findall(r"\$[({]([A-Z]+)[)}]|^([A-Z]+) *[?:]?=", rules, re.M))
    variables = {name for pair in variables for name in pair if name} | set(re.findall(r"\$\(if \$\(([A-Z]+)", rules))
    for line in code_of(page.read_text(encoding="utf-8")):
        found = words(line)
        if found[:1] != ["make"]:
            continue
        for word in found[1:]:
            name, equals, _ = word.partition("=")
            assert name in (variables if equals else targets), f"{line}: make knows no {name}"


@pytest.mark.parametrize("page", named(TODAY))
def test_modules_that_are_run_exist(page):
    for module in re.findall(r"python -m ([a-z_.]+)", page.read_text(encoding="utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"python -m {module}"


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert str(cited["version"]) == rank_xmodal.__version__
    assert {"message", "title", "authors"} <= set(cited)


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == rank_xmodal.__version__


def test_the_readme_is_short():
    """Tables, code and pictures don't count."""
    text = re.sub(r"^```.*?^```", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    prose = "\n".join(line for line in text.splitlines() if not re.match(r"\s*\|| {4}", line))
    prose = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"!\[[^]]*\]\([^)]*\)", "", prose))
    count = sum(bool(re.search(r"\w", word)) for word in prose.split())
    assert 700 <= count <= 1_000, count


def test_hooks_download_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert all(hook["language"] == "system" for repository in hooks["repos"] for hook in repository["hooks"])


def test_the_map_of_systems_names_every_scorer_but_chance():
    page = (ROOT / "docs" / "systems.md").read_text()
    assert [name for name in scorers.names() if f"`{name}`" not in page] == ["chance"]
