"""What every stage promises, whichever it is.

Saved states, models in plain Python, rows that do not depend on their neighbours.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stage_data import Array, digits, fitted, same_bits

from embed_ops import load_model
from embed_ops.errors import SpecError, StageError
from embed_ops.numerics.tiles import BLOCK_ROWS
from embed_ops.runs.models import write_model
from embed_ops.spec.spec import parse_stage
from embed_ops.spec.stage import KINDS
from embed_ops.stages import rounds
from embed_ops.stages.base import Block
from embed_ops.stages.registry import (
    STAGES,
    fitted_by_rounds,
    make_stage,
    make_whole_run,
    model_class,
)
from embed_ops.storage.files import locate
from embed_ops.storage.packing import pack, unpack

SECTIONS: list[dict[str, Any]] = [
    {"kind": "normalize"},
    {"kind": "normalize", "method": "standardize"},
    {"kind": "pca", "dim": 8},
    {"kind": "pca", "dim": 0.9},
    {"kind": "pca", "dim": 4, "solver": "subspace"},
    {"kind": "whiten"},
    {"kind": "whiten", "method": "zca"},
    {"kind": "whiten", "epsilon": 1e-6},
    {"kind": "center"},
    {"kind": "project", "dim": 8},
    {"kind": "project", "dim": 8, "method": "sparse"},
    {"kind": "truncate", "dim": 8},
    {"kind": "truncate", "dim": 8, "normalize": False},
    *({"kind": "quantize", "to": to} for to in ("int8", "uint8", "binary", "ubinary")),
    {"kind": "quantize", "percentile": 1.0},
    {"kind": "kmeans", "k": 12},
    {"kind": "kmeans", "k": 12, "spherical": True},
    {"kind": "kmeans", "k": 12, "init": "random", "sample_rows": 900},
    {"kind": "kmeans", "k": 12, "init": "two-level"},
]
OF_STAGES = pytest.mark.parametrize(
    "section", SECTIONS, ids=["-".join(map(str, section.values())) for section in SECTIONS]
)


class Recorded:
    """A stage that keeps its states and some summaries, and goes on from what was packed."""

    def __init__(self, section: dict[str, Any], *, packed: bool) -> None:
        self.stage = make_stage(parse_stage(section))
        self.packed = packed
        self.states: list[Any] = []
        self.summaries: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)

    def _through(self, thing: Any) -> Any:
        return unpack(pack(thing)) if self.packed and thing is not None else thing

    def start(self, given: Any) -> Any:
        """Give the first state."""
        self.states.append(self.stage.start(given))
        return self._through(self.states[-1])

    def summarize(self, block: Block, state: Any) -> Any:
        """Keep the summary."""
        self.summaries.append(self.stage.summarize(block, state))
        return self._through(self.summaries[-1])

    def update(self, state: Any, summary: Any) -> Any:
        """Keep the next state."""
        self.states.append(self.stage.update(state, summary))
        return self._through(self.states[-1])


def equal(left: Any, right: Any) -> bool:
    """Tell whether two dataclasses hold the same bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return same_bits(left, right)
    if hasattr(left, "__dataclass_fields__"):
        return all(equal(getattr(left, item.name), getattr(right, item.name)) for item in fields(left))
    return bool(left == right) or (left != left and right != right)


@functools.cache
def rows() -> Array:
    """Give rows of more than one block: digits in turn, with a row of zeros."""
    x = (
        np.tile(digits()[0], (6, 1))[: BLOCK_ROWS + 1000]
        + np.random.default_rng(0).random((BLOCK_ROWS + 1000, 64), np.float32) / 8
    )
    x[5] = 0.0
    return x


@functools.cache
def model_of(section: str) -> Any:
    """Fit the stage of a section, written as JSON."""
    return fitted(rows(), **json.loads(section))


def test_every_kind_is_here() -> None:
    """Every kind of the registry and of the spec has a section in this contract."""
    by_rounds = {kind for kind, entry in STAGES.items() if entry.by_rounds}
    assert {section["kind"] for section in SECTIONS} == by_rounds
    assert set(KINDS) == set(STAGES)


