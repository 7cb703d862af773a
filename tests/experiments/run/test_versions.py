"""The commit that a run was made by: a bare hash, and only that of our own checkout."""

import importlib.util
import shutil
import subprocess

import pytest

from experiments.run import versions


@pytest.fixture
def checkout(tmp_path):
    """Return a function that runs git in a fresh checkout, and one that loads a copy of the module from there."""

    def git(*arguments):
        who = ("-c", "user.name=t", "-c", "user.email=t@t")
        command = ["git", *who, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def loaded():
        spec = importlib.util.spec_from_file_location("copied_versions", tmp_path / "versions.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    git("init")
    shutil.copy(versions.__file__, tmp_path / "versions.py")
    return git, loaded


def test_the_commit_is_a_bare_hash_and_whether_files_changed_is_said_apart(checkout, tmp_path):
    git, loaded = checkout
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    clean = loaded().code_tags()
    assert clean["mlflow.source.git.commit"] == commit
    assert clean["git.dirty"] == "false"
    assert clean["rank_xmodal.version"].endswith(f"+{commit[:7]}")
    (tmp_path / "versions.py").write_text((tmp_path / "versions.py").read_text() + "\n")
    changed = loaded().code_tags()
    assert changed["mlflow.source.git.commit"] == commit
    assert changed["git.dirty"] == "true"
    assert changed["rank_xmodal.version"].endswith("-dirty")


def test_a_checkout_that_the_package_is_only_installed_in_is_not_taken_for_its_own(checkout, tmp_path):
    git, loaded = checkout
    (tmp_path / "theirs").write_text("theirs")
    git("add", "theirs")
    git("commit", "-m", "theirs")
    module = loaded()
    assert module.commit() is None
    assert module.code_tags() == {"rank_xmodal.version": module.code_version()}
    assert "+" not in module.code_version()
