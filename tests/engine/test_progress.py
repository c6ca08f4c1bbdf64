"""What a person who waits is told: what is done and for how long, wherever the words go."""

from __future__ import annotations

import time

import pytest

from embed_ops.engine import progress, showing
from embed_ops.engine.progress import Silent, State, Totals, duration, reporter, shown_to


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what takes ten seconds take some hundredths."""
    monkeypatch.setattr(showing, "SAY_EVERY_S", 0.04)
    monkeypatch.setattr(showing.Plain, "every", 0.02)
    monkeypatch.setattr(showing, "_REMEMBERED_S", 0.0)


@pytest.mark.usefixtures("hurried")
def test_plain_lines_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """What is done is said at once, and again while it lasts; a job ends with where it stands."""
    with reporter("plain") as plainly:
        plainly.doing("loading the model")
        time.sleep(0.3)
        plainly.doing("loading the model", "half of it")
        time.sleep(0.3)
        plainly.update(Totals(units_expected=2, under_way=30))
        time.sleep(0.1)
        plainly.update(Totals(2, 2, 50))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "loading the model"
    assert "loading the model: 0 s" in lines
    assert "loading the model: half of it: 0 s" in lines or "loading the model: half of it: 1 s" in lines
    assert any(line.startswith("0 of about 2 units, 0 rows (and 30 on their way)") for line in lines)
    assert lines[-1].startswith("2 units, 50 rows")


def test_a_rate_ends_with_the_last_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """While what follows goes on, the rate stays; before, time that passes counts."""
    totals = Totals(units_expected=2, started=100.0)
    monkeypatch.setattr("time.time", lambda: 110.0)
    totals.add(1_000, tokens=20_000)
    monkeypatch.setattr("time.time", lambda: 200.0)
    assert "1 of about 2 units, 1,000 rows, 10 rows/s, 200 tokens/s, 0 rejects" in totals.line()
    totals.add(1_000)
    monkeypatch.setattr("time.time", lambda: 900.0)
    assert totals.line() == "2 units, 2,000 rows, 20 rows/s, 200 tokens/s, 0 rejects"


@pytest.mark.usefixtures("hurried")
def test_a_live_line_leaves_what_took_long(capsys: pytest.CaptureFixture[str]) -> None:
    """Each thing that was done leaves a line, a job its figures, and no bar stays behind."""
    with reporter("rich") as live:
        live.doing("loading the model")
        live.update(Totals(1, 2, 25))
        live.doing("fitting kmeans", "mini-batch 3")
        live.say("a sentence")
    said = capsys.readouterr().err
    kept = ("1 of about 2 units, 25 rows", "a sentence", "fitting kmeans: 0 s")
    assert [said.find(part) >= 0 for part in kept] == [True] * 3
    assert said.index(kept[0]) < said.index(kept[1]) < said.index(kept[2])


def test_who_is_shown_what(capsys: pytest.CaptureFixture[str]) -> None:
    """A call from Python is silent where nobody looks, and speaks where it is asked to."""
    for asked, words in ((None, ""), (False, ""), (True, "working\n")):
        with shown_to(None, asked) as shown:
            shown.doing("working")
        assert capsys.readouterr().err == words
    mine = Silent()
    with shown_to(mine, True) as shown:
        assert shown is mine
    assert not progress.in_notebook()


@pytest.mark.slow
def test_a_notebook_shows_it() -> None:
    """In a kernel one output of the cell changes, and at its end says where the job stands."""
    import nbformat
    from nbclient import NotebookClient

    code = (
        "from embed_ops.engine.progress import Totals, shown_to\n"
        "with shown_to(None, None) as shown:\n"
        "    shown.doing('loading the model')\n"
        "    shown.say('a <b>sentence</b>')\n"
        "    shown.update(Totals(2, 2, 50))\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    [output] = notebook.cells[0].outputs
    lines = output["data"]["text/plain"].splitlines()
    assert lines[0] == "a <b>sentence</b>"
    assert lines[-1].startswith("2 units, 50 rows")
    assert "a &lt;b&gt;sentence" in output["data"]["text/html"]


def test_durations_are_short() -> None:
    """Seconds, minutes and hours; nothing is said where nothing is done."""
    assert [duration(seconds) for seconds in (0.4, 99, 185, 7380)] == ["0 s", "99 s", "3:05 min", "2:03 h"]
    assert State().line() == ""
