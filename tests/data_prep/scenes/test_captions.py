"""Captions are parsed back and held against the scene: none may lie."""

import re

import numpy as np
import pytest

from data_prep.scenes.captions import captions
from data_prep.scenes.render import SIDE, render
from data_prep.scenes.web_captions import web_caption
from data_prep.scenes.world import BACKGROUNDS, COLOURS, COLUMNS, ROWS, SHAPES, SIZES, Scene, Shape, draw_scene

COLOUR = {word: name for name, (_, others) in COLOURS.items() for word in (name, *others)}
SHAPE = {word: name for name, others in SHAPES.items() for word in (name, *others)}
SIZE = {word: name for name, (_, others) in SIZES.items() for word in (name, *others)}
NUMBER = {"two": 2, "three": 3, "four": 4}
A = r"an? "
NOUN = r"[a-z]+(?: [a-z]+){1,2}"
PLACE = r"in the middle|at the \w+|on the \w+|in the \w+ \w+ corner"
FORMS = {
    "relation": rf"There is ({A}{NOUN}) (above|below|to the left of|to the right of) ({A}{NOUN})\.",
    "list": r"Someone drew (.+)\.",
    "places": rf"We see ({A}{NOUN}) ({PLACE}) and ({A}{NOUN}) ({PLACE}), all on (\w+)\.",
    "count": r"On a (\w+) background lie (\w+) shapes, among them (.+)\.",
    "look": rf"Look at the ({NOUN}) ({PLACE}), with ({A}{NOUN}) nearby on the (\w+) page\.",
}


def find(scene: Scene, phrase: str) -> Shape:
    """Return the one shape that the words name; its article and size must be right too."""
    article = re.match(r"(an?) ", phrase)
    noun = phrase[article.end() :] if article else phrase
    if article:
        assert (article.group(1) == "an") == (noun[0] in "aeiou")
    *size, colour, shape = noun.split()
    (item,) = [s for s in scene.shapes if (s.colour, s.shape) == (COLOUR[colour], SHAPE[shape])]
    assert not size or SIZE[size[0]] == item.size
    return item


def is_at(item: Shape, place: str) -> bool:
    row = next((i for i, word in enumerate(ROWS) if word in place), 1)
    column = next((i for i, word in enumerate(COLUMNS) if word in place), 1)
    return (item.row, item.column) == (row, column)


def check(scene: Scene, text: str) -> str:
    (form,) = [name for name, pattern in FORMS.items() if re.fullmatch(pattern, text)]
    parts = re.fullmatch(FORMS[form], text).groups()
    if form == "relation":
        a, relation, b = find(scene, parts[0]), parts[1], find(scene, parts[2])
        assert a is not b
        assert {
            "above": a.row < b.row,
            "below": a.row > b.row,
            "to the left of": a.row == b.row and a.column < b.column,
            "to the right of": a.row == b.row and a.column > b.column,
        }[relation]
    elif form == "list":
        assert {find(scene, noun) for noun in re.split(", | and ", parts[0])} == set(scene.shapes)
    elif form == "places":
        assert is_at(find(scene, parts[0]), parts[1])
        assert is_at(find(scene, parts[2]), parts[3])
        assert parts[4] == scene.background
    elif form == "count":
        named = [find(scene, noun) for noun in re.split(", | and ", parts[2])]
        assert len(set(named)) == len(named) <= len(scene.shapes) == NUMBER[parts[1]]
        assert parts[0] == scene.background
    else:
        assert is_at(find(scene, parts[0]), parts[1])
        assert find(scene, parts[2]) is not find(scene, parts[0])
        assert parts[3] == scene.background
    return form


@pytest.mark.parametrize("seed", range(200))
def test_five_captions_of_five_forms_and_none_lies(seed):
    scene = draw_scene(np.random.default_rng(seed))
    texts = captions(scene, np.random.default_rng((seed, 1)))
    assert len(texts) == 5
    assert {check(scene, text) for text in texts} == set(FORMS)


def test_the_check_finds_a_lie():
    scene = Scene("white", (Shape("circle", "red", "small", 0, 0), Shape("star", "blue", "large", 2, 1)))
    check(scene, "There is a red circle above a blue star.")
    with pytest.raises(AssertionError):
        check(scene, "There is a red circle below a blue star.")
    with pytest.raises(AssertionError):
        check(scene, "There is a huge red circle above a blue star.")
    with pytest.raises(ValueError, match="unpack"):
        check(scene, "There is a green circle above a blue star.")


@pytest.mark.parametrize("seed", range(50))
def test_scenes_keep_their_rules(seed):
    scene = draw_scene(np.random.default_rng(seed))
    assert 2 <= len(scene.shapes) <= 4
    assert len({(s.row, s.column) for s in scene.shapes}) == len(scene.shapes)
    assert len({(s.shape, s.colour) for s in scene.shapes}) == len(scene.shapes)
    assert not (scene.background == "navy" and any(s.colour == "black" for s in scene.shapes))


@pytest.mark.parametrize("seed", range(50))
def test_the_picture_shows_what_the_scene_says(seed):
    scene = draw_scene(np.random.default_rng(seed))
    pixels = np.asarray(render(scene, np.random.default_rng((seed, 2)))).astype(int)
    assert np.abs(pixels[0, 0] - BACKGROUNDS[scene.background]).max() < 25
    for item in scene.shapes:
        y, x = (round((cell + 0.5) / 3 * SIDE) for cell in (item.row, item.column))
        if item.shape in ("circle", "square", "star", "cross", "diamond", "triangle"):  # the others are hollow there
            assert np.abs(pixels[y, x] - COLOURS[item.colour][0]).max() < 60, item


def test_the_encoders_captions_are_of_another_style():
    rng = np.random.default_rng(0)
    for seed in range(100):
        text = web_caption(draw_scene(np.random.default_rng(seed)), rng)
        assert not any(re.fullmatch(pattern, text) for pattern in FORMS.values())
        assert not re.search(r"\b(there|above|below|left of|right of|two|three|four)\b", text)
