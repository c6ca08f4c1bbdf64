"""The commands as a user meets them.

Help, exit codes, one clear sentence for bad input, and nothing written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings, write_parquet
from tiny_runs import no_session, tiny_spec
from typer.testing import CliRunner

from embed_ops import Run, __version__, embed
from embed_ops.commands.cli import app
from embed_ops.errors import ParityError, SourceError, StorageError
from embed_ops.spec.fields import field_groups, fields

VERBS = (
    *("init", "demo", "examples", "plan", "embed", "postprocess", "run", "verify", "retry", "submit"),
    *("report", "runs", "export", "neighbors", "evaluate", "classify", "vocabulary"),
    *("fit-weights", "fit-graph"),
)


def invoke(*words: str) -> tuple[int, str]:
    """Run a command in this process: its exit code and everything it said."""
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, " ".join((result.output + result.stderr).split())


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str) -> None:
    """Every verb explains itself, also as a module; those that take a spec list every field."""
    code, said = invoke(verb, "--help")
    assert code == 0
    if verb in ("plan", "embed", "submit"):
        listed = [*fields(), *(row for _, rows in field_groups() for row in rows)]
        assert [row.address for row in listed if row.address not in said] == []
        assert [heading for heading, _ in field_groups() if heading not in said] == []
    alone = subprocess.run(
        [sys.executable, "-m", f"jobs.{verb.replace('-', '_')}", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0
    assert "Usage" in alone.stdout
    assert [line for line in alone.stdout.splitlines() if len(line) > 80] == []


BAD_INPUT = [
    (["source.path=nowhere"], "source.path nowhere: nothing there"),
    (["source.path={empty}"], "no file ends in .parquet"),
    (["source.path={other}"], "found 2 files (2 doc)"),
    (["source.column=body"], "no column 'body'; columns: text, id"),
    (["source.column=id"], "column 'id' is int64; the text needs a string column"),
    (["source.keep=['nope']"], "no column 'nope'"),
    (["source.keep=['_row']"], "'_row' is the name of a column that every run writes"),
    (["source.kolumn=text"], "did you mean 'column'?"),
    (["source.where=nope = 1"], "nope"),
    (["source.template={{nope}}"], "name exactly one of column and template"),
    (["encoder.model=./nowhere"], "nowhere"),
    (["encoder.model={empty}"], "config.json"),
    (["encoder.dtype=int4"], "encoder.dtype"),
    (["sink.path={corpus}/out"], "lies inside the source"),
    (["sink.path=nope://x"], "no file system for nope://"),
    (["not-a-file.toml"], "not-a-file.toml"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD_INPUT, ids=[words[0] for words, _ in BAD_INPUT])
def test_bad_input(words: list[str], sentence: str, tiny: str, tmp_path: Path) -> None:
    """Unusable input is exit 2 and one sentence that names it; nothing is written."""
    places = {name: tmp_path / name for name in ("corpus", "empty", "other")}
    write_parquet(places["corpus"], docstrings(10), files=1)
    places["empty"].mkdir()
    places["other"].mkdir()
    for name in ("a.doc", "b.doc"):
        (places["other"] / name).write_text("x")
    before = sorted(tmp_path.rglob("*"))
    filled = [word.format(**places) for word in words]
    good = [
        f"source.path={places['corpus']}",
        "source.column=text",
        f"encoder.model={tiny}",
        f"sink.path={tmp_path / 'run'}",
    ]
    given = [word for word in filled if "=" not in word] + good + [word for word in filled if "=" in word]
    for verb in ("plan", "embed"):
        code, said = invoke(verb, *given)
        assert (verb, code, sentence in said) == (verb, 2, True), said
        assert "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_model_folder_without_weights_or_tokenizer(tiny: str, tmp_path: Path) -> None:
    """A model folder that misses a part is refused before anything is written."""
    write_parquet(tmp_path / "corpus", docstrings(10), files=1)
    for missing in ("model.safetensors", "tokenizer"):
        folder = tmp_path / f"without {missing}"
        folder.mkdir()
        for path in Path(tiny).iterdir():
            if not path.name.startswith((missing, "vocab" if missing == "tokenizer" else missing, "special")):
                (folder / path.name).write_bytes(path.read_bytes())
        words = [
            f"source.path={tmp_path / 'corpus'}",
            "source.column=text",
            f"encoder.model={folder}",
            f"sink.path={tmp_path / 'run'}",
        ]
        code, said = invoke("embed", *words)
        assert code == 2, said
        assert str(folder.name) in said
        assert missing.removeprefix("model.") in said
        assert not (tmp_path / "run").exists()


def test_plan_lists_and_writes_nothing(tmp_path: Path) -> None:
    """`plan --list` shows files, spans, units, rows and bytes, and leaves no trace.

    The model is missed only without `--list`.
    """
    write_parquet(tmp_path / "corpus", docstrings(100), files=2)
    before = sorted(tmp_path.rglob("*"))
    words = [
        f"source.path={tmp_path / 'corpus'}",
        "source.column=text",
        "encoder.model=any",
        f"sink.path={tmp_path / 'run'}",
    ]
    code, said = invoke("plan", *words, "--list")
    assert code == 0
    for part in ("part=0/data.parquet", "2 files in all", "100", "spans", "units", "rows", "bytes"):
        assert part in said
    assert sorted(tmp_path.rglob("*")) == before
    code, said = invoke(
        "plan", *words[:2], f"encoder.model={tmp_path / 'nothing'}", words[3], "--progress", "none"
    )
    assert code == 2
    assert "nothing is not a model folder" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_verb_without_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what writes one, or which lies here."""
    monkeypatch.chdir(tmp_path)
    for verb in ("embed", "plan", "run", "fit-weights", "fit-graph"):
        code, said = invoke(verb)
        assert (code, "`embed-ops init DATA` writes one: embed.toml" in said) == (2, True), said
    (tmp_path / "mine.toml").touch()
    assert "here is mine.toml" in invoke("embed")[1]


