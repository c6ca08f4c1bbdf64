"""Object stores: a real S3 API on loopback with faults between. No Ray."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_run
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_s3 import BUCKET, FaultyS3, faulty_s3
from moto.s3.models import s3_backends
from reading import compress, images

from embed_ops.errors import SourceError, SpecError, StorageError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.verify.run import verify
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import UNIT_TEXT_BYTES, Limits
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor, read_units
from embed_ops.spec.spec import parse_source
from embed_ops.storage import faults, location
from embed_ops.storage.files import (
    Location,
    create,
    list_files,
    locate,
    open_file,
    publish,
    read_bytes,
    remove,
    walk,
)

PASSING = ["500", "502", "503", "reset", "short", "cut", "lost", "stall"]
BIG = 25 << 20
"""Bytes that Arrow sends as a multipart upload."""


FAST_PASSING = {*((fault, "jsonl") for fault in PASSING), ("503", "parquet"), ("cut", "parquet")}


def some(cases: list[tuple[str, str]], fast: set[tuple[str, str]]) -> list[Any]:
    """Mark all cases as slow but these."""
    return [pytest.param(*case, marks=[] if case in fast else [pytest.mark.slow]) for case in cases]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    """Start the store once."""
    with faulty_s3() as started:
        yield started


@pytest.fixture
def s3(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Give the store without faults, and a client that does not wait."""
    # Arrow's waits between requests are real ones.
    monkeypatch.setattr(location, "REQUEST_ATTEMPTS", 1)
    monkeypatch.setattr(faults, "ATTEMPTS", 5)
    server.calm()
    yield server
    server.calm()


def place(name: str) -> Location:
    """Give a place in the bucket."""
    return locate(f"s3://{BUCKET}/{name}")


def corpus(kind: str, path: str, **fields: Any) -> Corpus:
    """Open a corpus."""
    return Corpus.open(parse_source({"kind": kind, "path": path, "column": "text", **fields}))


def read(found: Corpus, rows: int = 100) -> list[tuple[str, int, str | None, str | None]]:
    """Plan a corpus and read its units: source, position, text, reason of every row."""
    plan = found.plan()
    places = {file.name: found.place(file) for file in plan.files}
    columns = ("_source", "_row", "_content", "reason")
    read: list[tuple[str, int, str | None, str | None]] = []
    for span in plan.spans:
        for unit in read_units(
            Cursor(found.source, Rows(found.spec, plan.columns), places, span),
            {},
            Limits(rows, UNIT_TEXT_BYTES),
        ):
            read += zip(*(unit.table.column(name).to_pylist() for name in columns), strict=True)
    return read


