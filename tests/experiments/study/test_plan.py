"""Plans: what rows and grids become, and every mistake said with its place."""

import pytest
import yaml

from experiments.study import plan
from experiments.study.plan import FOLDER, Row
from rank_xmodal import scorers
from rank_xmodal.errors import UserError


def plan_at(path, **keys):
    values = {"against": ["CLIP"], "settings": {"epochs": 1}, "rows": {"one": {"loss": "listnet"}}} | keys
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value != "-"}, sort_keys=False))
    return path


def grid_at(path, **keys):
    return plan_at(path, **{"rows": "-", "against": "-", "grid": {"d_model": [8, 16], "heads": [1, 2]}} | keys)


def test_set_goes_before_settings_and_a_rows_own_before_it(tmp_path):
    path = plan_at(tmp_path / "p.yaml", settings={"loss": "listnet"}, rows={"one": {}, "two": {"loss": "hinge"}})
    rows = plan.read(path, ["loss=ranknet", "lr=0.5"]).trained
    found = {name: (row.settings.loss, row.settings.lr) for name, row in rows.items()}
    assert found == {"one": ("ranknet", 0.5), "two": ("hinge", 0.5)}


def test_rows_are_of_any_scorer(tmp_path):
    rows = {"VSE++": {"scorer": "vsepp"}, "CSLS on VSE++": {"scorer": "csls", "on": "vsepp"}, "ours": None}
    read = plan.read(plan_at(tmp_path / "p.yaml", rows=rows, settings=None), [])
    assert [(row.settings.scorer, row.settings.on) for row in read.trained.values()] == [
        ("vsepp", "clip"),
        ("csls", "vsepp"),
        ("context_aware", "clip"),
    ]


def test_points_are_the_whole_product(tmp_path):
    read = plan.read(grid_at(tmp_path / "g.yaml"), ["lr=0.01", "epochs=3"])
    assert list(read.trained) == [f"d_model={d} heads={h}" for d in (8, 16) for h in (1, 2)]
    assert {(row.settings.epochs, row.settings.lr) for row in read.trained.values()} == {(3, 0.01)}


def test_the_command_lines_counts_have_defaults_and_the_plan_may_name_its_own(tmp_path):
    read = plan.read(plan_at(tmp_path / "p.yaml"), [])
    assert (read.seeds, read.folds, read.permutations, read.judge, read.protocols) == (5, None, 2, "val", ("gallery",))
    read = plan.read(plan_at(tmp_path / "p.yaml", seeds=2, folds=4, judge="test", protocols=["paper", "clean"]), [])
    assert (read.seeds, read.folds, read.split, read.protocols) == (2, 4, "test", ("paper", "clean"))


def test_the_recipe_is_trained_on_lists_of_the_protocol_that_judges_it(tmp_path):
    rows = {"recipe": {"features": "concat", "lists": "judged"}, "own": {"lists": "clean"}}
    read = plan.read(plan_at(tmp_path / "p.yaml", rows=rows), []).trained
    protocols = ("paper", "clean", "gallery")
    assert [read["recipe"].settings_for(p, 3).lists for p in protocols] == ["paper", "clean", "clean"]
    assert {read["own"].settings_for(p, 3).lists for p in protocols} == {"clean"}
    assert read["recipe"].settings_for("clean", 3).seed == 3


