"""Laws of the run directory: what is written is found again, and what is lost is noticed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import DIGEST, contents, corpus_of, make, spec_of, table_of
from reading import write

from embed_ops.errors import RunError, StorageError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.heartbeat import attempt_is_dead, new_attempt
from embed_ops.runs.parquet import encode, read_footer, vector_column
from embed_ops.runs.record import Record, norms_of
from embed_ops.runs.run import Run
from embed_ops.storage.files import check_space, locate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a finished run of six units, with rejects."""
    make(spec_of(corpus_of(tmp_path / "in"), tmp_path / "run"))
    return tmp_path / "run"


def test_records_survive_the_manifest(folder: Path, tmp_path: Path) -> None:
    """Every field of a record comes back from the manifest; the latest part counts."""
    run = RunDir.at(str(tmp_path / "other"))
    full = Record(
        *(
            "u.000000000000",
            "a-1-1",
            [{"source": "ü", "begin": 0, "end": 9, "records": 2}],
            "ü",
            9,
            1,
            2,
            3,
            4,
            5,
            "f" * 64,
        ),
        *(
            "u.000000000000.0123abcd.parquet",
            6,
            "e" * 64,
            7,
            11,
            0.5,
            1.5,
            8,
            9,
            10,
            1e15,
            {"read": 0.25, "forward": 3.0},
            "d" * 64,
            ("retried",),
        ),
    )
    bare = replace(
        full,
        next_source=None,
        next_position=None,
        reject_file=None,
        reject_sha256=None,
        min_norm=None,
        max_norm=None,
    )
    run.manifest.append([full, replace(bare, unit="v")], "a-1-1")
    run.manifest.append([], "a-1-1")
    run.manifest.append([replace(full, rows=99)], "a-1-1")
    assert RunDir.at(str(tmp_path / "other")).manifest.read() == {
        "u.000000000000": replace(full, rows=99),
        "v": replace(bare, unit="v"),
    }
    assert len(list((tmp_path / "other" / "manifest").iterdir())) == 2
    assert RunDir.at(str(tmp_path / "other")).manifest.read(timed=False)["v"] == replace(
        bare, unit="v", seconds={}
    )
    later = RunDir.at(str(tmp_path / "other"))
    later.manifest.read()
    later.manifest.append([replace(full, rows=100)], "b-2-2")
    assert later.manifest.read()["u.000000000000"].rows == 100


def test_lost_records_are_read_back(folder: Path) -> None:
    """Without the manifest every record is found in the footers.

    Counts, chain, sizes, hashes, norms; and kept from then on.
    """
    known = RunDir.at(str(folder)).manifest.read()
    shutil.rmtree(folder / "manifest")
    records, broken = RunDir.at(str(folder)).load_records(DIGEST, "b-2-2")
    assert broken == []
    assert {name: replace(record, attempt="", flags=()) for name, record in records.items()} == {
        name: replace(record, attempt="", flags=()) for name, record in known.items()
    }
    assert all(record.flags == ("recovered",) and record.attempt == "b-2-2" for record in records.values())
    assert RunDir.at(str(folder)).manifest.read() == records


def test_runs_of_before_words_were_counted(folder: Path) -> None:
    """Manifests and footers that do not count unknown words are read as if there were none."""
    known = RunDir.at(str(folder)).manifest.read()
    for part in (folder / "manifest").iterdir():
        pq.write_table(pq.read_table(part).drop_columns(["unknown"]), part)
    assert RunDir.at(str(folder)).manifest.read() == known
    for record in known.values():
        file = folder / "data" / f"{record.unit}.parquet"
        table = pq.read_table(file, partitioning=None)
        footer = read_footer(pq.read_metadata(file))
        del footer["unknown"]
        file.write_bytes(encode(table, footer))
    shutil.rmtree(folder / "manifest")
    records, broken = RunDir.at(str(folder)).load_records(DIGEST, "b-2-2")
    assert broken == []
    assert {name: record.rows for name, record in records.items()} == {
        name: record.rows for name, record in known.items()
    }
    assert all(record.unknown == 0 for record in records.values())


