"""Laws of the spec: what is accepted, and one plain sentence for what is not."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from embed_ops.errors import SpecError
from embed_ops.spec.encoder import AnyEncoder
from embed_ops.spec.fields import field_groups, fields
from embed_ops.spec.source import AnySource
from embed_ops.spec.spec import Spec
from embed_ops.spec.wording import inner_sections, variants

WORDS = ("source.path=data", "source.column=text", "encoder.model=m", "sink.path=run")


def load(*words: str, path: Path | None = None) -> Spec:
    """Load a small spec with more words."""
    return Spec.load(path, [*WORDS, *words])


def sentences(*words: str) -> list[str]:
    """Give the lines of the error that the words cause."""
    with pytest.raises(SpecError) as caught:
        load(*words)
    return str(caught.value).split("\n")


def test_words_go_over_the_file(tmp_path: Path) -> None:
    """A word replaces the file's value of the same key and leaves its neighbours."""
    file = tmp_path / "run.toml"
    file.write_text(
        'seed = 3\n[source]\npath = "a"\ncolumn = "t"\nkind = "csv"\n[encoder]\nmodel = '
        '"m"\n[sink]\npath = "o"\n'
    )
    spec = Spec.load(file, ["source.path=b", "seed=4"])
    assert (spec.source.path, spec.source.kind, spec.source.column, spec.seed) == ("b", "csv", "t", 4)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("source.path=data/x y/%41", "data/x y/%41"),
        ('source.path="quoted"', "quoted"),
        ('source.path=["a", "b"]', ("a", "b")),
        ("source.where=lang = 'en' AND n > 3", "lang = 'en' AND n > 3"),
        ("source.limit=12", 12),
        ("resources.replicas=[1, 4]", (1, 4)),
        ("resources.replicas=auto", "auto"),
        ("resources.replicas=3", 3),
        ("encoder.trust_remote_code=true", True),
        ("parity.min=1", 1.0),
        ("encoder.prompt=", ""),
        ("encoder.prompt=query: a=b", "query: a=b"),
        ('source.types={n = "int64"}', {"n": "int64"}),
        ("source.types.n=int64", {"n": "int64"}),
    ],
)
def test_a_value_is_a_literal_or_else_a_string(word: str, value: object) -> None:
    """A word's value is read as TOML; what is no TOML is a string, whatever signs it has."""
    found: Any = load(word)
    for key in word.partition("=")[0].split(".")[:2]:
        found = getattr(found, key)
    assert found == value


