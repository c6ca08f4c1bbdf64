"""Several outputs from one pass, through the job.

Layers, lengths, types, and the codes of a fitted quantizer.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import docstrings, write_parquet
from tiny_runs import contents, no_session

from embed_ops import Run, embed, load_model, postprocess
from embed_ops.errors import RunError, SpecError
from embed_ops.runs.parquet import vectors_of
from embed_ops.runs.verify.run import verify
from embed_ops.spec.spec import Spec, parse_stage

pytestmark = pytest.mark.usefixtures("engine")

OUTPUTS = [
    {"name": "embedding", "pooling": "mean", "normalize": True},
    {"name": "wide", "layer": "concat(-2:)", "pooling": "max", "dtype": "float16"},
    {"name": "short", "layer": "mean(:)", "pooling": "cls", "dim": 8},
]


def spec_of(model: str, folder: Path, run: str, outputs: list[dict[str, Any]], **encoder: Any) -> Spec:
    """Make a spec over the folder's corpus."""
    source = {"path": str(folder / "corpus"), "column": "text", "keep": ["id"]}
    tree = {
        "source": source,
        "encoder": {"model": model, "outputs": outputs, **encoder},
        "sink": {"path": str(folder / run)},
    }
    return Spec.parse(tree | {"parity": {"rows": 8}, "resources": {"unit_rows": 50}})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 240 docstrings."""
    folder = tmp_path_factory.mktemp("outputs")
    write_parquet(folder / "corpus", docstrings(240), files=2)
    return folder


@pytest.fixture(scope="module")
def three(engine: str, tiny: str, corpus: Path) -> Run:
    """Embed them to three outputs at once."""
    return embed(spec_of(tiny, corpus, "three", OUTPUTS))


@pytest.fixture(scope="module")
def coder(three: Run) -> str:
    """Fit a quantizer on one of them."""
    stage = parse_stage({"kind": "quantize", "to": "int8", "column": "embedding"})
    postprocess(three.path, [stage])
    return f"{three.path}/stages/quantize"


def column(run: Run, name: str) -> np.ndarray[Any, Any]:
    """Read a vector column."""
    return vectors_of(run.open().to_table(columns=[name])[name])


@pytest.mark.slow
def test_one_pass_gives_what_three_give(three: Run, tiny: str, corpus: Path) -> None:
    """Each output has its width and type, and the bits that it has in a run of its own.

    All were compared with the reference.
    """
    assert verify(three.path).ok
    assert {item["output"] for item in three.report["parity"]} == {"embedding", "wide", "short"}
    assert [str(three.open().schema.field(name).type) for name in ("embedding", "wide", "short")] == [
        "fixed_size_list<element: float>[32]",
        "fixed_size_list<element: halffloat>[64]",
        "fixed_size_list<element: float>[8]",
    ]
    for output in OUTPUTS[1:2]:
        name = str(output["name"])
        alone = embed(spec_of(tiny, corpus, f"alone-{name}", [output]))
        np.testing.assert_array_equal(column(alone, name), column(three, name))
        assert alone.report["tokens"] == three.report["tokens"]


@pytest.mark.slow
def test_resumed_and_changed(three: Run, tiny: str, corpus: Path) -> None:
    """A unit that is gone is embedded to the same bytes; another layer is another run."""
    before = contents(Path(three.path))
    next((Path(three.path) / "data").rglob("*.parquet")).unlink()
    again = embed(spec_of(tiny, corpus, "three", OUTPUTS))
    assert again.report["units_skipped"] > 0
    assert contents(Path(three.path)) == before
    embed(spec_of(tiny, corpus, "three", OUTPUTS), session=no_session)
    other = [OUTPUTS[0] | {"layer": 1}, *OUTPUTS[1:]]
    with pytest.raises(RunError, match=r"encoder\.outputs"):
        embed(spec_of(tiny, corpus, "three", other))


@pytest.mark.slow
def test_codes_of_a_quantizer(three: Run, coder: str, tiny: str, corpus: Path) -> None:
    """An int8 output has the codes that the quantize stage gives of the same vectors.

    They stand beside the floats, in files that all can open.
    """
    coded = {"name": "codes", "pooling": "mean", "normalize": True, "dtype": "int8", "quantizer": coder}
    run = embed(spec_of(tiny, corpus, "coded", [OUTPUTS[0], coded]))
    assert verify(run.path).ok
    x, codes = column(run, "embedding"), column(run, "codes")
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes, load_model(coder).transform(x))
    np.testing.assert_array_equal(codes, column(Run(coder), "embedding"))
    assert set(run.report["statistics"]) == {"embedding"}
    files = [str(file) for file in sorted((Path(run.path) / "data").rglob("*.parquet"))]
    first = codes[0].tolist()
    assert list(pd.read_parquet(files[0])["codes"][0]) == first
    assert pl.read_parquet(files[0])["codes"][0].to_list() == first
    assert list(duckdb.read_parquet(files[0]).select("codes").limit(1).fetchall()[0][0]) == first


@pytest.mark.slow
def test_the_quantizer_is_part_of_the_run(
    three: Run, coder: str, tiny: str, corpus: Path, tmp_path: Path
) -> None:
    """A copy of it elsewhere goes on with the run; one of other ranges is refused.

    One that does not fit never starts.
    """
    coded = {"name": "codes", "pooling": "mean", "normalize": True, "dtype": "int8", "quantizer": coder}
    embed(spec_of(tiny, corpus, "bound", [coded]))
    copy = tmp_path / "copy"
    (copy / "model").mkdir(parents=True)
    for file in (Path(coder) / "model").iterdir():
        (copy / "model" / file.name).write_bytes(file.read_bytes())
    embed(spec_of(tiny, corpus, "bound", [coded | {"quantizer": str(copy)}]), session=no_session)
    postprocess(
        three.path,
        [parse_stage({"kind": "quantize", "to": "int8", "column": "embedding", "percentile": 5})],
        output=str(tmp_path / "p"),
    )
    with pytest.raises(RunError, match="quantizer of codes"):
        embed(spec_of(tiny, corpus, "bound", [coded | {"quantizer": str(tmp_path / "p")}]))
    refused = [
        ({"quantizer": three.path}, "no model here"),
        ({"dtype": "uint8"}, "is of a quantize stage to int8, and dtype is uint8"),
        ({"dim": 7}, "takes 32 dimensions, and the output has 7"),
    ]
    for change, says in refused:
        with pytest.raises(SpecError, match=says):
            embed(spec_of(tiny, corpus, "never", [coded | change]), session=no_session)
    assert not (corpus / "never").exists()


@pytest.mark.slow
def test_a_quantizer_that_was_fitted_again(three: Run, tiny: str, corpus: Path, tmp_path: Path) -> None:
    """Another run in the same session has the codes of its own quantizer.

    Though that lies at the same place.
    """
    coded = {
        "name": "codes",
        "pooling": "mean",
        "normalize": True,
        "dtype": "int8",
        "quantizer": str(tmp_path / "q"),
    }
    found = []
    for percentile in (0, 10):
        stage = {"kind": "quantize", "to": "int8", "column": "embedding", "percentile": percentile}
        shutil.rmtree(tmp_path / "q", ignore_errors=True)
        postprocess(three.path, [parse_stage(stage)], output=str(tmp_path / "q"))
        run = embed(spec_of(tiny, corpus, f"again-{percentile}", [coded]))
        found.append(column(run, "codes"))
        np.testing.assert_array_equal(
            found[-1], load_model(str(tmp_path / "q")).transform(column(three, "embedding"))
        )
    assert (found[0] != found[1]).any()


@pytest.mark.slow
def test_a_layer_is_not_compiled(three: Run, tiny: str, corpus: Path) -> None:
    """`compile = "auto"` stays with the plain pass where inner layers are asked for."""
    assert three.header.resolved["compile"] is False
    assert (
        pq.read_schema(next((Path(three.path) / "data").rglob("*.parquet"))).field("wide").type.value_type
        == pa.float16()
    )
