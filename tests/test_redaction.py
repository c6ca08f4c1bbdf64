"""Secrets in addresses and messages: none is left, and nothing else is changed."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import corpus_of, make, spec_of
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from embed_ops import Run, Spec
from embed_ops.analysis.page.write import write_page
from embed_ops.commands.cli import app
from embed_ops.errors import EmbedOpsError, SpecError, StorageError
from embed_ops.postprocessing.identity import stage_fields
from embed_ops.redaction import holds_secret, redacted, redacted_tree, usable
from embed_ops.runs.header import RunHeader
from embed_ops.spec.spec import parse_stage
from embed_ops.storage import faults
from embed_ops.storage.files import list_files, locate, read_bytes

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
ADDRESSES = {
    f"s3://AKIAEXAMPLE:{SECRET}@bucket/in/x.parquet": "s3://bucket/in/x.parquet",
    f"s3://AKIAEXAMPLE:{SECRET[:5]}/{SECRET}+{SECRET}@bucket": "s3://bucket",
    f"s3://AKIAEXAMPLE:{SECRET}%2F{SECRET}@bucket/x?region=eu-1": "s3://bucket/x?region=eu-1",
    f"https://user:{SECRET}@host:8443/x": "https://host:8443/x",
    f"https://{SECRET}@host/x": "https://host/x",
    f"https://user:{SECRET}@{SECRET}@host/x": "https://host/x",
    f"sftp://user:{SECRET}@host/x": "sftp://user@host/x",
    f"abfss://container:{SECRET}@account.dfs.core.windows.net/x": (
        "abfss://container@account.dfs.core.windows.net/x"
    ),
    f"https://h/x?X-Amz-Date=20260101&X-Amz-Signature={SECRET}": "https://h/x?X-Amz-Date=20260101",
    f"https://h/x?X-Amz-Security-Token={SECRET}&X-Amz-Credential={SECRET}%2F2026": "https://h/x",
    f"https://h/x?X-Goog-Signature={SECRET}&a=1": "https://h/x?a=1",
    f"https://h/x?sv=2024&sig={SECRET}%3D&sp=r": "https://h/x?sv=2024&sp=r",
    f"https://h/x?access_token={SECRET}#more": "https://h/x#more",
    f"https://h/x?AWSAccessKeyId={SECRET}&Signature={SECRET}": "https://h/x",
    f"hf://datasets/a/b?token={SECRET}": "hf://datasets/a/b",
}
PLAIN = [
    "s3://bucket/x y?region=eu&endpoint_override=localhost:9000&scheme=http",
    "abfss://container@account.dfs.core.windows.net/x",
    "sftp://user@host/x",
    "http://host:8080/a@b",
    "http://[::1]:9000/a:b@c",
    "s3://bucket/a:b@c/d",
    "/data/a:b@c/key=value/x.parquet",
    "label = 'a' and key=1; hf_transfer, hf_datasets and hf_hub_download are packages",
    "source.path data/: nothing there; give a folder",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_secret_is_left(address: str) -> None:
    """An address alone, in a sentence, in quotes; and what is left is an address without it."""
    assert usable(redacted(address)) == ADDRESSES[address]
    assert holds_secret({"source": {"path": ["x", address]}})
    for text in (address, f"can't read {address!r}: 403 at {address}; mend it", f"<{address}>"):
        assert SECRET not in redacted(text)
        assert redacted(redacted(text)) == redacted(text)
        assert SECRET not in str(SpecError(text))
        assert SECRET not in str(pickle.loads(pickle.dumps(StorageError(text, 3))))


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_no_secret_stays(text: str) -> None:
    """Every other text is given back as it is, and is used as it is."""
    assert redacted(text) == text == usable(text) == str(EmbedOpsError(text))
    assert not holds_secret(text)


@pytest.mark.parametrize(
    "token",
    ["hf_abcdefghijklmnopqrstuvwx", "hf_AbCdEf12", "ghp_0123456789abcdefABCD", "glpat-0123456789abcdefg"],
)
def test_tokens_are_known_by_their_form(token: str) -> None:
    """Tokens of hubs need no address around them; headers name theirs."""
    for text in (token, f"with {token}.", f'{{"token": "{token}"}}', f"Authorization: Bearer {token}"):
        assert token not in redacted(text)
    assert "abcdefghijkl" not in redacted("headers {'Authorization': 'Basic abcdefghijkl'}")


@given(st.text(), st.text("aA1/@:%?&=#.-", max_size=12))
def test_redaction_never_fails(before: str, after: str) -> None:
    """Whatever the text is, it comes back, and a second time changes nothing."""
    once = redacted(f"{before}s3://{after}")
    assert redacted(once) == once
    usable(once)


def test_a_tree_keeps_what_decides_vectors() -> None:
    """Only whole addresses are changed: a prompt or a condition with one in it stays."""
    tree: dict[str, Any] = {
        "where": f"url = 'https://a:{SECRET}@h'",
        "path": [f"https://a:{SECRET}@h"],
        "n": 1,
    }
    assert redacted_tree(tree) == {"where": tree["where"], "path": ["https://redacted@h"], "n": 1}


def test_a_run_keeps_no_secret(tmp_path: Path) -> None:
    """`run.json`, the report, reject files and the page of a run whose addresses bring some."""
    spec = spec_of(corpus_of(tmp_path / "in"), tmp_path / "run")
    run, _, _ = make(spec)
    address = f"s3://KEY:{SECRET}@bucket/in"
    tree = spec.model_dump(mode="json")
    tree["source"]["path"], tree["encoder"]["model"] = [address], f"https://x:{SECRET}@host/model"
    header = run.read_header()
    assert header is not None
    fresh = RunHeader.new(tree, header.fingerprint, {}, 0.0)
    run.write_header(fresh, "a-1-1")
    run.write_json("report.json", {"spec": tree, "rows": 1}, "a-1-1")
    for name in ("run.json", "report.json"):
        assert SECRET not in (tmp_path / "run" / name).read_text()
    kept = Spec.parse(Run(str(tmp_path / "run")).header.spec)
    assert kept.source.paths == ("s3://redacted@bucket/in",)
    assert kept.encoder.model == "https://redacted@host/model"
    assert fresh.spec["source"]["path"] == [address]
    # A run of before has them in it: the page does not show them.
    (tmp_path / "run" / "run.json").write_text(
        json.dumps(json.loads((tmp_path / "run" / "run.json").read_text()) | {"spec": tree})
    )
    page = write_page(str(tmp_path / "run"), str(tmp_path / "page.html"))
    assert SECRET not in Path(page).read_text()


def test_rejects_keep_no_secret(tmp_path: Path) -> None:
    """What is said of a reject may name a signed address; what was kept of it is the user's."""
    run, _, records = make(spec_of(corpus_of(tmp_path / "in"), tmp_path / "run"))
    record = next(iter(records.values()))
    signed = f"https://h/x.jpg?sig={SECRET}"
    rejects = pa.table({"url": [signed], "reason": ["missing"], "message": [f"{signed}: no such file"]})
    written = run.write_unit(record, pa.table({"_source": ["x"]}), rejects, "f", "0")
    table = pq.ParquetFile(tmp_path / "run" / "rejects" / str(written.reject_file)).read()
    assert table["message"].to_pylist() == ["https://h/x.jpg?sig=redacted: no such file"]
    assert table["url"].to_pylist() == [signed]