@OF_STAGES
def test_saved_between_rounds(section: dict[str, Any]) -> None:
    """States and summaries survive being packed, so a resumed fit is the same fit."""
    straight, resumed = Recorded(section, packed=False), Recorded(section, packed=True)
    models = [rounds.fit(stage, rows()) for stage in (straight, resumed)]
    for thing in straight.states + straight.summaries:
        again = unpack(pack(thing))
        assert equal(again, thing)
        assert pack(again) == pack(thing)
    assert [pack(state) for state in straight.states] == [pack(state) for state in resumed.states]
    assert pack(models[0]) == pack(models[1])
    assert equal(unpack(pack(models[0])), models[0])


@OF_STAGES
def test_summaries_are_added_in_any_grouping(section: dict[str, Any]) -> None:
    """Sums in another grouping differ by rounding only, and repeat themselves bit for bit."""
    recorded = Recorded(section, packed=False)
    x = rows()
    rounds.fit(recorded, x)
    state = next(
        (
            state
            for state in recorded.states
            if (todo := recorded.stage.round(state)) is not None and todo.over != "collect"
        ),
        None,
    )
    if state is None:
        return
    cuts = (0, 900, 901, 2500)
    ids = np.arange(len(x))
    parts = [
        recorded.stage.summarize(Block(x[begin:end], ids[begin:end]), state)
        for begin, end in itertools.pairwise(cuts)
    ]
    before = [pack(part) for part in parts]
    left, right = (parts[0] + parts[1]) + parts[2], parts[0] + (parts[1] + parts[2])
    assert pack(left) == pack((parts[0] + parts[1]) + parts[2])
    assert [pack(part) for part in parts] == before
    for item in fields(left):
        one, other = getattr(left, item.name), getattr(right, item.name)
        if isinstance(one, np.ndarray):
            assert one.shape == other.shape
            assert np.allclose(
                one.astype(np.float64),
                other.astype(np.float64),
                rtol=1e-9,
                atol=1e-9 * np.abs(one).max(initial=0.0),
            )


@OF_STAGES
def test_rows_do_not_depend_on_neighbours(section: dict[str, Any]) -> None:
    """A row's columns have the same bits alone, in any unit, and from other memory layouts."""
    model, x = model_of(json.dumps(section)), rows()[:3000]
    whole = model.columns(x, "out")
    for begin, end in ((0, 1), (5, 6), (7, 70), (511, 513), (1000, 2537), (2999, 3000)):
        part = model.columns(np.ascontiguousarray(x[begin:end]), "out")
        for name, values in part.items():
            assert same_bits(np.ascontiguousarray(whole[name][begin:end]), values), (name, begin, end)
    other = model.columns(np.asfortranarray(x), "out")
    frozen = x.copy()
    frozen.flags.writeable = False
    assert all(same_bits(values, other[name]) for name, values in whole.items())
    assert all(same_bits(values, whole[name]) for name, values in model.columns(frozen, "out").items())
    assert same_bits(x, rows()[:3000]), "a model wrote to what it was given"


@OF_STAGES
def test_columns(section: dict[str, Any]) -> None:
    """Columns have a value a row and names of their own; `transform` gives the first."""
    model = model_of(json.dumps(section))
    for count in (0, 1, 2000):
        found = model.columns(rows()[:count], "out")
        assert all(len(values) == count for values in found.values())
        assert ("out" in found) == (section["kind"] != "kmeans")
        first = next(iter(found.values()))
        assert same_bits(model.transform(rows()[:count]), first)
    assert model.dim in (None, 64)
    json.dumps(model.report(), allow_nan=False)


@OF_STAGES
def test_seed_and_repetition(section: dict[str, Any]) -> None:
    """A fit repeats itself bit for bit."""
    assert pack(fitted(rows(), **section)) == pack(model_of(json.dumps(section)))


@OF_STAGES
def test_model_in_a_folder(section: dict[str, Any], tmp_path: Path) -> None:
    """A written model is read back whole, from its folder or the run above it.

    Written again it has the same bytes.
    """
    model = model_of(json.dumps(section))
    write_model(locate(str(tmp_path)), model, "attempt")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["model.json", "model.safetensors"]
    before = [(tmp_path / "model" / name).read_bytes() for name in names]
    for place in (tmp_path, tmp_path / "model"):
        found = load_model(str(place))
        assert equal(found, model)
        assert same_bits(found.transform(rows()[:100]), model.transform(rows()[:100]))
    write_model(locate(str(tmp_path)), load_model(str(tmp_path)), "again")
    assert [(tmp_path / "model" / name).read_bytes() for name in names] == before


