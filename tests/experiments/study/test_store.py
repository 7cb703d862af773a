"""What is kept is read again only where it is the very same."""

import pandas as pd
import pytest

from experiments.study import store
from experiments.study.store import meaning
from experiments.study.trial import Part, Trial
from rank_xmodal import scorers


def make(value):
    return pd.DataFrame({"query": [0], "ranker/R@1": [value]})


def trial_of(**values):
    return Trial(Part("set"), "t2i", scorers.parse(values).model_dump(mode="json"))


def kept(folder, value, fingerprint="data", **values):
    """Return what the store gives for a trial, and whether it was made for it."""
    one = trial_of(**values)
    frame = store.kept(folder, one, fingerprint)
    if made := frame is None:
        store.keep(folder, one, fingerprint, make(value))
        frame = store.kept(folder, one, fingerprint)
    return frame["ranker/R@1"][0], made


def test_it_is_made_once_for_what_changes_results(tmp_path):
    assert kept(tmp_path, 1.0) == (1.0, True)
    assert kept(tmp_path, 2.0) == (1.0, False)
    assert kept(tmp_path, 2.0, device="cuda:1") == (1.0, False)
    assert kept(tmp_path, 3.0, seed=1) == (3.0, True)
    assert kept(tmp_path, 4.0, "other data") == (4.0, True)
    assert kept(tmp_path, 5.0) == (1.0, False)


def test_another_code_makes_it_again(tmp_path, monkeypatch):
    kept(tmp_path, 1.0)
    monkeypatch.setattr(store, "code_digest", lambda trial: "edited, not committed")
    assert kept(tmp_path, 2.0) == (2.0, True)
    assert len(list(tmp_path.glob("*.parquet"))) == 1


CODE = '''"""A module."""

K = 10  # of CSLS


def near(x):
    """Return it."""
    return x[:K]
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""A module."""', '"""Another story."""', True),
        ('    """Return it."""\n', "", True),
        ("  # of CSLS", '\n"""Of CSLS."""', True),
        ("return x[:K]", "return (\n        x[: K]\n    )", True),
        ("K = 10", "K = 11", False),
        ("x[:K]", "x[K:]", False),
    ],
)
def test_docstrings_comments_and_formatting_keep_every_trial_and_constants_do_not(old, new, same):
    assert old in CODE
    assert (meaning(CODE.replace(old, new)) == meaning(CODE)) == same


def test_the_code_is_that_of_files_that_exist(tmp_path, monkeypatch):
    assert all(list(store.ROOT.glob(pattern)) for pattern in store.CODE)
    assert store.code_digest(trial_of()) == store.code_digest(trial_of(scorer="vsepp"))


def test_a_scorer_of_ones_own_counts(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    monkeypatch.setattr(store.inspect, "getfile", lambda scorer: str(own))
    digests = []
    for text in ("A = 1\n", "A = 2\n"):
        own.write_text(text)
        store._digest.cache_clear()
        digests.append(store.code_digest(trial_of()))
    store._digest.cache_clear()
    assert len({*digests}) == 2


def test_stopped_between_its_two_files_it_is_made_again(tmp_path, monkeypatch):
    kept(tmp_path, 1.0)
    monkeypatch.setattr(store, "code_digest", lambda trial: "new")
    with monkeypatch.context() as during:
        during.setattr(store, "write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            kept(tmp_path, 2.0)
    monkeypatch.undo()
    assert kept(tmp_path, 3.0) == (3.0, True)