@pytest.fixture(scope="module")
def corpora(server: FaultyS3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put Parquet and compressed JSON lines, under names that stores and URIs find awkward."""
    folder = tmp_path_factory.mktemp("corpora")
    texts = [f"text {number * 7919 % 100_003}" for number in range(2000)]
    lines = "\n".join(json.dumps({"text": text}) for text in texts).encode()
    for inside in ("lang=en", "lang=de/a b%c+d"):
        (folder / "jsonl" / inside).mkdir(parents=True)
        (folder / "parquet" / inside).mkdir(parents=True)
        pq.write_table(
            pa.table({"text": texts}), folder / "parquet" / inside / "x y%20.parquet", row_group_size=300
        )
    (folder / "jsonl/lang=en/x y%20.jsonl").write_bytes(lines)
    (folder / "jsonl/lang=de/a b%c+d/z.jsonl.gz").write_bytes(compress(lines, ".gz"))
    server.upload(folder, "corpora")
    return folder


@pytest.mark.parametrize(
    ("fault", "kind"),
    some([(fault, kind) for fault in PASSING for kind in ("jsonl", "parquet")], FAST_PASSING),
)
def test_what_passes_leaves_no_trace(
    fault: str, kind: str, s3: FaultyS3, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults in listing, in footers and in the middle of reading are waited for.

    The rows are those of a disk.
    """
    quiet = read(corpus(kind, str(corpora / kind)))
    if fault == "stall":
        monkeypatch.setattr(location, "REQUEST_TIMEOUT_S", 1.0)
    times = 1 if fault == "stall" else 3
    injected = [
        s3.fail(fault, "GET", "list-type", times=times, seconds=3),
        s3.fail(
            fault, "GET", "lang.*(z.jsonl|parquet)", times=times, skip=0 if kind == "jsonl" else 5, seconds=3
        ),
    ]
    assert read(corpus(kind, f"s3://{BUCKET}/corpora/{kind}")) == quiet
    assert len(quiet) == 4000
    assert {row[3] for row in quiet} == {None}
    assert [fault.hits for fault in injected] == [times, times]


@pytest.fixture(scope="module")
def pictures(server: FaultyS3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put files in folders, a tar and a table that names files, as sources of images find them."""
    folder = tmp_path_factory.mktemp("pictures")
    names = [f"{'ab'[number % 2]}/p {number:02d}.jpg" for number in range(40)]
    (folder / "table").mkdir()
    for number, name in enumerate(names):
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (1000 + number))
    with tarfile.open(folder / "x.tar", "w") as archive:
        for number, name in enumerate(names):
            archive.add(folder / "files" / name, f"{number:02d}.jpg")
    named = [f"../files/{name}" for name in names[:20]] + [
        f"s3://{BUCKET}/pictures/files/{name}" for name in names[20:]
    ]
    pq.write_table(pa.table({"image": [*named, "../files/none.jpg"]}), folder / "table" / "x.parquet")
    server.upload(folder, "pictures")
    return folder


@pytest.mark.parametrize(
    "fault",
    [None, "503", pytest.param("cut", marks=pytest.mark.slow), pytest.param("short", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("kind", "inside"), [("images", "files"), ("webdataset", "x.tar"), ("parquet", "table")]
)
def test_images_in_a_store(kind: str, inside: str, fault: str | None, s3: FaultyS3, pictures: Path) -> None:
    """Files, tars and files that a table names are read from a store with their own bytes.

    Also where answers fail at first.
    """
    column = {"column": "image", "outside_root": True} if kind == "parquet" else {}
    found = images(f"s3://{BUCKET}/pictures/{inside}", kind, **column)
    if fault is not None:
        s3.fail(fault, "GET", "jpg|tar", times=2)
    rows = read(found)
    paths = sorted(
        (pictures / "files").rglob("*.jpg"), key=lambda path: path.stem if kind != "images" else str(path)
    )
    assert [content for _, _, content, _ in rows][:40] == [path.read_bytes() for path in paths]
    assert [reason for _, _, _, reason in rows] == [None] * 40 + (["missing"] if kind == "parquet" else [])


STAYING = ["500", "503", "reset", "short", "cut", "403"]
FAST_STAYING = {("403", "jsonl"), ("503", "jsonl"), ("cut", "parquet"), ("short", "jsonl")}


@pytest.mark.parametrize(
    ("fault", "kind"),
    some([(fault, kind) for fault in STAYING for kind in ("jsonl", "parquet")], FAST_STAYING),
)
def test_storage_that_fails_for_good_is_no_broken_file(
    fault: str, kind: str, s3: FaultyS3, corpora: Path
) -> None:
    """A store that fails after planning ends in `StorageError` with its cause.

    No row is lost to a reject.
    """
    found = corpus(kind, f"s3://{BUCKET}/corpora/{kind}")
    found.plan()
    s3.fail(fault, "GET", "lang", times=None)
    cause = {
        "403": "ACCESS_DENIED",
        "500": "INTERNAL",
        "503": "SLOW_DOWN",
        "reset": "reset",
        "short": "partial",
        "cut": "fewer came",
    }
    with pytest.raises(StorageError, match=f"(?s)can't be read.*{cause[fault]}.*mend the storage") as caught:
        read(found)
    assert ("5 times" in str(caught.value)) == (fault != "403")
    assert caught.value.exit_code == 3


def test_permission_is_not_asked_for_twice(s3: FaultyS3) -> None:
    """A store that refuses is believed at once: in listing, looking, reading, writing, deleting."""
    publish(place("denied"), "there", b"x", "a")
    s3.fail("403", times=None)
    for action in (
        lambda: list(walk(place("denied"), "")),
        lambda: list_files(f"s3://{BUCKET}/denied"),
        lambda: read_bytes(place("denied/there")),
        lambda: publish(place("denied"), "new", b"x", "a"),
        lambda: remove(place("denied/there")),
        lambda: create(place("denied/lock"), b"x"),
    ):
        s3.requests.clear()
        with pytest.raises(StorageError, match=r"ACCESS_DENIED|Access ?Denied"):
            action()
        assert len(s3.requests) == 1


def test_the_listing_is_paged_and_looks_at_no_object_alone(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of keys take a request for each thousand; a fault on a later page loses none."""
    backend = s3_backends["123456789012"]["aws"]
    for number in range(2100):
        backend.put_object(BUCKET, f"many/data/part={number % 7}/{number:05d}", b"x" * (number % 5))
    root = place("many")
    s3.requests.clear()
    found = dict(walk(root, "data"))
    assert len(s3.requests) == 3
    assert found == {f"part={number % 7}/{number:05d}": number % 5 for number in range(2100)}
    s3.fail("503", "GET", "continuation-token", times=2)
    assert dict(walk(root, "data")) == found
    s3.fail("503", "GET", "continuation-token", times=None)
    monkeypatch.setattr(faults, "ATTEMPTS", 2)
    with pytest.raises(StorageError, match="can't be listed"):
        list(walk(root, "data"))


def test_nothing_there(s3: FaultyS3) -> None:
    """What is missing is told apart from what fails: no bucket, no folder, no object."""
    with pytest.raises(SourceError, match="nothing there"):
        list_files("s3://other-bucket/x")
    with pytest.raises(SourceError, match="nothing there"):
        list_files(f"s3://{BUCKET}/nothing/")
    assert list(walk(place("nothing"), "data")) == []
    assert read_bytes(place("nothing/here")) is None
    remove(place("nothing/here"))
    with pytest.raises(StorageError, match="was there and is gone"):
        open_file(place("nothing/here"))
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        publish(locate("s3://other-bucket/x"), "new", b"x", "a")


def test_an_object_that_is_replaced_while_it_is_read(s3: FaultyS3) -> None:
    """Two versions of an object are not mixed."""
    publish(place("replaced"), "x", b"a" * 1000, "a")
    file = open_file(place("replaced/x"))
    assert file.read(10) == b"a" * 10
    publish(place("replaced"), "x", b"b" * 500, "a")
    with pytest.raises(
        StorageError, match=r"was replaced while it was read: 1000 bytes before, 500 now|InvalidRange|INVALID"
    ):
        file.read_at(10, 900)


MULTIPART = {
    "start": ("POST", "uploads$"),
    "part": ("PUT", "partNumber=2"),
    "completion": ("POST", "uploadId="),
}


FAST_STEPS = {("put", "500"), ("start", "500"), ("part", "403"), ("completion", "500")}


@pytest.mark.parametrize(
    ("step", "fault"),
    some([(step, fault) for step in ("put", *MULTIPART) for fault in ("500", "reset", "403")], FAST_STEPS),
)
def test_nothing_half_written_is_visible(step: str, fault: str, s3: FaultyS3) -> None:
    """A write that fails for good leaves nothing to see, and what it replaces stays.

    A passing fault costs nothing.
    """
    content = os.urandom(1000 if step == "put" else BIG)
    method, target = MULTIPART.get(step, ("PUT", "whole"))
    root = place(f"whole-{step}-{fault}")
    publish(root, "old-whole", b"old", "a")
    for name in ("new-whole", "old-whole"):
        s3.fail(fault, method, f"{name}.*{target}" if step != "put" else name, times=None)
    faults.ATTEMPTS, before = 2, faults.ATTEMPTS
    try:
        for name in ("new-whole", "old-whole"):
            with pytest.raises(StorageError, match="can't be written"):
                publish(root, name, content, "a")
    finally:
        faults.ATTEMPTS = before
    s3.calm()
    # Arrow completes an upload when its stream is destroyed.
    gc.collect()
    assert s3.objects(f"whole-{step}-{fault}/") == {f"whole-{step}-{fault}/old-whole": 3}
    if fault != "403":
        s3.fail(fault, method, target, times=4)
    publish(root, "new-whole", content, "a")
    assert read_bytes(root.child("new-whole")) == content


def test_an_answer_that_was_lost_is_no_failure(s3: FaultyS3) -> None:
    """The store has done it and its answer never came: doing it again is the same."""
    for step, content in (("PUT", b"x"), ("POST", os.urandom(BIG))):
        s3.fail("lost", step, "answer", times=3)
        publish(place("answer"), step, content, "a")
        assert read_bytes(place(f"answer/{step}")) == content
    s3.fail("lost", "DELETE", "answer", times=3)
    remove(place("answer/PUT"))
    assert "answer/PUT" not in s3.objects("answer")


WRITER = """
import sys
from embed_ops.storage.files import locate, publish
print("ready", flush=True)
publish(locate(sys.argv[1]), "unit", bytes(int(sys.argv[2])), "a")
"""


@pytest.mark.parametrize(
    ("size", "target", "sig"), [(BIG, "partNumber=2", "KILL"), (1000, "unit", "KILL"), (1000, "unit", "INT")]
)
def test_a_writer_that_is_killed_in_the_middle(size: int, target: str, sig: str, s3: FaultyS3) -> None:
    """Kill -9 while bytes are under way: nothing is visible. Ctrl-C: nothing, or the whole."""
    prefix = f"killed-{size}-{sig}"
    stalled = s3.fail("stall" if sig == "INT" else "never", "PUT", target, times=None, seconds=3.0)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, f"s3://{BUCKET}/{prefix}", str(size)], stderr=subprocess.PIPE
    )
    while not stalled.hits and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(getattr(signal, f"SIG{sig}"))
    process.communicate()
    assert process.returncode != 0
    assert s3.objects(prefix) in ({}, *([{f"{prefix}/unit": size}] if sig == "INT" else []))
    s3.calm()
    publish(place(prefix), "unit", bytes(size), "b")
    assert s3.objects(prefix) == {f"{prefix}/unit": size}