def test_indexes_reach_into_the_outputs_of_a_file(tmp_path: Path) -> None:
    """An index changes one item of a list, or appends the next one."""
    file = tmp_path / "run.toml"
    file.write_text('[[encoder.outputs]]\nname = "a"\nnormalize = true\n[[encoder.outputs]]\nname = "b"\n')
    spec = load("encoder.outputs.0.pooling=cls", "encoder.outputs.2.name=c", path=file)
    assert [(item.name, item.pooling, item.normalize) for item in spec.encoder.outputs] == [
        ("a", "cls", True),
        ("b", "auto", False),
        ("c", "auto", False),
    ]


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("resources.replica=3", ["resources.replica:", "[resources]", "'replicas'"]),
        ("sorce.path=3", ["sorce:", "the spec", "'source'"]),
        ("encoder.outputs.0.poling=cls", ["encoder.outputs.0.poling:", "[encoder.outputs.0]", "'pooling'"]),
        ("source.zzz=1", ["source.zzz:", "known:", "column", "path"]),
        ("resources.replicas=many", ["resources.replicas:", "auto", "whole number", "[min, max]", "'many'"]),
        ("resources.replicas=0", ["resources.replicas:", "above 0", "found 0"]),
        ("resources.replicas=[1]", ["resources.replicas:", "[min, max]", "found [1]"]),
        ("resources.replicas=[4, 1]", ["resources:", "[4, 1]", "0 < min <= max"]),
        ("resources.token_budget=-3", ["resources.token_budget:", "auto", "found -3"]),
        ("source.path=5", ["source.path:", "a string", "a list of strings", "found 5"]),
        ("source.path=[1]", ["source.path:", "a list of strings", "found [1]"]),
        ("source.path=", ["source:", "path is empty"]),
        ("source.path=[]", ["source:", "path is empty"]),
        ("source.keep=a", ["source.keep:", "a list of strings", "found 'a'", """'source.keep=["a"]'"""]),
        ("source.keep=[a, b]", ["source.keep:", 'write ["a", "b"]', "on a command line"]),
        ("source.types.a=3", ["source.types.a:", "string", "found 3"]),
        ("source.limit=true", ["source.limit:", "a whole number", "found True"]),
        ("source.limit=0", ["source.limit:", "greater than 0", "found 0"]),
        ("source=5", ["source:"]),
        ("encoder.outputs=5", ["encoder.outputs:", "a list of sections", "found 5"]),
        ("encoder.outputs.0=5", ["encoder.outputs.0:", "a section", "found 5"]),
        ("encoder.dtype=int8", ["encoder.dtype:", "'bfloat16'", "found 'int8'"]),
        ("encoder.trust_remote_code=1", ["encoder.trust_remote_code:", "true or false", "found 1"]),
        ("source.column", ["'source.column'", "expected section.key=value"]),
        ("source..column=x", ["expected section.key=value"]),
        ("seed.x=1", ["seed"]),
        ("encoder.outputs.3.name=x", ["'3' is not an index of encoder.outputs", "0 items"]),
        ("encoder.model.x=1", ["encoder.model is a value, not a section"]),
        ("source.template={a}", ["source:", "exactly one of column and template"]),
        ("source.kind=text", ["source.column:", "kind = 'text'", "have lines, not columns"]),
        ('source.keep=["a", "a"]', ["source:", "twice"]),
        ('source.keep=["embedding"]', ["'embedding'", "output column"]),
        ('source.keep=["_content"]', ["'_content'"]),
        ("encoder.outputs.0.name=reason", ["'reason'", "rename"]),
        ('encoder.outputs=[{name = "a"}, {name = "a"}]', ["encoder:", "same name"]),
        (
            r'source={kind = "csv", path = "p", column = "c", delimiter = "\n"}',
            ["source:", "delimiter"],
        ),
    ],
)
def test_one_plain_sentence_for_a_mistake(word: str, parts: list[str]) -> None:
    """A mistake costs one line, which names the field, says what is expected and what was found."""
    found = sentences(word)
    assert len(found) == 1
    assert all(part in found[0] for part in parts)
    assert not any(
        noise in found[0] for noise in ("function-", "constrained", "literal[", "tuple", "pydantic")
    )


def test_several_mistakes_are_several_sentences() -> None:
    """Every wrong field is named at once."""
    found = sentences("resources.replicas=many", "source.limit=x", "sink.dtype=int8")
    assert [line.partition(":")[0] for line in found] == ["source.limit", "sink.dtype", "resources.replicas"]


def test_what_is_missing_is_named_with_its_meaning() -> None:
    """A missing section or key is named, and said what it is."""
    with pytest.raises(SpecError) as caught:
        Spec.load(None, ["source.path=a", "source.column=t", "encoder.dtype=auto"])
    lines = str(caught.value).split("\n")
    assert lines == [
        "encoder.model: required and not given (folder, object store prefix, or hub name)",
        "sink: required and not given (section [sink])",
    ]


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"a = [", "not a TOML file"), (b"\xff", "can't read the spec"), (None, "can't read the spec")],
)
def test_an_unreadable_file_is_named(content: bytes | None, part: str, tmp_path: Path) -> None:
    """A spec file that is missing or broken is named, with the reason."""
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SpecError, match=part) as caught:
        Spec.load(file)
    assert str(file) in str(caught.value)


