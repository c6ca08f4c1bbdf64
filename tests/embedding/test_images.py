"""The laws for images: folders, tars and Parquet, with bad images in the middle.

And a search by text over images.
"""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from PIL import Image
from stage_runs import invoke
from tiny_runs import contents, no_session, tiny_spec
from tiny_vision import build_vision, encoded, photographs, samples
from transformers.image_utils import load_image

from embed_ops import Run, Spec, embed
from embed_ops.analysis.neighbors import neighbors
from embed_ops.embedding.driver import retry
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.verify.run import verify

KINDS = [
    "images",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("webdataset", "parquet", "paths")),
]
BAD = {
    "empty": b"",
    "html": b"<html>",
    "cut": samples()["jpeg"][:6000],
    "huge": encoded(Image.new("1", (10_000, 10_000)), "PNG"),
}
REASONS = {"empty": "undecodable", "html": "undecodable", "cut": "undecodable", "huge": "too_large"}


def pictures(count: int) -> list[tuple[str, bytes]]:
    """Give named parts of the photographs as files, one in seven of them bad; a few are equal."""
    found = []
    for number in range(count):
        photo = photographs()[number % 2]
        left, top = (37 * number) % 400, (23 * number) % 250
        part = photo.crop((left, top, left + 120 + number % 50, top + 90))
        content = encoded(part, ("JPEG", "PNG", "WEBP")[number % 3])
        name = f"{number:04d}.jpg"
        if number % 7 == 3:
            kind = list(BAD)[(number // 7) % len(BAD)]
            name, content = f"{number:04d}-{kind}.jpg", BAD[kind]
        found.append((name, content))
    found[-1] = (found[-1][0], found[0][1])
    return found


def write_corpus(kind: str, folder: Path, count: int) -> dict[str, Any]:
    """Write pictures in three parts, and give the source section."""
    listed = pictures(count)
    parts = np.array_split(np.arange(count), 3)
    for part, chosen in enumerate(parts):
        place = folder / f"part{part}"
        place.mkdir(parents=True)
        mine = [listed[number] for number in chosen]
        if kind in ("images", "paths"):
            files = place if kind == "images" else place / "files"
            files.mkdir(exist_ok=True)
            for name, content in mine:
                (files / name).write_bytes(content)
        if kind == "webdataset":
            with tarfile.open(place / "x.tar", "w") as archive:
                for name, content in mine:
                    for ending, member in (("jpg", content), ("json", json.dumps({"name": name}).encode())):
                        info = tarfile.TarInfo(f"{name.removesuffix('.jpg')}.{ending}")
                        info.size = len(member)
                        archive.addfile(info, io.BytesIO(member))
        if kind in ("parquet", "paths"):
            values = (
                [{"bytes": content, "path": name} for name, content in mine]
                if kind == "parquet"
                else [f"files/{name}" for name, _ in mine]
            )
            pq.write_table(
                pa.table({"image": values, "name": [name for name, _ in mine]}),
                place / "x.parquet",
                row_group_size=16,
            )
    if kind == "images":
        return {"kind": "images", "path": str(folder), "keep": ["label"]}
    if kind == "webdataset":
        return {"kind": "webdataset", "path": str(folder), "keep": ["json.name"]}
    return {"kind": "parquet", "path": str(folder), "column": "image", "keep": ["name"]}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a tiny ViT."""
    return str(build_vision("vit", tmp_path_factory.mktemp("vit")))


def spec_of(model: str, source: dict[str, Any], run: Path, **fields: Any) -> Spec:
    """Make a spec for images, in float32 and in units of ten."""
    given = {
        "encoder__family": "image",
        "encoder__dtype": "float32",
        "resources__unit_rows": 10,
        "max_reject_fraction": 0.5,
    }
    return tiny_spec(model, source, run, **{**given, **fields})


def rows_of(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the vectors by source file and position."""
    table = Run(str(run)).open().to_table()
    keys = zip(table.column("_source").to_pylist(), table.column("_row").to_pylist(), strict=True)
    vectors = np.asarray(table.column("embedding").combine_chunks().flatten()).reshape(len(table), -1)
    return {f"{source}:{row}": vector for (source, row), vector in zip(keys, vectors, strict=True)}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("kind", KINDS)
def test_complete_and_invariant(kind: str, vit: str, tmp_path: Path) -> None:
    """Every image is in the output or, with its reason, in the rejects, in order.

    One replica and two give the same bytes.
    """
    source = write_corpus(kind, tmp_path / "corpus", 75)
    run = embed(spec_of(vit, source, tmp_path / "one"))
    bad = [name for name, _ in pictures(75) if "-" in name]
    assert (run.report["rows"], run.report["rejected"]) == (75 - len(bad), len(bad))
    assert verify(str(tmp_path / "one"), source=True).differences == []
    rejects = pa.concat_tables(
        pq.read_table(path) for path in sorted((tmp_path / "one" / "rejects").rglob("*.parquet"))
    )
    assert rejects.column("reason").to_pylist() == [
        REASONS[name.removesuffix(".jpg").partition("-")[2]] for name in bad
    ]
    data = run.open().to_table()
    if kind == "images":
        assert [Path(name).name for name in data.column("_source").to_pylist()] == [
            name for name, _ in pictures(75) if "-" not in name
        ]
        assert data.column("label").to_pylist() == [
            Path(name).parent.name for name in data.column("_source").to_pylist()
        ]
    else:
        name = "json.name" if kind == "webdataset" else "name"
        assert data.column(name).to_pylist() == [name for name, _ in pictures(75) if "-" not in name]
    assert run.report["flops_per_second"] > 0
    embed(spec_of(vit, source, tmp_path / "two", resources__replicas=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    embed(spec_of(vit, source, tmp_path / "one"), session=no_session)


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_alone_is_together_and_faithful(vit: str, tmp_path: Path) -> None:
    """A vector does not depend on its neighbours, and is that of transformers.

    The check of the first rows says so.
    """
    source = write_corpus("images", tmp_path / "corpus", 30)
    run = embed(spec_of(vit, source, tmp_path / "run", parity={"rows": 20}))
    [parity] = run.report["parity"]
    assert parity["min"] >= 0.99999
    embed(spec_of(vit, source, tmp_path / "small", resources__unit_rows=1, resources__token_budget=1))
    one, other = rows_of(tmp_path / "run"), rows_of(tmp_path / "small")
    assert one.keys() == other.keys()
    assert max(float(np.abs(one[key] - other[key]).max()) for key in one) < 1e-4
    processor = transformers.AutoImageProcessor.from_pretrained(vit, backend="pil")
    model: Any = transformers.AutoModel.from_pretrained(vit).eval()
    for key, vector in one.items():
        image = load_image(Image.open(tmp_path / "corpus" / key.partition(":")[0]))
        with torch.inference_mode():
            wanted = model(**processor(images=image, return_tensors="pt")).last_hidden_state[0, 0].numpy()
        assert vector @ wanted / np.linalg.norm(vector) / np.linalg.norm(wanted) >= 0.99999


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "webdataset", "parquet"])
def test_kill_and_go_on(kind: str, vit: str, tmp_path: Path) -> None:
    """Kill -9 in the middle: the same command computes only what is missing.

    The bytes are those of a run that was never killed.
    """
    source = write_corpus(kind, tmp_path / "corpus", 150)
    words = [f"source.{name}={value!r}".replace("'", '"') for name, value in source.items()]
    words += [
        "encoder.family=image",
        f"encoder.model={vit}",
        "encoder.dtype=float32",
        "parity.rows=0",
        "max_reject_fraction=0.5",
    ]
    words += ["resources.unit_rows=10", "resources.replicas=1", "resources.token_budget=1"]

    def line(run: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "embed_ops",
            "embed",
            *words,
            f"sink.path={tmp_path / run}",
            "--progress",
            "plain",
        ]

    whole = subprocess.run(line("whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    process = subprocess.Popen(
        line("killed"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    data = tmp_path / "killed" / "data"
    while process.poll() is None and sum(1 for _ in data.rglob("*.parquet")) < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the job was over before it could be killed"
    again = subprocess.run(line("killed"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    report = json.loads((tmp_path / "killed" / "report.json").read_text())
    assert 4 <= report["units_skipped"] < report["units"]
    assert verify(str(tmp_path / "killed"), source=True).differences == []


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_cut_tar(vit: str, tmp_path: Path) -> None:
    """A tar that is cut costs what follows the cut.

    One file-level reject, exit code 1, and `verify` still adds up.
    """
    source = write_corpus("webdataset", tmp_path / "corpus", 30)
    tar = tmp_path / "corpus" / "part1" / "x.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    run = embed(spec_of(vit, source, tmp_path / "run"))
    assert run.report["file_rejects"] == 1
    assert verify(str(tmp_path / "run"), source=True).differences == []


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_retry_of_missing_files(vit: str, tmp_path: Path) -> None:
    """Images that were not there yet are rejects `missing`.

    Once they are, `retry` embeds them and merges them in order.
    """
    source = write_corpus("paths", tmp_path / "corpus", 30)
    straight = embed(spec_of(vit, source, tmp_path / "straight"))
    late = [path for path in sorted((tmp_path / "corpus").rglob("*.jpg")) if "-" not in path.name][2:20:5]
    held = {path: path.read_bytes() for path in late}
    for path in late:
        path.unlink()
    run = embed(spec_of(vit, source, tmp_path / "run"))
    assert run.rejects().to_table().column("reason").to_pylist().count("missing") == len(late)
    for path, content in held.items():
        path.write_bytes(content)
    assert retry(str(tmp_path / "run")).report["rejected"] == straight.report["rejected"]
    assert verify(str(tmp_path / "run"), source=True).differences == []
    one, other = rows_of(tmp_path / "straight"), rows_of(tmp_path / "run")
    assert list(one) == list(other)
    assert max(float(np.abs(one[key] - other[key]).max()) for key in one) < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_search_by_text(tmp_path: Path) -> None:
    """Texts and images are embedded by two runs into one space.

    The nearest images of each text are those that transformers finds.
    """
    model = str(build_vision("clip", tmp_path / "clip"))
    source = write_corpus("images", tmp_path / "corpus", 40)
    unit = {
        "encoder__family": "clip",
        "encoder__outputs": [{"name": "embedding", "normalize": True}],
        "parity": {"rows": 8},
    }
    embed(spec_of(model, source, tmp_path / "images", **unit))
    queries = ["The quick brown fox", "vectors are compared by cosine", "numbers 1234567890", "a"]
    (tmp_path / "queries").mkdir()
    pq.write_table(pa.table({"text": queries}), tmp_path / "queries" / "x.parquet")
    asked = {"path": str(tmp_path / "queries"), "column": "text", "modality": "text"}
    texts = embed(spec_of(model, asked, tmp_path / "texts", **unit)).open().to_table()
    found = rows_of(tmp_path / "images")
    scores = vectors_of(texts.column("embedding")) @ np.stack(list(found.values())).T
    whole: Any = transformers.AutoModel.from_pretrained(model).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    photos = [load_image(Image.open(tmp_path / "corpus" / key.partition(":")[0])) for key in found]
    with torch.inference_mode():
        of_images = whole.get_image_features(**processor(images=photos, return_tensors="pt")).pooler_output
        given = tokenizer(queries, padding=True, return_tensors="pt")
        given.pop("token_type_ids", None)
        of_texts = whole.get_text_features(**given).pooler_output
    wanted = (
        torch.nn.functional.normalize(of_texts, dim=-1) @ torch.nn.functional.normalize(of_images, dim=-1).T
    )
    assert np.abs(scores - wanted.numpy()).max() < 1e-5
    for row in range(len(queries)):
        assert set(np.argsort(-scores[row])[:5]) == set(np.argsort(-wanted[row].numpy())[:5])
    at_once = neighbors(str(tmp_path / "images"), queries, len(found), session=no_session)
    for row, near in enumerate(at_once.ids):
        np.testing.assert_allclose(at_once.scores[row], wanted[row].numpy()[near], atol=1e-5)
    itself = [tmp_path / "corpus" / key.partition(":")[0] for key in list(found)[3:5]]
    code, said = invoke(
        "neighbors", tmp_path / "images", *(word for path in itself for word in ("--image", path)), "-k", 1
    )
    assert code == 0, said
    assert all(said.count(path.name) >= 2 for path in itself), "the nearest image of an image is itself"
    code, said = invoke("neighbors", tmp_path / "images", "--image", tmp_path / "queries/x.parquet")
    assert (code, "query 1 of 1 has no vector" in " ".join(said.split())) == (2, True), said


@pytest.mark.slow
def test_example_of_digits(tmp_path: Path) -> None:
    """A small ViT, trained on half of the digits, tells the classes of the other half.

    The job embeds them.
    """
    program = Path(__file__).parents[2] / "examples" / "train_digits_vit.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "digits")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = (
        float(re.search(rf"{name}: ([0-9.]+)%", done.stdout)[1]) for name in ("as it began", "trained")
    )  # type: ignore[index]
    assert before < 60
    assert after > 93