ALONE = """
import sys
import numpy as np
from embed_ops import load_model
x = np.load(sys.argv[1])
for folder in sys.argv[2:]:
    np.save(folder + "/found.npy", load_model(folder).transform(x))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"ray", "torch", "transformers"}))
"""


def test_models_need_neither_ray_nor_torch(tmp_path: Path) -> None:
    """In a fresh process every model gives the same bits, and loads neither Ray nor torch."""
    np.save(tmp_path / "x.npy", rows()[:200])
    folders = []
    for number, section in enumerate(SECTIONS):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        write_model(locate(str(folders[-1])), model_of(json.dumps(section)), "attempt")
    line = [sys.executable, "-c", ALONE, str(tmp_path / "x.npy"), *map(str, folders)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr
    for folder, section in zip(folders, SECTIONS, strict=True):
        assert same_bits(
            np.load(folder / "found.npy"), model_of(json.dumps(section)).transform(rows()[:200])
        ), section


FOREIGN = [
    "os:system",
    "dataclasses:Field",
    "embed_ops.errors:StageError",
    "embed_ops.stages.truncate:State",
    "StageError",
    "Nope",
    "nope.State",
    "base.Stage",
    "truncate.np",
    "registry.load_class",
    "..errors.StageError",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_classes_are_refused(name: str) -> None:
    """What was packed can name the dataclasses of one table and of stages only.

    Nothing else is imported or called.
    """
    content = pack(make_stage(parse_stage({"kind": "truncate", "dim": 1})).start(_given()))
    length = int.from_bytes(content[:8], "little")
    plain = json.loads(content[8 : 8 + length])
    text = json.dumps({**plain, "class": name}).encode()
    with pytest.raises(ValueError, match="no dataclass that this version knows"):
        unpack(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _given() -> Any:
    from embed_ops.stages.base import FitInput

    return FitInput(10, 4, 0)


def test_folders_without_a_model(tmp_path: Path) -> None:
    """No model, an unknown kind and a cut file are one sentence that names the folder."""
    with pytest.raises(StageError, match=r"model\.json is missing"):
        load_model(str(tmp_path))
    write_model(locate(str(tmp_path)), model_of(json.dumps(SECTIONS[1])), "attempt")
    place = tmp_path / "model" / "model.json"
    whole = place.read_text()
    for spoiled in (whole.replace('"normalize"', '"nope"'), whole[:-10], "{}", "[]"):
        place.write_text(spoiled)
        with pytest.raises(StageError, match=str(tmp_path)):
            load_model(str(tmp_path))
    place.write_text(whole)
    arrays = tmp_path / "model" / "model.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-3])
    with pytest.raises(StageError, match=str(tmp_path)):
        load_model(str(tmp_path))


def test_unknown_kinds_are_one_sentence() -> None:
    """A kind that the registry lacks, and one that is asked for by the wrong door, are told."""
    known = parse_stage({"kind": "truncate", "dim": 1})
    unknown = known.model_copy(update={"kind": "nope"})
    for ask in (make_stage, make_whole_run, fitted_by_rounds, lambda spec: model_class(spec.kind)):
        with pytest.raises(StageError, match="no stage is called 'nope'; kinds: normalize, pca"):
            ask(unknown)
    with pytest.raises(StageError, match="truncate: is fitted by rounds"):
        make_whole_run(known)
    with pytest.raises(StageError, match="dedup: is not fitted by rounds"):
        make_stage(parse_stage({"kind": "dedup"}))


def test_unknown_fields_are_named() -> None:
    """A field that a kind does not have, and a kind that there is not, are named."""
    for section in SECTIONS:
        with pytest.raises(SpecError, match="colour"):
            parse_stage({**section, "colour": 1})
    with pytest.raises(SpecError, match="kind"):
        parse_stage({"kind": "nope"})