WRONG_LINES = [
    ("path = C:\\data", r"""begins an escape: write path = 'C:\data', in single quotes"""),
    ('path = "C:\\Users\\me"', r"""write path = 'C:\Users\me', in single quotes"""),
    ("keep = [id, title]", 'texts stand in quotes: write keep = ["id", "title"]'),
    ("path = data/", 'texts stand in quotes: write path = "data/"'),
    ("path: data/", 'write path = "data/"'),
    ('path = "data/', 'a quote is missing: write path = "data/"'),
    ("outside_root = True", "write outside_root = true"),
    ("where = None", "leave where out"),
    ("[sink", "the name of a section ends in ]"),
]


@pytest.mark.parametrize(("line", "guess"), WRONG_LINES, ids=[line for line, _ in WRONG_LINES])
def test_a_wrong_line_is_shown(line: str, guess: str, tmp_path: Path) -> None:
    """Of a file that is no TOML the line is shown, and what was probably meant, which is TOML."""
    file = tmp_path / "run.toml"
    file.write_text(f"\ufeff[source]\n{line}\n")
    with pytest.raises(SpecError) as caught:
        Spec.load(file)
    said = str(caught.value)
    assert f"{file}, line 2: not a TOML file: " in said
    assert line in said
    assert guess in said
    if "write " in guess:
        tomllib.loads(said.partition("write ")[2].removesuffix(", in single quotes"))


def test_what_is_no_file_is_said_to_be_made(tmp_path: Path) -> None:
    """A folder, and a file that is not there, say which command writes a spec."""
    for place, words in ((tmp_path, f"init {tmp_path}"), (tmp_path / "x.toml", "there is no such file")):
        with pytest.raises(SpecError, match="embed-ops init") as caught:
            Spec.load(place)
        assert words in str(caught.value)


NAMES = st.text(min_size=1, max_size=8)
COLUMNS = st.text(st.sampled_from("aZ0_.- äß"), max_size=8)
OUTPUTS = st.lists(
    st.fixed_dictionaries(
        {"name": COLUMNS.map("v".__add__)},
        optional={"pooling": st.sampled_from(["mean", "cls"]), "normalize": st.booleans()},
    ),
    max_size=3,
    unique_by=lambda item: item["name"],
)
TREES = st.fixed_dictionaries(
    {
        "source": st.fixed_dictionaries(
            {"path": NAMES | st.lists(NAMES, min_size=1, max_size=3), "column": NAMES},
            optional={
                "keep": st.lists(NAMES.map("k".__add__), max_size=3, unique=True),
                "where": NAMES,
                "limit": st.integers(1, 1 << 50),
                "types": st.dictionaries(NAMES, NAMES, max_size=2),
                "on_change": st.sampled_from(["error", "re-embed"]),
            },
        ),
        "encoder": st.fixed_dictionaries({"model": NAMES}, optional={"outputs": OUTPUTS, "prompt": NAMES}),
        "sink": st.fixed_dictionaries({"path": NAMES}),
    },
    optional={
        "max_reject_fraction": st.floats(0, 1),
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "replicas": st.just("auto")
                | st.integers(1, 9)
                | st.tuples(st.integers(1, 4), st.integers(4, 9)).map(list),
                "token_budget": st.just("auto") | st.integers(1, 1 << 30),
                "gpus_per_replica": st.floats(0, 1),
            },
        ),
    },
)


