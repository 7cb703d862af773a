"""What can be set of every scorer: out of its range it is refused by name, whoever makes the scorer."""

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic_core import PydanticUndefined

from rank_xmodal import scorers
from rank_xmodal.errors import UserError

BOUNDED = [
    (name, key, bound)
    for name in scorers.names()
    for key, field in scorers.class_of(name).Settings.model_fields.items()
    for bound in field.metadata
    if isinstance(bound, (Ge, Gt, Le, Lt))
]


@pytest.mark.parametrize(("name", "key", "bound"), BOUNDED)
def test_a_value_out_of_its_range_is_refused_by_name(name, key, bound):
    far = {Ge: lambda b: b.ge - 1, Gt: lambda b: b.gt, Le: lambda b: b.le + 1, Lt: lambda b: b.lt}
    outside = far[type(bound)](bound)
    for value in (outside, float("nan"), float("inf"), "many"):
        with pytest.raises(UserError, match=f"settings: {key}=.*"):
            scorers.get(name, **{key: value})


@pytest.mark.parametrize("name", scorers.names())
def test_every_number_has_a_range_and_every_setting_a_default(name):
    for key, field in scorers.class_of(name).Settings.model_fields.items():
        assert field.default is not PydanticUndefined or field.default_factory, key
        if field.annotation in (int, float):
            assert field.metadata, key


@pytest.mark.parametrize("name", scorers.names())
def test_no_whole_number_is_beyond_32_bits(name):
    for key, field in scorers.class_of(name).Settings.model_fields.items():
        if "int" in str(field.annotation):
            with pytest.raises(UserError, match=rf"settings: {key}=1000000000000: .*less than or equal to"):
                scorers.get(name, **{key: 10**12})


@pytest.mark.parametrize("name", scorers.names())
def test_settings_come_back_from_what_is_kept_of_them(name):
    settings = scorers.get(name, seed=3).settings
    assert scorers.parse(settings.model_dump(mode="json")) == settings


def test_an_unknown_key_is_told_the_nearest():
    with pytest.raises(UserError, match=r"unknown key 'margn' for scorer=vsepp\. Did you mean 'margin'\?"):
        scorers.get("vsepp", margn=0.1)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lernrate", "lr"), ("learning_rate", "lr"), ("eporchs", "epochs"), ("num_layers", "layers"),
        ("temprature", "loss_params.temperature"), ("calibrat", "calibrate"),
    ],
)  # fmt: skip
def test_a_key_is_found_under_what_others_call_it(key, meant):
    with pytest.raises(UserError, match=rf"unknown key {key!r} .*Did you mean '{meant}'\?"):
        scorers.parse({key: 1})


def test_a_key_of_another_scorer_is_not_suggested():
    with pytest.raises(UserError) as refused:
        scorers.parse({"scorer": "clip", "learning_rate": 0.1, "loss": ["no name"]})
    assert "'lr'" not in str(refused.value)
    with pytest.raises(UserError, match="unknown key 'x' "):
        scorers.parse({"x": 0.1, "loss": ["no name"]})


@pytest.mark.parametrize(("name", "key", "value"), [("context_aware", "local", "pool"), ("mgan", "levels", "tokens")])
def test_names_need_no_brackets(name, key, value):
    assert getattr(scorers.get(name, **{key: value}).settings, key) == (value,)
    other = {"local": "views", "levels": "whole"}[key]
    assert getattr(scorers.get(name, **{key: f"{value}, {other}"}).settings, key) == (value, other)
    with pytest.raises(UserError, match=f"settings: {key}="):
        scorers.get(name, **{key: "neither"})