def test_only_one_creates(s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that create a file at once, one is told yes, and the file has its content.

    Lost answers change nothing.
    """
    for address in (f"s3://{BUCKET}/locks/a", str(tmp_path / "new" / "a"), "memory://locks/a"):
        at = locate(address)
        if address.startswith("memory"):
            assert [create(at, name) for name in (b"0", b"1")] == [True, False]
            continue
        gate = threading.Barrier(8)

        def contend(number: int, at: Location = at, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return create(at, f"holder {number}".encode())

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(contend, range(8)))
        assert won.count(True) == 1
        assert read_bytes(at) == f"holder {won.index(True)}".encode()
        assert not create(at, b"late")
        remove(at)
        assert create(at, b"again")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
    s3.fail("lost", "PUT", "locks/b", times=1)
    assert create(place("locks/b"), b"holder")
    s3.fail("500", "PUT", "locks/c", times=4)
    assert create(place("locks/c"), b"holder")
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert [create(place("locks/d"), name) for name in (b"0", b"1")] == [True, False]


@pytest.fixture
def stored_run(s3: FaultyS3, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Make a finished run with rejects in the store, from a corpus there."""
    name = f"run-{abs(hash(request.node.name))}"
    source = fake_run.corpus_of(tmp_path / "in")
    s3.upload(tmp_path / "in", f"{name}/in")
    fake_run.make(
        fake_run.spec_of(source | {"path": f"s3://{BUCKET}/{name}/in"}, f"s3://{BUCKET}/{name}/out")
    )
    fake_run.make(fake_run.spec_of(source, tmp_path / "run"))
    return name


def bytes_of(s3: FaultyS3, run: str) -> dict[str, bytes]:
    """Read the data and reject objects of a run."""
    keys = [
        key
        for key in s3.objects(f"{run}/out/")
        if key.startswith((f"{run}/out/data/", f"{run}/out/rejects/"))
    ]
    # Arrow keeps the folder of a deleted object: an empty object whose name ends in a slash.
    keys = [key for key in keys if not key.endswith("/")]
    return {
        key.removeprefix(f"{run}/out/"): s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        for key in keys
    }


def test_a_run_in_a_store(stored_run: str, s3: FaultyS3, tmp_path: Path) -> None:
    """A run in a store has the bytes of a run on a disk, and verifies.

    It is read back without its manifest, and cleaned.
    """
    run, address = stored_run, f"s3://{BUCKET}/{stored_run}/out"
    assert bytes_of(s3, run) == fake_run.contents(tmp_path / "run")
    assert verify(address, source=True).differences == []
    known = RunDir.at(address).manifest.read()
    for key in s3.objects(f"{run}/out/manifest/"):
        s3.client().delete_object(Bucket=BUCKET, Key=key)
    s3.fail("503", "GET", "/data/|/rejects/", times=5)
    s3.fail("cut", "GET", "/data/", times=2)
    records, broken = RunDir.at(address).load_records(fake_run.DIGEST, "b-2-2")
    assert broken == []
    assert {name: (record.sha256, record.rows) for name, record in records.items()} == {
        name: (record.sha256, record.rows) for name, record in known.items()
    }
    assert RunDir.at(address).manifest.read() == records
    publish(place(f"{run}/out"), "rejects/left over.parquet", b"x", "a-1-1")
    RunDir.at(address).clean("b-2-2")
    RunDir.at(address).remove_unnamed_rejects(records.values())
    RunDir.at(address).remove_temporary("b-2-2")
    assert bytes_of(s3, run) == fake_run.contents(tmp_path / "run")
    assert s3.objects(f"{run}/out/tmp") == {}


@pytest.mark.parametrize(
    "fault", ["cut", "403", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("503", "short"))]
)
def test_a_store_that_fails_is_no_broken_run(fault: str, stored_run: str, s3: FaultyS3) -> None:
    """Recovery and verify end in `StorageError`.

    No unit is called broken, nothing is written or deleted.
    """
    run, address = stored_run, f"s3://{BUCKET}/{stored_run}/out"
    before = s3.objects(run)
    s3.fail(fault, "GET", "/data/", times=None)
    with pytest.raises(StorageError, match="can't be read"):
        verify(address)
    s3.calm()
    s3.fail(fault, "GET", "/manifest/|plan.parquet", times=None)
    for ask in (
        lambda: RunDir.at(address).manifest.read(),
        lambda: verify(address),
        lambda: RunDir.at(address).read_plan(),
    ):
        with pytest.raises(StorageError, match="can't be read"):
            ask()
    s3.calm()
    for key in s3.objects(f"{run}/out/manifest/"):
        s3.client().delete_object(Bucket=BUCKET, Key=key)
        before.pop(key)
    s3.fail(fault, "GET", "/rejects/", times=None)
    with pytest.raises(StorageError, match="can't be read"):
        RunDir.at(address).load_records(fake_run.DIGEST, "b-2-2")
    assert s3.objects(run) == before