def test_refused_before_anything_starts(tiny: str, tmp_path: Path) -> None:
    """Stages that so few rows can't fit cost no embedding."""
    write_parquet(tmp_path / "corpus", docstrings(10), files=1)
    words = [
        f"source.path={tmp_path / 'corpus'}",
        "source.column=text",
        f"encoder.model={tiny}",
        f"sink.path={tmp_path / 'run'}",
    ]
    for stages, sentence in (
        ('[{kind = "normalize"}, {kind = "kmeans", k = 50}]', "kmeans: k = 50, but the run has 10 rows"),
        ('[{kind = "pca", dim = 5}, {kind = "truncate", dim = 6}]', "the vectors have 5 dimensions"),
        ('[{kind = "truncate", dim = 99}]', "the vectors have 32 dimensions"),
    ):
        for verb in ("run", "plan"):
            code, said = invoke(verb, *words, f"stage={stages}", "--progress", "none")
            assert (verb, code, sentence in said) == (verb, 2, True), said
    assert not (tmp_path / "run").exists()


def test_a_dead_address_is_not_ignored() -> None:
    """It is refused before the run is looked at; in a process that has joined no Ray before."""
    words = ["neighbors", "nowhere", "--rows", "0", "--address", "127.0.0.1:1"]
    line = [sys.executable, "-m", "embed_ops", *words]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (ended.returncode, "no Ray cluster answers there" in ended.stderr) == (3, True), ended.stderr


def test_stop_after_wants_a_duration() -> None:
    """A duration that is none is refused with an example."""
    code, said = invoke(
        "embed", "source.path=x", "source.column=t", "encoder.model=m", "sink.path=s", "--stop-after", "soon"
    )
    assert code == 2
    assert "90s, 30m or 2h" in said


def test_verify_without_a_run(tmp_path: Path) -> None:
    """`verify` and `retry` of a folder without a run are exit 2."""
    for verb in ("verify", "retry"):
        code, said = invoke(verb, str(tmp_path))
        assert code == 2
        assert "no run here" in said


