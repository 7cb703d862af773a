import pytest

from data_prep import progress


def test_plain_lines_without_a_terminal(said, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with progress.progress_bar("images", 100, 40, said) as advance:
        for _ in range(6):
            advance(10)
    assert said.lines[0] == "images: 60 of 100 (2/s, 24 s to go)"
    assert len(said.lines) == 3


@pytest.mark.parametrize("terminal", [True, False])
def test_silent_where_asked(said, monkeypatch, capsys, terminal):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress.progress_bar("images", 3, 0, said, show=False) as advance:
        advance(3)
    assert said.lines == []
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(said, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress_bar("images", 3, 0, said) as advance:
        advance(3)
    assert "3/3" in capsys.readouterr().err
    assert said.lines == []
