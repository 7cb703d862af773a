import io
import sys

from experiments.run.terminal import step_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_lines_are_said_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    said = []
    with step_bar(said.append) as (say, on_step):
        say("epoch 1")
        on_step(1, 3, 10)
    assert said == ["epoch 1"]
    assert sys.stderr.getvalue() == ""


def test_on_a_terminal_a_line_never_shares_its_row_with_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with step_bar(print) as (say, on_step):
        on_step(1, 3, 10)
        say("a line [with] brackets")
        on_step(1, 10, 10)
    rows = sys.stderr.getvalue().replace("\r", "\n").splitlines()
    (row,) = [row for row in rows if "brackets" in row]
    assert row.endswith("a line [with] brackets")
    assert "epoch" not in row