@pytest.mark.usefixtures("ray_session")
def test_commands_on_a_run(tiny: str, tmp_path: Path) -> None:
    """From a file and words to a run, its proof, a damaged byte, and a retry with nothing to do."""
    write_parquet(tmp_path / "corpus", [*docstrings(50), ""], files=1)
    (tmp_path / "run.toml").write_text(
        f"""
        max_reject_fraction = 0.0
        [source]
        path = "{tmp_path / "corpus"}"
        column = "text"
        [encoder]
        model = "{tiny}"
        [sink]
        path = "elsewhere"
        """
    )
    code, said = invoke(
        "embed", str(tmp_path / "run.toml"), f"sink.path={tmp_path / 'run'}", "--progress", "plain"
    )
    assert code == 0, said
    assert "51 embedded, 0 rejected" in said
    assert "51 rows with transformers" in said
    assert f"next: embed-ops verify {tmp_path / 'run'}, then" in said
    assert not Path("elsewhere").exists()
    code, said = invoke("verify", str(tmp_path / "run"), "--source")
    assert code == 0
    assert "51 rows + 0 rejects + 0 filtered = 51 records" in said
    assert invoke("retry", str(tmp_path / "run"))[0] == 0
    victim = next((tmp_path / "run" / "data").rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    code, said = invoke("verify", str(tmp_path / "run"))
    assert code == 1
    assert victim.name in said


@pytest.mark.usefixtures("ray_session")
def test_parity_stops_the_job(tiny: str, tmp_path: Path) -> None:
    """Vectors that miss the limits stop the job before its first unit, with a table of them."""
    write_parquet(tmp_path / "corpus", docstrings(30), files=1)
    source = {"path": str(tmp_path / "corpus"), "column": "text"}
    spec = tiny_spec(
        tiny,
        source,
        tmp_path / "run",
        encoder__dtype="bfloat16",
        parity__rows=20,
        parity__min_mean=1.0,
        parity__min=1.0,
    )
    with pytest.raises(ParityError, match=r"(?s)mean cosine.*embedding +20 .*transformers"):
        embed(spec)
    assert not (tmp_path / "run").exists()


def test_full_disk_is_seen_before_the_start(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is too small for the vectors, both figures are named and nothing starts."""
    import psutil

    write_parquet(tmp_path / "corpus", docstrings(30), files=1)
    monkeypatch.setattr(psutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageError, match=r"GB needed, 0\.0 GB free"):
        embed(
            tiny_spec(tiny, {"path": str(tmp_path / "corpus"), "column": "text"}, tmp_path / "run"),
            session=no_session,
        )


def test_columns_differ_between_files(tiny: str, tmp_path: Path) -> None:
    """A file that lacks the column, or has it in another type, is named before anything starts."""
    write_parquet(tmp_path / "corpus", docstrings(30), files=1)
    for table, sentence in (
        (pa.table({"other": ["x"]}), "no column 'text'"),
        (pa.table({"text": [1]}), "column 'text' is int64"),
    ):
        pq.write_table(table, tmp_path / "corpus" / "z.parquet")
        with pytest.raises(SourceError, match=rf"z\.parquet: {sentence}"):
            embed(
                tiny_spec(tiny, {"path": str(tmp_path / "corpus"), "column": "text"}, tmp_path / "run"),
                session=no_session,
            )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_readers(dtype: str, tiny: str, tmp_path: Path) -> None:
    """Arrow, pandas, Polars, DuckDB and Ray read the same vectors from `data/`."""
    import duckdb
    import numpy as np
    import pandas as pd
    import polars as pl

    write_parquet(tmp_path / "corpus", docstrings(40), files=2)
    source = {"path": str(tmp_path / "corpus"), "column": "text", "keep": ["id"]}
    run = embed(tiny_spec(tiny, source, tmp_path / "run", sink__dtype=dtype))
    expected = np.stack(run.open().to_table().sort_by("id").column("embedding").to_pylist()).astype(
        np.float32
    )
    assert expected.shape == (40, 32)
    folder = str(tmp_path / "run" / "data")
    frame = pd.read_parquet(folder).sort_values("id")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), expected)
    assert set(frame["part"].astype(str)) == {"0", "1"}
    with_polars = pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True).sort("id")
    np.testing.assert_array_equal(np.stack(with_polars["embedding"].to_numpy()), expected)
    rows = duckdb.sql(
        f"SELECT embedding FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true) ORDER BY id"
    ).fetchall()
    np.testing.assert_array_equal(np.array([row[0] for row in rows], np.float32), expected)
    with_ray = sorted(run.dataset().take(40), key=lambda row: row["id"])
    np.testing.assert_array_equal(np.stack([row["embedding"] for row in with_ray]), expected)
    assert Run(run.path).rejects().count_rows() == 0


def test_environment_is_left_alone() -> None:
    """Importing the commands sets no environment variable."""
    code = (
        "import os; before = dict(os.environ); import embed_ops.commands.cli; "
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


HEAVY = ("ray", "torch", "transformers", "pandas", "duckdb", "sklearn", "scipy")


def test_help_starts_fast() -> None:
    """Collecting the verbs, with the help of each, loads nothing that takes seconds."""
    code = (
        f"import sys; import embed_ops.commands.cli; print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words", [["-m", "embed_ops"], ["-c", "from embed_ops.commands.cli import main; main()"]]
)
def test_version(words: list[str]) -> None:
    """`--version` says the version, as the script and as a module."""
    done = subprocess.run([sys.executable, *words, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"embed-ops {__version__}\n"
