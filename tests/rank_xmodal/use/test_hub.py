"""Rankers of the Hub, offline: what is pushed lands in a folder laid out as the cache, and is fetched from there."""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.folder import FILES, save
from rank_xmodal.use.reranker import Reranker

CPU = torch.device("cpu")
CARD = "---\nlibrary_name: rank_xmodal\ntags: [clip]\n---\n\n# csls\n\nReranker.from_pretrained({path})\n"


def unit(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Let uploads be commits in the folder of Hugging Face's cache; return the names of what was made."""
    cache, made = tmp_path / "cache", []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def create_repo(self, name, *, private, exist_ok):
        made.append((name, private))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        repository, commit = cache / f"models--{repo_id.replace('/', '--')}", "a" * 40
        shutil.copytree(folder_path, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return made


@pytest.fixture
def run(tmp_path):
    """Return the folder of a run."""
    path = tmp_path / "my run"
    facts = {
        "direction": "t2i",
        "mlflow_run": "f00",
        "encoder": {"encoder": "ViT-B-32", "pretrained": "mine", "weights_file": str(tmp_path / "weights.safetensors")},
    }
    save(path, Stack(CSLS(), unit(30, 9)), facts, CARD.format(path=json.dumps(str(path))))
    return path


def test_what_was_pushed_is_fetched_by_its_name(hub, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ranker = Reranker.from_pretrained(run)
    assert ranker.push_to_hub("anna/csls-t2i", licence="cc-by-4.0", private=True).endswith("/anna/csls-t2i")
    assert hub == [("anna/csls-t2i", True)]
    fetched = Reranker.from_pretrained("anna/csls-t2i")
    asked, offered = unit(3, 1), unit(20, 0)
    np.testing.assert_array_equal(fetched.rank(asked, offered).scores, ranker.rank(asked, offered).scores)
    folder = tmp_path / "cache/models--anna--csls-t2i/snapshots" / ("a" * 40)
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    for name in ("config.json", "README.md"):
        assert str(tmp_path) not in (folder / name).read_text(), "no path of this machine"
        assert "f00" not in (folder / name).read_text()
    assert "license: cc-by-4.0\n" in (folder / "README.md").read_text()
    assert 'from_pretrained("anna/csls-t2i")' in (folder / "README.md").read_text()
    assert fetched.facts["encoder"] == {"encoder": "ViT-B-32", "pretrained": "mine"}
    assert ranker.facts["mlflow_run"] == "f00", "its own facts stay"


def test_a_folder_of_that_name_comes_first(hub, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anna").mkdir()
    run.rename(tmp_path / "anna" / "csls-t2i")
    assert Reranker.from_pretrained("anna/csls-t2i").facts["mlflow_run"] == "f00"


def test_what_can_not_be_fetched_or_pushed_is_told(hub, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="anna/nothing: no folder here, and no ranker of that name could be fetched"):
        Reranker.from_pretrained("anna/nothing")
    ranker = Reranker.from_pretrained(run)
    with pytest.raises(UserError, match="'anna': is no name of a repository"):
        ranker.push_to_hub("anna")
    with pytest.raises(UserError, match="licence='My own\\\\nlicense: x': name one"):
        ranker.push_to_hub("anna/b", licence="My own\nlicense: x")
    for name in ("anna/b--c", "anna/b.git", "anna/ünder"):
        with pytest.raises(UserError, match=f"'{name}': is no name of a repository \\(.*\\). Write USER/NAME"):
            ranker.push_to_hub(name)
    assert hub == []
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(UserError, match="anna/b: can't be pushed"):
        ranker.push_to_hub("anna/b")


class Unreachable(Exception):
    """As httpx has them: none of huggingface_hub's own errors, and no OSError."""


def test_a_hub_that_can_not_be_reached_is_told(run, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise Unreachable("[Errno 111] Connection refused")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"anna/b: can't be pushed \(\[Errno 111\] Connection refused\)"):
        Reranker.from_pretrained(run).push_to_hub("anna/b")
    with pytest.raises(UserError, match=r"anna/b: no folder here, and no ranker .* \(\[Errno 111\] Connection refused"):
        Reranker.from_pretrained("anna/b")
