"""What is kept is read again only where it is the very same."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.study import store as kept
from experiments.study.store import keep


def make(value):
    return lambda: pd.DataFrame({"query": [0], "ranker/R@1": [value]})


def test_it_is_made_once_for_an_identity(tmp_path):
    path = tmp_path / "a.parquet"
    assert keep(path, {"seed": 0}, make(1.0))["ranker/R@1"][0] == 1.0
    assert keep(path, {"seed": 0}, make(2.0))["ranker/R@1"][0] == 1.0
    assert keep(path, {"seed": 1}, make(3.0))["ranker/R@1"][0] == 3.0


def test_another_code_makes_it_again(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    keep(path, {}, make(1.0))
    monkeypatch.setattr(kept, "code_digest", lambda: "edited, not committed")
    assert keep(path, {}, make(2.0))["ranker/R@1"][0] == 2.0


def test_the_code_is_that_of_files_that_exist():
    root = Path(kept.__file__).parent.parent
    assert all(list(root.glob(pattern)) for pattern in kept._CODE)
    assert kept.code_digest() == kept.code_digest()


def test_stopped_between_its_two_files_it_is_made_again(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    keep(path, {"seed": 0}, make(1.0))
    real = kept.write_json
    monkeypatch.setattr(kept, "write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        keep(path, {"seed": 1}, make(2.0))
    monkeypatch.setattr(kept, "write_json", real)
    assert keep(path, {"seed": 0}, make(1.0))["ranker/R@1"][0] == 1.0
