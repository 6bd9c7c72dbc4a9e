"""The progress display: its bar, its lines, and when each is shown."""

import io
import logging
import sys
import types

import pytest

from brainfeat.progress import ProgressDisplay, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def use_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


@pytest.mark.parametrize(("n", "n_lines"), [(3, 3), (10, 10), (100, 11), (95, 12)])
def test_items_pass_through_with_about_ten_lines(n, n_lines, capsys):
    assert list(track(iter(range(n)), total=n, description="embedding")) == [*range(n)]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == n_lines
    assert lines[-1] == f"[{n}/{n}] embedding"


def test_lines_go_to_the_log_that_shows_them(caplog, capsys):
    caplog.set_level(logging.INFO, logger="brainfeat")
    assert list(track([7], total=1, description="embedding")) == [7]
    assert caplog.messages == ["[1/1] embedding"]
    assert capsys.readouterr().err == ""


def test_each_item_may_have_its_line(capsys):
    with ProgressDisplay("embedding", 12, log_every=1) as display:
        display.advance(line="sub-01: done")
        display.advance(line="failed: a.nii: cut short.", is_failure=True)
    assert capsys.readouterr().err.splitlines() == [
        "[ 1/12] sub-01: done",
        "[ 2/12] failed: a.nii: cut short.",
    ]


def test_training_lines_have_state_and_time_left(capsys):
    with ProgressDisplay("training", 107, n_before=97, log_every=10) as display:
        for step in range(98, 108):
            display.advance(detail=f"loss {100 / step:.3f}")
    assert capsys.readouterr().err.splitlines() == [
        "[ 98/107] training, loss 1.020",  # the first one after a resume
        "[100/107] training, loss 1.000, 0:00:00 left",
        "[107/107] training, loss 0.935",
    ]


def test_terminal_shows_a_bar_and_failures_above_it(monkeypatch):
    terminal = use_terminal(monkeypatch)
    with ProgressDisplay("embedding", 3) as display:
        display.advance(line="sub-01: done")
        display.advance(line="failed: /[b].nii: cut [red]short.", is_failure=True)
        display.advance(detail="loss 0.935")
    text = terminal.getvalue()
    assert "failed: /[b].nii: cut [red]short." in text
    assert "3/3" in text
    assert "loss 0.935" in text
    assert "sub-01" not in text


def test_bar_redraws_below_what_is_printed(monkeypatch):
    terminal = use_terminal(monkeypatch)
    with ProgressDisplay("embedding", 3) as display:
        display.advance()
        sys.stderr.write("a message\n")
    before, _, after = terminal.getvalue().partition("a message")
    assert before.endswith("\x1b[2K")
    assert "embedding" in after


def test_dumb_terminal_gets_lines(monkeypatch):
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    assert list(track([7], total=1, description="embedding")) == [7]
    assert terminal.getvalue() == "[1/1] embedding\n"


def test_notebook_shows_one_bar_without_widgets(monkeypatch, capsys):
    shown, updates = [], []

    class Handle:
        def update(self, bundle, *, raw):
            assert raw
            updates.append(bundle)

    def display(bundle, *, raw, display_id):
        assert raw
        assert display_id
        shown.append(bundle)
        return Handle()

    class ZMQInteractiveShell:
        pass

    ipython = types.ModuleType("IPython")
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setattr("builtins.get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    items = track(range(300), total=300, description="a & b")
    assert list(items) == [*range(300)]
    assert shown[0]["text/plain"] == "a & b: 0/300"
    assert len(shown) == 1
    # Not a message for each item, but the last one shows the end.
    assert 2 <= len(updates) < 100
    assert updates[-1]["text/plain"].startswith("a & b: 300/300")
    html = updates[-1]["text/html"]
    assert '<progress value="300" max="300">' in html
    assert "a &amp; b" in html
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_is_shown_unless_asked(is_terminal, monkeypatch, capsys):
    terminal = use_terminal(monkeypatch) if is_terminal else io.StringIO()
    items = track([1, 2], total=2, description="embedding", show=False)
    assert list(items) == [1, 2]
    with ProgressDisplay("training", 1, show=False) as display:
        display.advance(line="failed: a.nii", is_failure=True)
    assert terminal.getvalue() + capsys.readouterr().err == ""