def test_folders_that_are_not_local(tmp_path: Path) -> None:
    """Where fsspec has folders and no single PUT, files are renamed into place.

    Dead attempts are cleaned, no others.
    """
    run = RunDir.at(f"local://{tmp_path}/run")
    assert not run.root.object_store
    for content in (b"old", b"new"):
        publish(run.root, "data/a=1/x.parquet", content, "dead-1-1")
    assert (tmp_path / "run/data/a=1/x.parquet").read_bytes() == b"new"
    here = f"{os.uname().nodename}-{os.getpid()}-{time.time_ns() // 1_000_000}"
    dead = f"{os.uname().nodename}-{os.getpid()}-1"
    for attempt in (here, dead):
        (tmp_path / "run/tmp" / attempt).mkdir(parents=True)
    run.clean("other-1-1")
    assert {path.name for path in (tmp_path / "run/tmp").iterdir()} == {here}
    assert [create(run.root.child("lock"), name) for name in (b"0", b"1")] == [True, False]


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks may stand, `%` begins an escape; Azure takes its account from the environment.

    What is missing is named.
    """
    at = locate("s3://bucket/a b/c%20d%25?endpoint_override=127.0.0.1:1&scheme=http")
    assert at.path == "bucket/a b/c d%"
    assert at.object_store
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(SpecError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        locate("az://container/path")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    paths = [
        locate(address).path
        for address in (
            "az://container/a b",
            "abfss://container/a",
            "az://container@acc.dfs.core.windows.net/a",
        )
    ]
    assert paths == ["container/a b", "container/a", "container/a"]
    assert locate("az://container/path").object_store
    for address, named in (
        ("hdfs://host/path", "hdfs"),
        ("sftp://host/path", "paramiko"),
        ("oss://bucket/path", "ossfs"),
        ("nope://x", "nope"),
    ):
        with pytest.raises(SpecError, match=named):
            locate(address)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB, where that is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_or_read_only(small_disk: Path) -> None:
    """It is believed at once, its cause is named, and what was there stays as it was."""
    root = locate(str(small_disk))
    publish(root, "data/x", b"old", "a-1-1")
    for name in ("data/x", "data/y"):
        with pytest.raises(
            StorageError, match=r"data/[xy]: can't be written: .*No space left on device"
        ) as caught:
            publish(root, name, bytes(1 << 20), "a-1-1")
        assert "times" not in str(caught.value)
    with pytest.raises(StorageError, match="No space left on device"):
        create(root.child("lock"), bytes(1 << 20))
    assert {path.name: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == {"x": b"old"}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for action in (
        lambda: publish(root, "data/z", b"new", "a-1-1"),
        lambda: remove(root.child("data/x")),
        lambda: create(root.child("l"), b""),
    ):
        with pytest.raises(StorageError, match="Read-only file system"):
            action()
    assert read_bytes(root.child("data/x")) == b"old"


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The same where nothing can be mounted.

    A limit on the size of files is met in the middle of a write.
    """
    script = (
        "import resource, sys\n"
        "from embed_ops.errors import StorageError\n"
        "from embed_ops.storage.files import locate, publish\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    publish(locate(sys.argv[1]), 'data/x', bytes(1 << 20), 'a-1-1')\n"
        "except StorageError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "data/x: can't be written: [Errno 27] File too large" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_which_faults_pass() -> None:
    """Numbers of the system and texts of stores, told apart."""
    staying = [
        OSError(getattr(errno, name), "x")
        for name in ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "EFBIG", "EPERM", "ENOENT")
    ]
    staying += [
        PermissionError("x"),
        OSError("AWS Error ACCESS_DENIED during GetObject"),
        OSError("An error occurred (AccessDenied)"),
    ]
    staying += [
        OSError("google::cloud::Status(PERMISSION_DENIED: no)"),
        OSError("[403] AuthorizationFailure"),
        pa.ArrowInvalid("path"),
    ]
    passing = [
        OSError(getattr(errno, name), "x")
        for name in ("EIO", "ESTALE", "ETIMEDOUT", "ECONNRESET", "EPIPE", "EAGAIN")
    ]
    passing += [
        OSError("AWS Error SLOW_DOWN"),
        OSError("AWS Error NETWORK_CONNECTION: curlCode: 56"),
        TimeoutError(),
        ConnectionResetError(),
    ]
    assert [faults.passes(error) for error in staying] == [False] * len(staying)
    assert [faults.passes(error) for error in passing] == [True] * len(passing)
    assert not any(map(faults.passes, (KeyboardInterrupt(), MemoryError(), TypeError(), StorageError("x"))))