@given(TREES)
def test_a_spec_survives_json(tree: dict[str, Any]) -> None:
    """What a run keeps of its spec, as JSON, is the same spec when read back."""
    spec = Spec.parse(tree)
    assert Spec.parse(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec


def _leaves(kind: Any, prefix: str = "") -> set[str]:
    """List the addresses of all fields of a section, in all of its kinds."""
    if get_origin(kind) is tuple:
        return _leaves(get_args(kind)[0], f"{prefix}0.")
    found = set()
    for member in variants(kind).values() or [kind]:
        for name, field in member.model_fields.items():
            inner = inner_sections(field.annotation) if name != "stage" else []
            found |= _leaves(field.annotation, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
    return found


def test_the_help_lists_every_field() -> None:
    """Every field stands once, with its meaning, under the address that a word uses."""
    listed = [*fields(), *(row for _, rows in field_groups() for row in rows)]
    assert {row.address for row in listed} == _leaves(Spec)
    assert len({row.address for row in listed}) == len(listed)
    assert all(row.default and row.meaning for row in listed)


def test_the_help_names_who_has_a_field() -> None:
    """What all have stands first; what some have stands under their names."""
    groups = {heading: [row.address for row in rows] for heading, rows in field_groups()}
    pixels = groups["[encoder] family = onnx, keras, tensorflow, image or clip"]
    assert pixels == ["encoder.max_pixels", "encoder.draft"]
    assert "source.fanout" in groups["[source] kind = graph"]
    assert not {"encoder.model", "source.path", "encoder.family"} & {
        row for rows in groups.values() for row in rows
    }
    meaning = {row.address: row.meaning for row in fields()}
    assert all(f"{word}: " in meaning["encoder.family"] for word in variants(AnyEncoder))
    assert all(f"{word}: " in meaning["source.kind"] for word in variants(AnySource))


@pytest.mark.parametrize(
    ("kind", "tree"),
    [
        *((AnyEncoder, {"family": word, "model": "m"}) for word in variants(AnyEncoder)),
        *((AnySource, {"kind": word, "path": "p", "column": "c"}) for word in ("parquet", "jsonl", "csv")),
        *((AnySource, {"kind": word, "path": "p", "modality": "image"}) for word in ("images", "webdataset")),
        (AnySource, {"kind": "text", "path": "p"}),
        (AnySource, {"kind": "graph", "nodes": "n", "edges": "e"}),
    ],
)
def test_a_word_chooses_the_fields(kind: Any, tree: dict[str, Any]) -> None:
    """A section has the fields of its family or kind, and takes no others."""
    section = TypeAdapter(kind).validate_python(tree)
    word = tree.get("family") or tree["kind"]
    assert type(section) is variants(kind)[word]
    assert set(section.model_dump()) == set(type(section).model_fields)
    others = {name for member in variants(kind).values() for name in member.model_fields}
    foreign = others - set(type(section).model_fields)
    for name in foreign:
        with pytest.raises(ValidationError, match="Extra inputs"):
            TypeAdapter(kind).validate_python({**tree, name: 1})


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("encoder.family=txt", ["encoder.family: no family is called 'txt'", "did you mean 'text'", "graph"]),
        ("encoder.family=5", ["encoder.family: no family is called 5; known: text, words, static"]),
        ("source.kind=tsv", ["source.kind: no kind of source is called 'tsv'", "known: parquet, jsonl, csv"]),
        ("stage.0.kind=norm", ["stage.0.kind: no stage is called 'norm'", "did you mean 'normalize'", "pca"]),
        ("stage.0.dim=5", ["stage.0.kind: required and not given; known: normalize, pca"]),
        ("stage.0=5", ["stage.0: expected a section, found 5"]),
        ('stage.0={kind = "pca", dim = 5, k = 2}', ["stage.0.k: unknown key", "kind = 'pca'", "known: "]),
        ('stage.0={kind = "pca"}', ["stage.0.dim: required and not given"]),
        ("encoder.max_pixels=5", ["encoder.max_pixels: unknown key", "family = 'text'", "max_tokens"]),
        ("source.delimiter=;", ["source.delimiter: unknown key", "kind = 'parquet'", "known: kind, path"]),
    ],
)
def test_an_unknown_word_or_a_field_of_others(word: str, parts: list[str]) -> None:
    """One sentence names the section, what was found, and all that there is."""
    found = sentences(word)
    assert len(found) == 1
    assert all(part in found[0] for part in parts), found[0]
