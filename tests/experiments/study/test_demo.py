"""The demo's road with the corpus and the encoder left out, and its configuration."""

import pytest
import yaml

from experiments.run.tracking import read_runs
from experiments.study import demo
from experiments.study.plan import FOLDER
from rank_xmodal.errors import UserError


@pytest.fixture
def config(random_set, tmp_path, monkeypatch):
    """Return the shipped configuration, made quick."""
    data = random_set(["train"] * 40 + ["val"] * 15 + ["test"] * 15).write(tmp_path / "data")
    monkeypatch.setattr(demo, "load", lambda dataset, root, say: None)
    monkeypatch.setattr(demo, "load_encoder", lambda model, pretrained, say: None)
    monkeypatch.setattr(demo, "embed", lambda corpus, encoder, out, say: data)
    values = yaml.safe_load((FOLDER / "demo.yaml").read_text()) | {"runs": str(tmp_path / "runs")}
    values |= {"losses": ["listnet", "ranknet"], "settings": {"epochs": 1, "d_model": 8, "heads": 2, "device": "cpu"}}
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_every_loss_is_trained_in_both_directions_compared_and_kept(config, tmp_path):
    said = []
    tables = [demo.run(config, tmp_path / "mlruns", said.append) for _ in range(2)]
    for table in tables:
        assert [line.row for line in table.lines] == ["CLIP", "CSLS", "CSLS on VSE++", "listnet", "ranknet"] * 2
        assert [line.of[1] for line in table.lines] == ["t2i"] * 5 + ["i2t"] * 5
    first, again = ([line.figure("MRR").mean for line in table.lines] for table in tables)
    assert first == again
    assert sum("already trained" in line for line in said) == 4
    assert len(read_runs(tmp_path / "mlruns", "random")) == 4
    assert (tmp_path / "runs" / "comparison.png").stat().st_size > 5_000


def test_a_key_too_many_or_too_few_is_named(config):
    values = yaml.safe_load(config.read_text())
    for changed in (values | {"extra": 1}, {key: value for key, value in values.items() if key != "losses"}):
        config.write_text(yaml.safe_dump(changed))
        odd = "extra" if "extra" in changed else "losses"
        with pytest.raises(UserError, match=rf"demo.yaml: must have exactly the keys .*; see {odd}\."):
            demo.run(config, config.parent / "mlruns", lambda line: None)