@pytest.mark.parametrize("what", ["shorter", "longer", "no rejects", "shorter rejects", "empty rejects"])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_unit_that_is_not_as_written_is_computed_again(what: str, manifest: bool, folder: Path) -> None:
    """Another size or a missing reject file makes one unit broken and leaves the others.

    With a manifest and without.
    """
    record = next(record for record in RunDir.at(str(folder)).manifest.read().values() if record.reject_file)
    path = (
        folder / "rejects" / str(record.reject_file)
        if "rejects" in what
        else folder / "data" / f"{record.unit}.parquet"
    )
    if what == "no rejects":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(
            content + b"x" if what == "longer" else b"" if what == "empty rejects" else content[:-1]
        )
    if not manifest:
        shutil.rmtree(folder / "manifest")
    records, broken = RunDir.at(str(folder)).load_records(DIGEST, "b-2-2")
    assert broken == [record.unit]
    assert len(records) == 5
    assert record.unit not in records


def test_a_unit_without_a_file_is_not_done(folder: Path) -> None:
    """A record whose data file is gone counts for nothing."""
    run = RunDir.at(str(folder))
    record = next(iter(run.manifest.read().values()))
    (folder / "data" / f"{record.unit}.parquet").unlink()
    records, broken = run.load_records(DIGEST, "b-2-2")
    assert broken == []
    assert len(records) == 5


@pytest.mark.parametrize("what", ["copy", "foreign", "garbage", "fingerprint"])
def test_files_of_others_are_not_recovered(what: str, folder: Path, tmp_path: Path) -> None:
    """A copy under another name, a foreign file and another run's unit are no units of this run."""
    record = next(iter(RunDir.at(str(folder)).manifest.read().values()))
    path = folder / "data" / f"{record.unit}.parquet"
    digest = DIGEST
    if what == "copy":
        shutil.copy(path, folder / "data" / "z.jsonl.000000000000.parquet")
    elif what == "foreign":
        write(folder / "data" / "z.jsonl.000000000000.parquet", pa.table({"x": [1]}))
    elif what == "garbage":
        write(folder / "data" / "z.jsonl.000000000000.parquet", b"PAR1")
    else:
        shutil.rmtree(folder / "manifest")
        digest = "0" * 16
    records, broken = RunDir.at(str(folder)).load_records(digest, "b-2-2")
    assert (len(records), len(broken)) == ((0, 6) if what == "fingerprint" else (6, 1))


def test_a_broken_manifest_part_is_named_and_can_be_deleted(folder: Path) -> None:
    """A part that can't be read is an error with a remedy, and the remedy works."""
    part = next((folder / "manifest").iterdir())
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"manifest/.*can't be read.*delete it"):
        RunDir.at(str(folder)).manifest.read()
    part.unlink()
    records, broken = RunDir.at(str(folder)).load_records(DIGEST, "b-2-2")
    assert (len(records), broken) == (6, [])


@pytest.mark.parametrize(
    "name", ["notes.parquet", "0.parquet", "00000000-copy.parquet", "x/00000000.parquet"]
)
def test_a_stray_file_in_the_manifest_is_no_part(name: str, folder: Path) -> None:
    """It is not read, and parts go on to be numbered."""
    wanted = RunDir.at(str(folder)).manifest.read()
    write(folder / "manifest" / name, b"nothing of ours")
    run = RunDir.at(str(folder))
    assert run.manifest.read() == wanted
    run.manifest.append(list(wanted.values())[:1], "b-2-2")
    assert RunDir.at(str(folder)).manifest.read() == wanted


def test_what_dead_attempts_left_is_removed(folder: Path) -> None:
    """Temporary folders of dead attempts go, those of living ones and our own stay.

    Reject files that no unit names go.
    """
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    now = int(time.time() * 1000)
    host = socket.gethostname()
    dead = f"{host}-{int(ended.stdout)}-{now}"
    before_we_began, ours, alive = f"{host}-{os.getpid()}-1000", f"{host}-1-{now}", new_attempt()
    elsewhere, long_ago = f"other-host-7-{now}", f"other-host-7-{now - 2 * 86_400_000}"
    own = alive.rpartition("-")[0]
    writers = {path.name for path in (folder / "tmp").iterdir() if path.name.startswith(f"{own}-")}
    for name in (dead, before_we_began, ours, alive, elsewhere, long_ago):
        write(folder / "tmp" / name / "x", b"")
    (folder / "tmp" / f"{host}-{int(ended.stdout)}-{now + 1}").mkdir()
    write(folder / "rejects" / "a=1" / "left.000000000000.01234567.parquet", b"")
    run = RunDir.at(str(folder))
    records = run.manifest.read()
    before = contents(folder)
    run.clean(ours)
    run.remove_unnamed_rejects(records.values())
    assert {path.name for path in (folder / "tmp").iterdir()} == {ours, alive, elsewhere} | writers
    assert contents(folder) == {name: content for name, content in before.items() if "left" not in name}
    assert attempt_is_dead(dead)
    assert attempt_is_dead(before_we_began)
    assert not attempt_is_dead(alive)


