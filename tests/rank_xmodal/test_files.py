"""YAML as people write it."""

import pytest

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_yaml


def test_on_is_a_word_and_not_a_truth(tmp_path):
    """YAML 1.1 takes on, off, yes and no for truth values; one of our settings is called `on`."""
    (tmp_path / "s.yaml").write_text("scorer: csls\non: vsepp\n")
    assert read_yaml(tmp_path / "s.yaml") == {"scorer": "csls", "on": "vsepp"}
    assert scorers.read(tmp_path / "s.yaml", ["on=cca"]).on == "cca"
    (tmp_path / "s.yaml").write_text("refit: false\ncalibrate: true\nlr: 1e-3\n")
    settings = scorers.read(tmp_path / "s.yaml", ["lr=1e-4"])
    assert (settings.refit, settings.calibrate, settings.lr) == (False, True, 1e-4)


@pytest.mark.parametrize(("text", "said"), [("- a", "found a list"), ("a: [", "not valid YAML")])
def test_what_is_no_mapping_is_refused(tmp_path, text, said):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "s.yaml")
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_the_papers_recipe_looks_at_no_base():
    with pytest.raises(UserError, match="context_aware doesn't look at the score of what it stands on"):
        scorers.parse({"features": "concat", "on": "vsepp"})
    assert scorers.parse({"on": "vsepp"}).on == "vsepp"
