"""Shell completion and sharing by the command line."""

import os
import subprocess
import sys

import pytest

PROGRAM = "from experiments.cli.main import main; main()"


@pytest.mark.parametrize(("words", "found"), [("rank-xmodal ind", "index"), ("rank-xmodal search --dep", "--depth")])
def test_a_shell_is_told_what_fits(words, found):
    asked = {"_RANK_XMODAL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert f"plain,{found}" in done.stdout.split(), done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_has_to_run(run, capsys, shell):
    run("completion", shell)
    assert "_RANK_XMODAL_COMPLETE=" + shell in capsys.readouterr().out


def test_a_ranker_is_pushed(run, two_kinds, capsys, monkeypatch):
    import huggingface_hub

    pushed = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, name, **told: pushed.append((name, told)))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "upload_folder", lambda self, *, folder_path, **_: pushed.append(os.listdir(folder_path))
    )
    run("push", two_kinds[0] / "cca-t2i", "anna/cca", "--private", "--licence", "apache-2.0")
    assert capsys.readouterr().out == "https://huggingface.co/anna/cca\n"
    assert pushed[0] == ("anna/cca", {"private": True, "exist_ok": True})
    assert "model.safetensors" in pushed[1]
    run("push", two_kinds[0] / "cca-t2i", "anna", code=2)
    assert "is no name of a repository" in capsys.readouterr().err