def test_a_stage_is_known_by_its_address_without_secrets() -> None:
    """A probe at an address with a password has the fingerprint of one with another password."""

    def fields(secret: str) -> dict[str, Any]:
        return stage_fields(parse_stage({"kind": "classify", "probe": f"sftp://me:{secret}@host/probe"}))

    assert fields("one") == fields("other")
    assert fields("one")["stage.probe"] == "sftp://me:redacted@host/probe"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder on loopback; gives host and port, and what is asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")

    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{serving.server_port}", asked
    serving.shutdown()
    serving.server_close()


def test_the_secret_is_used_and_not_told(
    server: tuple[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A signed file can be read; what goes wrong with it is told without the signature."""
    host, asked = server
    (tmp_path / "x.txt").write_bytes(b"content")
    assert read_bytes(locate(f"http://{host}/x.txt?sig={SECRET}")) == b"content"
    assert any(SECRET in line for line in asked)
    with pytest.raises(EmbedOpsError) as told:
        list_files(f"http://{host}/none/?sig={SECRET}")
    assert SECRET not in str(told.value)
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError) as failed:
        faults.patiently("read", f"http://{host}/?sig={SECRET}", lambda: _fail(f"https://a:{SECRET}@h: 503"))
    assert SECRET not in str(failed.value)
    assert "trying again" in caplog.text
    assert SECRET not in caplog.text


def _fail(words: str) -> None:
    raise OSError(words)


@pytest.mark.parametrize("verb", ["embed", "plan", "submit", "neighbors", "verify", "init", "export"])
def test_commands_tell_none(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command says of an address that fails has no secret in it; `submit` sends none."""
    monkeypatch.chdir(tmp_path)
    address = f"ftp://user:{SECRET}@127.0.0.1:1/x"
    (tmp_path / "table.txt").write_text("red 1 0\n")
    spec = [f"source.path={address}", "source.column=text", "sink.path=out"]
    spec += ["encoder.family=static", "encoder.model=table.txt"]
    words = {
        "neighbors": [address, "--text", "a"],
        "verify": [address],
        "init": [address],
        "export": [address, "--format", "npy", "--output", "ex"],
    }.get(verb, spec)
    told = CliRunner().invoke(app, [verb, *words])
    assert told.exit_code in (2, 3)
    assert SECRET not in told.output + told.stderr
    assert "Traceback" not in told.output + told.stderr
    if verb == "submit":
        assert "brings a secret" in told.stderr