def test_a_removed_unit_leaves_nothing(folder: Path) -> None:
    """Both files of a unit go; removing it twice is fine."""
    run = RunDir.at(str(folder))
    record = next(record for record in run.manifest.read().values() if record.reject_file)
    before = set(contents(folder))
    run.remove_unit(record, "test")
    run.remove_unit(record, "test")
    assert before - set(contents(folder)) == {f"data/{record.unit}.parquet", f"rejects/{record.reject_file}"}


def test_the_same_rows_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """A second run of the same corpus writes the same files."""
    make(spec_of(Run(str(folder)).spec.source.model_dump(mode="json"), tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(folder)


def test_a_run_elsewhere_than_on_disk() -> None:
    """A run directory on an fsspec file system is written and read back like a local one."""
    base = f"memory://{uuid.uuid4().hex}"
    run = RunDir.at(base)
    record = Record("k=1/a.jsonl.000000000000", "a-1-1", [], None, None, 1, 1, 0, 0, 0, "")
    data = pa.table(
        {"_source": ["a"], "_row": [0], "embedding": vector_column(np.ones((1, 2), np.float32), "float32")}
    )
    rejects = pa.table({"_source": ["a"], "_row": [1], "reason": ["null"], "message": ["x"]})
    written = run.write_unit(record, data, rejects, DIGEST, "0")
    records, broken = run.load_records(DIGEST, "b-2-2")
    assert broken == []
    assert records == {record.unit: replace(written, attempt="b-2-2", flags=("recovered",))}
    run.manifest.append([written], "a-1-1")
    assert RunDir.at(base).manifest.read() == {record.unit: written}
    run.clean("b-2-2")
    # Another command may have written the data file after our records were read: what it names
    # stays.
    run.remove_unnamed_rejects([])
    assert RunDir.at(base).load_records(DIGEST, "b-2-2") == ({record.unit: written}, [])


def test_norms_are_over_all_vectors() -> None:
    """The least and the greatest norm of all vector columns; none without rows."""
    two = {
        "a": vector_column(np.array([[3, 4], [0, 1]], np.float32), "float32"),
        "b": vector_column(np.array([[0, 0], [6, 8]], np.float32), "float16"),
    }
    assert norms_of(pa.table(two)) == (0.0, 10.0)
    assert norms_of(pa.table(two).slice(0, 0)) == (None, None)
    assert norms_of(pa.table({"n": [1]})) == (None, None)


def test_the_header_is_a_runs_or_refused(tmp_path: Path) -> None:
    """No header is no run; one of something else is an error that says so."""
    run = RunDir.at(str(tmp_path))
    assert run.read_header() is None
    for content in (b"{", b"[]", b'{"spec": 1}', b"null"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(RunError, match=r"run\.json: not a run's"):
            run.read_header()
    with pytest.raises(RunError, match="no run here"):
        Run(str(tmp_path / "nope"))


def test_a_full_disk_is_told_before_the_start(tmp_path: Path) -> None:
    """Space is checked where the run will be, although the folder is not there yet.

    Both figures are named.
    """
    check_space(locate(str(tmp_path / "not" / "yet")), 1)
    with pytest.raises(StorageError, match=r"about 1000000000\.0 GB needed, .* GB free"):
        check_space(locate(str(tmp_path / "not" / "yet")), 10**18)
    check_space(locate("memory://x"), 10**18)


def test_data_and_rejects_have_the_kept_columns(folder: Path) -> None:
    """Rows and rejects carry their source, their place and what was to be kept."""
    record = next(record for record in RunDir.at(str(folder)).manifest.read().values() if record.reject_file)
    assert table_of(folder / "data" / f"{record.unit}.parquet").schema.names == [
        "n",
        "_source",
        "_row",
        "embedding",
    ]
    assert set(table_of(folder / "rejects" / str(record.reject_file)).schema.names) == {
        "n",
        "_source",
        "_row",
        "reason",
        "message",
    }
