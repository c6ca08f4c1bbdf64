"""Adds a format as docs/adding-a-source.md tells it, to a copy of the package, and reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from guides import blocks, copy_package, insert, run_in
from reading import PACKINGS, compress

MODULE, LINE, SECTION, MEMBER, FINGERPRINT = blocks("adding-a-source.md")
CONTENT = b"lost\n>one of two\nacgt\nAC\n\n>two\n>three\r\ngg\r\n>four\n\xff\n"
ROWS: list[list[Any]] = [
    [0, None, "malformed"],
    [5, "acgtAC", None],
    [26, "", None],
    [31, "gg", None],
    [43, None, "invalid_utf8"],
]
READ = """
import json, sys
from reading import rows, table, units
from embed_ops.embedding.settings import fingerprint
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec, parse_source

def corpus(path, **fields):
    return Corpus.open(parse_source({"kind": "fasta", "path": path, **fields}))

def part(kind, **source):
    source |= {"kind": kind, "path": "in"}
    tree = {"source": source, "encoder": {"model": "m"}, "sink": {"path": "out"}}
    found = fingerprint(Spec.parse(tree), {})
    return {name: value for name, value in found.items() if "upper" in name}

def places(found):
    return [unit.table.column("_row").to_pylist() for unit in found]

answers = {"prints": [part("fasta", upper=True), part("text")]}
for folder in sys.argv[1:]:
    found = corpus(folder, keep=["name"])
    cut = units(found, rows=1)
    answers[folder] = {
        "rows": rows(found),
        "names": table(found).column("name").to_pylist(),
        "units": places(cut),
        "left": places(units(found, rows=1, done={unit.name: unit.end for unit in cut[:2]})),
        "upper": rows(corpus(folder, upper=True))[1],
    }
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Follow the guide: a new file, and the lines that name it."""
    package = copy_package(tmp_path_factory.mktemp("copy"))
    (package / "sources/fasta.py").write_text(MODULE, encoding="utf-8")
    insert(package / "sources/registry.py", '    "graph": ', LINE, 4)
    insert(package / "spec/source.py", "def _refuse_texts", SECTION + "\n\n")
    insert(package / "spec/source.py", '    | Annotated[GraphSourceSpec, Tag("graph")]', MEMBER, 4)
    settings = package / "embedding/settings.py"
    insert(settings, "_SOURCE_FIELDS = ", "from embed_ops.spec.source import FastaSourceSpec\n")
    insert(settings, '    return entries | {f"model', FINGERPRINT, 4)
    return package


def test_the_format_of_the_guide(package: Path, tmp_path: Path) -> None:
    """It reads, packed or not, from every record on; its own field is in no other fingerprint."""
    folders = []
    for number, packing in enumerate(PACKINGS):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        (folders[-1] / f"a.fasta{packing}").write_bytes(compress(CONTENT, packing))
    answers = run_in(package, READ, *map(str, folders))
    assert answers.pop("prints") == [{"source.upper": True}, {}]
    for answer in answers.values():
        assert answer["rows"] == ROWS
        assert answer["names"] == [None, "one of two", "two", "three", "four"]
        assert answer["units"] == [[row] for row, *_ in ROWS]
        assert answer["left"] == answer["units"][2:]
        assert answer["upper"] == [5, "ACGTAC", None]
