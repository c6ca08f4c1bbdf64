"""No input ends in a traceback: files of every kind, specs, models and run directories, damaged.

Each example is a whole command in this process. What it may not do: end for a reason that it does
not know, with an exit code that `docs/` does not have, or write a run that `verify` then rejects.
In `make test` a few examples, always the same; in `make test-all` others each time, ten minutes of
them. What fails there prints how to draw it again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
import tiny_vision
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from mutations import SCALARS, as_toml, edited, edited_file, edited_folder, edited_tree
from PIL import Image
from stage_runs import invoke

from embed_ops.spec.fields import fields


def settled(examples: int, **more: Any) -> settings:
    """Give the settings of a test that draws so many examples."""
    return settings(max_examples=examples, suppress_health_check=list(HealthCheck), **more)


def drawn(many: int, few: int = 0) -> pytest.MarkDecorator:
    """Give a test its examples: many in `make test-all`, others each time; a few in `make test`."""
    slow = settled(many, derandomize=False, print_blob=True)
    given = [pytest.param(slow, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(2_400)])]
    return pytest.mark.parametrize("examples", [*given, *([settled(few)] if few else [])])


def command(*words: object, codes: tuple[int, ...] = (0, 1, 2, 3)) -> int:
    """Run a command; it ends by a sentence, and with one of the exit codes."""
    code, said = invoke(*words)
    assert "Traceback" not in said, said
    assert "reason that it does not know" not in said, said
    assert code in codes, f"exit {code}: {said}"
    assert code == 0 or said, "nothing said"
    return code


@pytest.fixture(autouse=True, params=["inline"])
def _on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run all of it in this process, in an empty folder, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def encode(size: int, form: str) -> bytes:
    """Encode a small image."""
    target = io.BytesIO()
    values = np.random.default_rng(size).integers(0, 255, (size, size + 3, 3), np.uint8)
    Image.fromarray(values).save(target, form)
    return target.getvalue()


def tar(members: dict[str, bytes]) -> bytes:
    """Make a tar."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def table(rows: dict[str, Any]) -> bytes:
    """Encode a table."""
    target = io.BytesIO()
    pq.write_table(pa.table(rows), target, row_group_size=3)
    return target.getvalue()


TEXTS = ["red blue", "", "green", "no word of it", "blue blue red", "green red"]
IMAGES = {
    f"{form}/a.{form}": encode(9, form) for form in ("png", "jpeg", "gif", "webp", "bmp", "tiff", "ico")
}
NUMBERED = [{"id": number, "text": text, "lang": "en"} for number, text in enumerate(TEXTS)]
CORPORA: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "jsonl": (
        {f"l={name}/x.jsonl": "\n".join(map(json.dumps, NUMBERED)).encode() for name in "ab"},
        ["source.column=text", "source.keep=['id']", "source.where=id < 5"],
    ),
    "csv": (
        {"x.csv": "\n".join(["id,text", *(f'{n},"{text}"' for n, text in enumerate(TEXTS))]).encode()},
        ["source.template={text} {id}", "source.types={id='int64'}"],
    ),
    "text": ({"x.txt": "\n".join(TEXTS).encode(), "y.txt": b"green\r\n\xff\n"}, []),
    "parquet": (
        {f"{name}.parquet": table({"text": TEXTS, "id": range(6), "_x": [b"1"] * 6}) for name in "ab"},
        ["source.column=text", "source.keep=['id']"],
    ),
    "images": (IMAGES, ["source.keep=['label']"]),
    "webdataset": (
        {
            "x.tar": tar(
                {
                    f"{number}.{ending}": content
                    for number in "012"
                    for ending, content in (("png", encode(5, "png")), ("json", b'{"a": 1}'), ("txt", b"t"))
                }
            ),
        },
        ["source.keep=['txt', 'json.a']"],
    ),
    "references": (
        {
            "x.parquet": table({"image": ["i/a.png", "i/b.png", "data:,x", "nope://x", None]}),
            "i/a.png": encode(5, "png"),
            "i/b.png": encode(6, "png"),
        },
        [
            "source.column=image",
            "source.modality=image",
            "source.path=in/x.parquet",
            "source.outside_root=true",
        ],
    ),
    "graph": (
        {
            "nodes/0.parquet": table({"id": [1, 2, 3], "x": [[1.0, 0.0]] * 3}),
            "nodes/1.csv.not": b"",
            "edges/0.parquet": table({"src": [1, 2, 3], "dst": [2, 3, 1]}),
        },
        ["source.nodes=in/nodes", "source.edges=in/edges", "source.on_missing=drop"],
    ),
}
"""Files of every kind of source, and the fields that each needs."""


