import pytest

from experiments.results.text import markdown, visible


@pytest.mark.parametrize(
    ("sign", "written"),
    [("\x00", r"\x00"), ("\x07", r"\x07"), ("\b", r"\x08"), ("\r", r"\x0d"), ("\x1b", r"\x1b"), ("\x7f", r"\x7f"),
     ("\x9b", r"\x9b"), ("\u2028", r"\u2028"), ("\u202e", r"\u202e"), ("\u2066", r"\u2066"), ("\udcff", r"\udcff")],
)  # fmt: skip
def test_what_would_act_is_written_out(sign, written):
    assert visible(f"a{sign}b") == f"a{written}b"


def test_lines_tabs_and_letters_of_every_script_stay():
    text = "שלום \u200fעולם\u200e, 日本語 ± 😀\n\tnaïve"
    assert visible(text) == text
    assert visible("a\nb\tc", keep="") == r"a\x0ab\x09c"


def test_markdown_stays_in_its_cell():
    assert markdown("a|b\n\n# c\x1b[31m <i>`") == r"a\|b \# c\\x1b\[31m \<i\>\`"
