"""What stands in rows, names and paths is shown as it is: no style, no picture, nothing obeyed."""

from __future__ import annotations

import io
import logging
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import corpus_of, make, spec_of
from hypothesis import given
from hypothesis import strategies as st
from made_run import make_run, mixture
from rich.console import Console
from typer.testing import CliRunner

from embed_ops.analysis.page.write import write_page
from embed_ops.analysis.starter import starter
from embed_ops.analysis.tables import cut_table, show_pairs
from embed_ops.commands.cli import app
from embed_ops.engine.progress import reporter
from embed_ops.terminal import PlainConsole, PlainFormatter, PlainTable, plain, plain_line, size

HOSTILE = [
    "[/b]",
    "[bold red]a[/bold red] [link=file:///etc/passwd]x[/link]",
    "a[red].parquet",
    "[/]",
    "[@click=app.quit()]x",
    ":smile: :warning:",
    "\x1b[2J\x1b[31mred\x07",
    "\x9b31mred\x90",
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "a\rb\x08c\x7f\x00",
    "a\u202egpj.exe\u2066\u2028",
    "bytes \udcff\udc80 of a name",
    "\U000e0041\ufeff",
]
ASKED = "[/b] \x1b[31m"


def obeyed(text: str) -> list[str]:
    """List the signs in it that a terminal would obey."""
    return [sign for sign in text if sign != "\n" and not sign.isprintable() and sign not in "\u200d\xa0"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In cells, headings, titles, sentences, logs: all of it, and nothing that is obeyed."""
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, force_terminal=True, color_system="truecolor")
    table = PlainTable(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    console.print(text)
    shown = file.getvalue()
    bold = shown.replace("\x1b[3m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert obeyed(bold) == []
    assert bold.count(plain_line(text)) == 4
    record = logging.LogRecord("a", logging.WARNING, "", 0, "%s\nb", (text,), None)
    assert obeyed(PlainFormatter("%(message)s").format(record)) == []
    assert "\n" not in PlainFormatter("%(message)s").format(record)
    show_pairs(text, [(text, text)])
    with reporter("plain") as plainly, reporter("rich") as live:
        plainly.say(text)
        live.say(text)
    told = capsys.readouterr()
    assert plain_line(text) in told.out
    assert plain(text) in told.err
    assert obeyed(told.out) == []


@given(st.text())
def test_nothing_is_obeyed(text: str) -> None:
    """Whatever a string holds, it can be written as UTF-8, and a line is a line."""
    assert not set(plain_line(text)) & {*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u202e"}
    plain(text).encode()
    file = io.StringIO()
    PlainConsole(file=file, width=80).print(cut_table(text, [(text, 9)]), text)


def test_words_that_people_write_stay() -> None:
    """Letters of any script, joined emoji, brackets and blanks are not escaped."""
    for text in ("größe", "日本語", "می‌خواهم", "👩‍👩‍👧", "[a] :b:", "a b　c", "C:\\x"):
        assert plain(text) == text


def test_a_console_of_rich_would_obey() -> None:
    """The test tells the two apart."""
    file = io.StringIO()
    Console(file=file, width=80).print("a[red].parquet")
    assert "[red]" not in file.getvalue()


def test_commands_show_hostile_names(tmp_path: Path) -> None:
    """`plan`, `verify`, `export` and their errors, with such a path and such a file."""
    folder = tmp_path / "run b"
    pq_table = pa.table({"text": ["x"]})
    (folder / "in").mkdir(parents=True)
    pq.write_table(pq_table, folder / "in" / "a[red]\x1b[31m.parquet")
    words = [f"source.path={folder / 'in'}", "source.column=text", "encoder.model=none", "sink.path=out"]
    told = CliRunner().invoke(app, ["plan", "--list", *words])
    assert told.exit_code == 0
    assert "a[red]\\x1b[31m.parquet" in told.output.replace("\n", "")
    run = folder / "[b] \x1b[31m"
    make(spec_of(corpus_of(tmp_path / "corpus"), run))
    good = CliRunner().invoke(app, ["verify", str(run)])
    assert good.exit_code == 0
    (run / "data" / "more[b]").mkdir()
    (run / "data" / "more[b]" / "[red]\x1b.parquet").write_bytes(b"")
    bad = CliRunner().invoke(app, ["verify", str(run)])
    assert bad.exit_code == 1
    assert "more[b]/[red]\\x1b.parquet" in bad.output
    gone = CliRunner().invoke(
        app, ["export", f"{run}[/b]", "--format", "npy", "--output", str(tmp_path / "e")]
    )
    assert gone.exit_code == 2
    for result in (told, good, bad, gone):
        assert obeyed(result.output + result.stderr) == []
        assert "Traceback" not in result.stderr


def test_a_job_over_hostile_rows(engine: str, tmp_path: Path) -> None:
    """`embed` and `neighbors` show such paths, rows and queries, and end as they should."""
    (tmp_path / "table.txt").write_text("red 1 0\nblue 0 1\n")
    source = tmp_path / "in"
    source.mkdir()
    titles = ["[/b]", "[red]x", "\x1b[31mred", "a\nb"]
    pq.write_table(
        pa.table({"text": ["red", "blue", "red blue", "red"], "[/t]\x1b": titles}), source / "[x].parquet"
    )
    run = tmp_path / "run [" / "b]"
    spec = [
        f"source.path={source}",
        "source.column=text",
        'source.keep=["[/t]\\u001b"]',
        "encoder.family=static",
    ]
    spec += [f"encoder.model={tmp_path / 'table.txt'}", f"sink.path={run}", "parity.rows=0"]
    told = CliRunner().invoke(app, ["embed", *spec, "--progress", "plain"])
    assert told.exit_code == 0
    near = CliRunner().invoke(app, ["neighbors", str(run), "--text", f"red {ASKED}", "--progress", "plain"])
    assert near.exit_code == 0
    assert all(title in near.output for title in ("[/b]", "[red]x", "\\x1b[31mred", "red [/b]"))
    assert obeyed(told.output + told.stderr + near.output + near.stderr) == []


def test_the_page_escapes_rows(tmp_path: Path) -> None:
    """No kept value, label, column, path or file name becomes a tag or a script of the page."""
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    run = tmp_path / "run <b>"
    make_run(
        str(run),
        [60],
        mixture(4, 2),
        keep=lambda first, end: {
            evil.replace("/", "|"): pa.array([f"{evil} {i}" for i in range(first, end)]),
            "label": pa.array([f"{evil} {i % 2}" for i in range(first, end)]),
        },
    )
    page = Path(write_page(str(run), method="pca", color="label")).read_text()
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "run <b>" not in page


@pytest.mark.parametrize(
    "name", ['x"\n[sink]\npath = "/evil"\n#', "a\x7fb\x00", "😀", 'q"uote\\', "\r\n[encoder]"]
)
def test_init_injects_nothing(name: str, tmp_path: Path) -> None:
    """A column's name is a value in the spec that `init` writes, or one line of a comment."""
    folder = tmp_path / "😀 data"
    folder.mkdir()
    long = ["a text that is long enough", "another text of such a length"]
    for columns in ({name: long, "n": [1, 2]}, {"text": long, name: ["x", "y"], f"{name} label": ["x", "y"]}):
        pq.write_table(pa.table(columns), folder / "x.parquet")
        tree = tomllib.loads(starter(str(folder)).text("embed.toml"))
        assert tree["source"]["column"] == next(iter(columns))
        assert tree["source"]["path"] == str(folder)
        assert tree["sink"] == {"path": "embedded"}
        assert set(tree) == {"source", "encoder", "sink"}


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (6_874, "6.9 kB"),
        (45_300, "45 kB"),
        (999_990, "1.0 MB"),
        (875_000_000, "875 MB"),
        (2_500_000_000_000, "2,500 GB"),
    ],
)
def test_sizes_of_any_length_say_something(length: int, told: str) -> None:
    """A small file has no 0.0 MB."""
    assert size(length) == told
