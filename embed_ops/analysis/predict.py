"""What a run will take: a sample of its rows goes through the whole job.

The rest is multiplication. The sample is taken in many places, spread over all spans, and written
to a folder of its own; `embed` runs over it as it would over the corpus, with the same model,
session and choices. Rates are those of the replicas' own time, which does not depend on how short a
run is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.analysis.drawing import PLACES, Drawn, draw
from embed_ops.analysis.prediction import Prediction, keep
from embed_ops.embedding.driver import embed
from embed_ops.encoders.base import dims_of
from embed_ops.encoders.registry import make_encoder
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.engine.session import OpenSession, default_session
from embed_ops.errors import SourceError, SpecError
from embed_ops.runs.run import Run
from embed_ops.schema import GRAPH
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Plan, estimated_units, unit_limits
from embed_ops.spec.spec import Spec

SAMPLE_ROWS = 1_024
_UNITS = 8
"""Units of the sample's run: enough that every replica has some."""
_SMALL_FILE, _MANY_SMALL = 1 << 20, 1_000
_LARGE_GROUP = 512 << 20
_LONG_TAIL = 0.02


def predict(
    spec: Spec,
    *,
    price: float | None = None,
    most: int = SAMPLE_ROWS,
    session: OpenSession = default_session,
    reporter: Reporter | None = None,
) -> Prediction:
    """Predict rows, tokens, time, cost and size of a run, and keep that for its report.

    Args:
        spec: of the run.
        price: of an hour on the machines that will run it.
        most: rows of the sample.
        session: opens the engine.
        reporter: told what is done.

    Raises:
        SourceError, ModelError, SpecError: the input is unusable, or a graph.
        ParityError: the vectors differ from the reference.
    """
    if spec.source.kind == GRAPH:
        raise SpecError(
            "a graph is embedded layer by layer, over all of its edges: a sample of its nodes would tell "
            "nothing of its time"
        )
    reporter = reporter or Silent()
    corpus = Corpus.open(spec.source)
    plan = corpus.plan()
    drawn = draw(corpus, plan, most, spec.seed)
    if not drawn.contents:
        raise SourceError(
            f"{', '.join(spec.source.paths)}: none of {drawn.records} records that were looked at can be "
            "embedded"
        )
    reporter.say(f"a sample of {len(drawn.contents):,} rows from {min(PLACES, drawn.records):,} places")
    with tempfile.TemporaryDirectory() as folder:
        report, lengths = _sample_run(spec, drawn.contents, Path(folder), session, reporter)
    prediction = _scaled(spec, plan, drawn, report, lengths, price)
    keep(spec.sink.path, prediction)
    return prediction


def about_rows(corpus: Corpus, plan: Plan, seed: int = 0) -> int:
    """Give the records of a corpus; where only reading would tell, about so many, from a few."""
    return plan.rows if plan.rows is not None else _records(plan, draw(corpus, plan, PLACES, seed))


def _records(plan: Plan, drawn: Drawn) -> int:
    return round(plan.bytes / max(1.0, drawn.bytes / max(1, drawn.records)))