VECTORS = {"red": [1, 0], "blue": [0, 1], "green": [1, 1]}
TABLES = {
    "static/table.txt": "".join(f"{word} {x} {y}\n" for word, (x, y) in VECTORS.items()).encode(),
    "word2vec/table.bin": b"3 2\n"
    + b"".join(word.encode() + b" " + np.array(x, "<f4").tobytes() + b"\n" for word, x in VECTORS.items()),
}
"""Word vectors as text and as word2vec writes them."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model of each family."""
    folder = tmp_path_factory.mktemp("models")
    files(folder, TABLES)
    tiny_models.build("bert", folder / "text")
    (folder / "sentences").mkdir()
    shutil.copytree(folder / "text", folder / "sentences", dirs_exist_ok=True)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    parts = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "sentences" / "modules.json").write_text(json.dumps(parts))
    (folder / "sentences" / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (folder / "sentences" / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "sentences" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    tiny_vision.build_vision("vit", folder / "image")
    tiny_vision.build_vision("clip", folder / "clip")
    graphs.sage(folder / "graph", width=2)
    return folder


def files(root: Path, contents: dict[str, bytes]) -> None:
    """Write files."""
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.fixture
def place(tmp_path: Path) -> Callable[[], Path]:
    """Give each example an empty folder to be in; the one before is removed."""

    def made() -> Path:
        os.chdir(tmp_path)
        shutil.rmtree(tmp_path / "example", ignore_errors=True)
        (tmp_path / "example").mkdir()
        os.chdir(tmp_path / "example")
        return tmp_path / "example"

    return made


FAMILIES = {"images": "image", "webdataset": "image", "references": "image", "graph": "graph"}


def model_of(models: Path, kind: str) -> list[str]:
    """Name the encoder for a kind of source."""
    family = FAMILIES.get(kind, "static")
    name = models / family if family != "static" else models / "static" / "table.txt"
    return [f"encoder.family={family}", f"encoder.model={name}"]


def source_of(kind: str) -> list[str]:
    """Name the source and the sink; `references` are images that a table names."""
    named = {"references": "parquet"}.get(kind, kind)
    place = [] if kind == "graph" else ["source.path=in"]
    return [f"source.kind={named}", *place, "sink.path=run", "resources.unit_rows=2"]


@drawn(80)
@pytest.mark.parametrize("kind", CORPORA)
def test_any_files(kind: str, examples: settings, models: Path, place: Callable[[], Path]) -> None:
    """A corpus with damaged files: its rows, rejects, or a sentence; what was written is right."""
    contents, fields_of_kind = CORPORA[kind]
    damaged = st.sampled_from(sorted(contents)).flatmap(
        lambda name: st.tuples(st.just(name), edited_file(name, contents[name]))
    )

    files(place() / "in", contents)
    assert command("embed", *source_of(kind), *model_of(models, kind), *fields_of_kind) < 2, "whole"

    @examples
    @given(edits=st.lists(damaged, min_size=1, max_size=2), parity=st.sampled_from([0, 0, 2]))
    def embed(edits: list[tuple[str, bytes]], parity: int) -> None:
        folder = place()
        files(folder / "in", contents | dict(edits))
        words = [*source_of(kind), *model_of(models, kind), f"parity.rows={parity}", *fields_of_kind]
        if command("embed", *words) < 2:
            command("verify", "run", codes=(0,))

    embed()


@drawn(90)
@pytest.mark.parametrize("family", ["static", "word2vec", "text", "sentences", "image", "clip", "graph"])
def test_any_model(family: str, examples: settings, models: Path, place: Callable[[], Path]) -> None:
    """A model folder with damaged files: it computes as the reference does, or a sentence."""
    kind = {"image": "images", "clip": "images", "graph": "graph"}.get(family, "text")
    contents, fields_of_kind = CORPORA[kind]

    @examples
    @given(damage=st.data())
    def embed(damage: st.DataObject) -> None:
        folder = place()
        files(folder / "in", contents)
        shutil.copytree(models / family, folder / "model")
        note(damage.draw(edited_folder(folder / "model")))
        named = {"static": "model/table.txt", "word2vec": "model/table.bin"}.get(family, "model")
        of = {"sentences": "text", "word2vec": "static"}.get(family, family)
        words = [f"encoder.family={of}", f"encoder.model={named}"]
        if command("embed", *source_of(kind), *words, "parity.rows=2", *fields_of_kind) < 2:
            command("verify", "run", codes=(0,))

    embed()


@drawn(400, 6)
def test_any_spec(examples: settings, place: Callable[[], Path]) -> None:
    """Fields of any value, alone or from a file that may be no TOML: done, or a sentence."""
    tree = {
        "source": {"kind": "jsonl", "path": "in", "column": "text", "keep": ["id"], "where": "id < 5"},
        "encoder": {"family": "static", "model": "table.txt", "outputs": [{"name": "e", "normalize": True}]},
        "parity": {"rows": 2, "min_mean": 0.9},
        "sink": {"path": "run", "dtype": "float16"},
        "resources": {"unit_rows": 2, "replicas": 1},
        "stage": [{"kind": "normalize"}, {"kind": "pca", "dim": 1}, {"kind": "kmeans", "k": 2}],
    }
    addresses = [row.address for row in fields()]
    word = st.tuples(st.sampled_from(addresses), SCALARS).map(lambda pair: f"{pair[0]}={pair[1]}")
    written = st.just(as_toml(tree)) | edited_tree(tree).map(as_toml) | edited(as_toml(tree))

    @examples
    @given(words=st.lists(word, max_size=2), text=written)
    def run(words: list[str], text: bytes) -> None:
        folder = place()
        files(folder / "in", CORPORA["jsonl"][0])
        files(folder, {"table.txt": TABLES["static/table.txt"]})
        (folder / "spec.toml").write_bytes(text)
        spoken = [word for word in words if "\x00" not in word]
        command("plan", "spec.toml", *spoken)
        command("run", "spec.toml", *spoken)

    run()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run with rejects, its stages, a probe, and the corpus beside it."""
    folder = tmp_path_factory.mktemp("finished")
    files(folder / "in", CORPORA["jsonl"][0])
    files(folder, {"table.txt": TABLES["static/table.txt"]})
    os.chdir(folder)
    assert command(*VERBS["embed"]) == 1
    for stage in STAGES:
        assert command("postprocess", "run", *stage) == 0
    return folder


STAGES = (["kind=normalize"], ["kind=pca", "dim=1"], ["kind=kmeans", "k=2"], ["kind=quantize"])
VERBS = {
    "verify": ["verify", "run"],
    "report": ["report", "run"],
    "neighbors": ["neighbors", "run", "--text", "red blue", "-k", "2"],
    "export": ["export", "run", "--format", "npy", "--output", "out.npy"],
    "evaluate": ["evaluate", "run", "--label", "l"],
    "retry": ["retry", "run"],
    "embed": [
        *("embed", *source_of("jsonl"), "source.column=text", "source.keep=['id', 'lang']"),
        *("encoder.family=static", "encoder.model=table.txt"),
    ],
    **{f"{stage[0]}": ["postprocess", "run", *stage] for stage in STAGES},
    "verify of a stage": ["verify", "run/stages/kmeans"],
}


@drawn(500, 6)
def test_any_run(examples: settings, finished: Path, place: Callable[[], Path]) -> None:
    """A run directory with damaged files: each verb does its work, or says what is wrong."""

    @examples
    @given(damage=st.data(), verbs=st.lists(st.sampled_from(sorted(VERBS)), min_size=1, max_size=3))
    def use(damage: st.DataObject, verbs: list[str]) -> None:
        folder = place()
        shutil.copytree(finished, folder, dirs_exist_ok=True, symlinks=True)
        note(damage.draw(edited_folder(folder / "run")))
        for verb in verbs:
            command(*VERBS[verb])

    use()