def test_published_figures_are_a_file_beside_the_plan_or_one_that_comes_along(tmp_path):
    assert plan.read(plan_at(tmp_path / "p.yaml", published="paper"), []).beside.rows["CLIP"]["t2i"][0] == 29.46
    (tmp_path / "own.yaml").write_text("note: a leaflet\nrows: {one: {t2i: [1, 2, 3]}}\n")
    read = plan.read(plan_at(tmp_path / "p.yaml", published="own.yaml"), []).beside
    assert (read.note, read.rows) == ("a leaflet", {"one": {"t2i": (1, 2, 3)}})
    (tmp_path / "own.yaml").write_text("rows: {one: {t2i: [1, 2]}}\n")
    with pytest.raises(UserError, match=r"own.yaml: rows: one: t2i: 2: Field required"):
        plan.read(plan_at(tmp_path / "p.yaml", published="own.yaml"), [])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_that_come_along_are_sound(path):
    if path.stem == "demo":
        return
    read = plan.read(path, [])
    assert read.trained
    if path.stem == "paper":
        assert {*read.beside.rows} <= {*read.trained, *plan.UNTRAINED}
    if path.stem == "ablation":
        assert len(read.trained) == 13
    if path.stem == "grid":
        assert list(read.grid) == ["d_model", "layers", "heads", "d_ff", "lr"]
        assert len(read.trained) == 48


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"against": ["nobody"]}, "against: 'nobody' is no row. Rows are CLIP, CSLS, random order, one"),
        ({"against": ["ome"]}, "against: 'ome' is no row. Did you mean 'one'?"),
        ({"against": "CLIP"}, "against: Input should be a valid tuple, found 'CLIP'"),
        (
            {"rows": {"one": {"los": "listnet"}}},
            "rows: one: unknown key 'los' for scorer=context_aware. Did you mean 'lo",
        ),
        ({"rows": {"one": {"scorer": "vsep"}}}, "rows: one: scorer='vsep': no such scorer. Did you mean 'vsepp'?"),
        ({"rows": {"one": ["listnet"]}}, "rows: one: Input should be a valid dictionary, found ['listnet']"),
        ({"rows": {"one": {"lr": -1}}}, "rows: one: lr=-1:"),
        ({"rows": {}}, "must hold either rows"),
        ({"grid": {"lr": [1]}}, "must hold either rows"),
        ({"settings": 3}, "settings: Input should be a valid dictionary, found 3"),
        ({"rows": {"CSLS": {}}}, "'CSLS' is always there"),
        ({"sedes": 1}, "p.yaml: unknown key 'sedes'. Did you mean 'seeds'? Known are rows, grid,"),
        ({"seeds": 0}, "seeds: Input should be greater than or equal to 1, found 0"),
        ({"folds": 1}, "folds: Input should be greater than or equal to 2, found 1"),
        ({"judge": "train"}, "judge: Input should be 'val' or 'test', found 'train'"),
        ({"protocols": ["natural"]}, "protocols: 0: Input should be 'paper', 'clean' or 'gallery', found 'natural'"),
        ({"published": "nobody"}, "nobody.yaml: no such file"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_with_its_place(tmp_path, keys, message):
    path = plan_at(tmp_path / "p.yaml", **keys)
    with pytest.raises(UserError) as found:
        plan.read(path, [])
    assert message in str(found.value)
    assert str(found.value).startswith(str(path)) != (keys == {"published": "nobody"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gird": {}}, "unknown key 'gird'. Did you mean 'grid'?"),
        (
            {"grid": {"dmodel": [8]}},
            "the point dmodel=8: unknown key 'dmodel' for scorer=context_aware. Did you mean 'd_m",
        ),
        ({"settings": {"epoch": 1}}, "unknown key 'epoch' for scorer=context_aware. Did you mean 'epochs'?"),
        ({"grid": {"d_model": []}}, "grid: d_model: List should have at least 1 item"),
        ({"grid": {"d_model": 8}}, "grid: d_model: Input should be a valid list, found 8"),
        ({"grid": {}}, "a grid (key: list of values)"),
        ({"grid": {"d_model": [8, 10], "heads": [4]}}, "the point d_model=10 heads=4: d_model=10 must be a multiple"),
        ({"grid": {"epochs": [1, 2]}}, "grid: epochs: stands in settings, too"),
        ({"grid": {"lr": [1]}}, "grid: lr: stands in --set, too"),
        ({"grid": {"d_ff": [8, "8"]}}, "the point d_ff=8 is the same as d_ff=8"),
        ({"grid": {"clip": [0.001, "1e-3"]}}, "the point clip=1e-3 is the same as clip=0.001"),
        ({"grid": {"d_ff": [-1]}}, "the point d_ff=-1: d_ff=-1"),
    ],
)
def test_what_is_wrong_with_a_grid_is_said_with_its_place(tmp_path, keys, message):
    with pytest.raises(UserError) as found:
        plan.read(grid_at(tmp_path / "g.yaml", **keys), ["lr=0.1"])
    assert message in str(found.value)


def test_a_name_that_stands_twice_is_an_error(tmp_path):
    (tmp_path / "p.yaml").write_text("rows:\n  one: {loss: listnet}\n  one: {loss: ranknet}\n")
    with pytest.raises(UserError, match=r"p.yaml, line 2: 'one' stands twice in the same place"):
        plan.read(tmp_path / "p.yaml", [])


def test_rows_that_are_equal_are_allowed(tmp_path):
    read = plan.read(plan_at(tmp_path / "p.yaml", rows={"one": {}, "the same": {}}), [])
    assert read.trained["one"] == read.trained["the same"] == Row(scorers.parse({"epochs": 1}))