def _sample_run(
    spec: Spec, contents: Sequence[Any], folder: Path, session: OpenSession, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, int]]:
    """Embed the sample by the job; gives its report, and quantiles of the lengths."""
    kinds = {"image": pa.binary(), "words": pa.list_(pa.string()), "tensor": None}
    column = pa.array(contents, kinds.get(spec.source.modality, pa.string()))
    (folder / "corpus").mkdir()
    pq.write_table(pa.table({"content": column}), folder / "corpus" / "sample.parquet")
    source = {
        "kind": "parquet",
        "path": str(folder / "corpus"),
        "column": "content",
        "modality": spec.source.modality,
    }
    tree = spec.model_dump(mode="json", exclude={"stage", "source", "sink"})
    tree |= {
        "source": source,
        "sink": {"path": str(folder / "run"), "dtype": spec.sink.dtype},
        "max_reject_fraction": 1.0,
    }
    tree["encoder"] = {**tree["encoder"], "targets_column": None}
    tree["resources"]["unit_rows"] = max(1, -(-len(contents) // _UNITS))
    run: Run = embed(Spec.parse(tree | {"abort_reject_fraction": 1.0}), session=session, reporter=reporter)
    encoder = make_encoder(spec.encoder)
    prepared = encoder.prepare(column)
    lengths = np.sort(encoder.lengths(prepared.inputs))
    told = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
    quantiles = (
        {name: int(lengths[min(len(lengths) - 1, int(share * len(lengths)))]) for name, share in told.items()}
        if len(lengths)
        else {}
    )
    return run.report | {"dims": dims_of(encoder.outputs())}, quantiles


def _scaled(
    spec: Spec,
    plan: Plan,
    drawn: Drawn,
    report: dict[str, Any],
    lengths: dict[str, int],
    price: float | None,
) -> Prediction:
    """Multiply what was found of the sample up to the corpus."""
    records = plan.rows if plan.rows is not None else _records(plan, drawn)
    embeddable = records * len(drawn.contents) / max(1, drawn.records)
    share = report["rows"] / max(1, len(drawn.contents))
    rows = round(embeddable * share)
    per_row = report["tokens"] / max(1, report["rows"])
    seconds, replicas = report["seconds"], max(1, report["replicas"])
    units = sum(estimated_units(span, unit_limits(spec)) for span in plan.spans)
    replicas_then = max(1, min(replicas, units))
    work = rows * seconds["forward"] / max(1, report["rows"])
    # Units are not divided: at the end some replica waits for another, half a unit on average.
    steady = work / replicas_then + 0.5 * work / max(1, units)
    startup = seconds["startup"] or 0.0
    ending = max(0.0, seconds["total"] - startup - seconds["steady"])
    total = startup + steady + ending
    dims = sum(report["dims"].values())
    return Prediction(
        rows=rows,
        rejects=round(records * drawn.faulty / max(1, drawn.records) + embeddable * (1 - share)),
        filtered=round(records * drawn.filtered / max(1, drawn.records)),
        exact_rows=plan.rows is not None,
        tokens=round(rows * per_row),
        truncated=round(rows * report["truncated"] / max(1, report["rows"])),
        lengths=lengths,
        seconds=total,
        startup=startup,
        units=units,
        replicas=replicas_then,
        bytes={
            kind: round(rows * dims * size) for kind, size in (("float32", 4), ("float16", 2), ("int8", 1))
        },
        memory=report["peak_memory"],
        cost=None if price is None else price * total / 3600,
        warnings=_warnings(plan, units, replicas, report, rows),
        sampled=len(drawn.contents),
        resolved=report["resolved"],
    )


def _warnings(plan: Plan, units: int, replicas: int, report: dict[str, Any], rows: float) -> list[str]:
    """Word what would make the run slower or worse than it need be."""
    warnings = []
    small = sum(file.size < _SMALL_FILE for file in plan.files)
    if small >= _MANY_SMALL:
        warnings.append(
            f"{small:,} of {len(plan.files):,} files are smaller than 1 MiB: opening them takes longer "
            "than reading; join them"
        )
    large = [piece for span in plan.spans for piece in span.pieces if piece.bytes > _LARGE_GROUP]
    if large:
        warnings.append(
            f"{large[0].source} has a stretch of {large[0].bytes >> 20:,} MiB that one reader must read; "
            "write smaller row groups"
        )
    cut = report["truncated"] / max(1, report["rows"])
    if cut > _LONG_TAIL:
        warnings.append(
            f"{cut:.0%} of the rows are longer than the model takes, and will be cut: encoder.window "
            "takes them whole"
        )
    if units < 4 * replicas:
        warnings.append(
            f"about {units} units for {replicas} replicas: some will stand idle; lower resources.unit_rows"
        )
    if (
        report["resolved"]["dtype"] == "float32"
        and report["resolved"]["device"] == "cpu"
        and rows > 1_000_000
    ):
        warnings.append(
            "bfloat16 is no faster than float32 on these processors, which emulate it: others may halve "
            "the time"
        )
    return warnings
