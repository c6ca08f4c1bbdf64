"""What a run will take: a sample of its rows goes through the whole job, and the rest is multiplication.

The sample is taken in many places, spread over all spans, and written to a folder of its own;
`embed` runs over it as it would over the corpus, with the same model, session and choices. Rates
are those of the replicas' own time, which does not depend on how short a run is.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.embedding.driver import embed
from embed_ops.encoders.base import dims_of
from embed_ops.encoders.hub.prefix import cache_folder
from embed_ops.encoders.registry import make_encoder
from embed_ops.engine.progress import Reporter, Silent
from embed_ops.engine.session import OpenSession, default_session
from embed_ops.errors import SourceError, SpecError
from embed_ops.runs.run import Run
from embed_ops.schema import CONTENT, GRAPH, REASON
from embed_ops.sources.corpus import Corpus
from embed_ops.sources.plan import Piece, Plan, Span, estimated_units, unit_limits
from embed_ops.sources.rows import Rows
from embed_ops.sources.units import Cursor
from embed_ops.spec.spec import Spec
from embed_ops.storage.location import full_address

SAMPLE_ROWS = 1_024
_PLACES = 64
_UNITS = 8
"""Units of the sample's run: enough that every replica has some."""
_SMALL_FILE, _MANY_SMALL = 1 << 20, 1_000
_LARGE_GROUP = 512 << 20
_LONG_TAIL = 0.02


@dataclass(frozen=True)
class Prediction:
    """What is expected of a run.

    Attributes:
        rows: that get a vector; `rejects`, `filtered`: that do not. `exact_rows`: the number of
            records is known.
        tokens: of distinct rows; `truncated`: rows that are cut.
        lengths: of rows in tokens: quantiles by name.
        seconds: of the whole command; `startup`: of these, before the first unit.
        units: of the run; `replicas`: that will share them.
        bytes: of the vectors by stored type; `memory`: greatest resident bytes by kind of process.
        cost: at `price` an hour, None without one.
        warnings: sentences.
        sampled: rows that were embedded.
        resolved: the settings that "auto" became.
    """

    rows: int
    rejects: int
    filtered: int
    exact_rows: bool
    tokens: int
    truncated: int
    lengths: dict[str, int]
    seconds: float
    startup: float
    units: int
    replicas: int
    bytes: dict[str, int]
    memory: dict[str, int]
    cost: float | None
    warnings: list[str]
    sampled: int
    resolved: dict[str, Any]


@dataclass(frozen=True)
class _Drawn:
    contents: list[Any]
    records: int
    filtered: int
    faulty: int
    bytes: int
    """Of the files, as far as positions tell; of the contents where they do not."""


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
    drawn = _draw(corpus, plan, most, spec.seed)
    if not drawn.contents:
        raise SourceError(
            f"{', '.join(spec.source.paths)}: none of {drawn.records} records that were looked at can be "
            "embedded"
        )
    reporter.say(
        f"embedding a sample of {len(drawn.contents):,} rows from {min(_PLACES, drawn.records):,} places"
    )
    with tempfile.TemporaryDirectory() as folder:
        report, lengths = _sample_run(spec, drawn.contents, Path(folder), session, reporter)
    found = _scaled(spec, plan, drawn, report, lengths, price)
    _keep(spec, found)
    return found


def _draw(corpus: Corpus, plan: Plan, most: int, seed: int) -> _Drawn:
    """Read some records in many places.

    A piece is entered at a random position where its format allows that.
    """
    pieces = [piece for span in plan.spans for piece in span.pieces]
    sizes = np.array([max(1, piece.bytes) for piece in pieces], np.float64)
    random = np.random.default_rng(seed)
    if plan.rows is not None and plan.rows <= 2 * most:
        places = [(piece, piece.begin, 1 << 62) for piece in pieces]
    else:
        points = (np.arange(_PLACES) + random.random(_PLACES)) / _PLACES * sizes.sum()
        chosen = np.searchsorted(np.cumsum(sizes), points)
        places = [
            (pieces[number], _entry(corpus, pieces[number], random), -(-most // _PLACES))
            for number in chosen.tolist()
        ]
    files = {file.name: corpus.place(file) for file in plan.files}
    rows = Rows(corpus.spec, plan.columns)
    contents: list[Any] = []
    records = filtered = faulty = size = 0
    for piece, begin, wanted in places:
        span = Span(0, (Piece(piece.source, begin, piece.end, None, piece.bytes),))
        cursor = Cursor(corpus.source, rows, files, span)
        left = wanted
        while left > 0 and not cursor.exhausted and (chunk := cursor.peek()) is not None:
            before = cursor.position
            taken = cursor.take(min(len(chunk), left))
            fine = taken.kept & taken.table.column(REASON).is_null().to_numpy()
            found = taken.table.column(CONTENT).filter(pa.array(fine)).drop_null().to_pylist()
            contents += found
            records, left = records + len(taken), left - len(taken)
            filtered += int((~taken.kept).sum())
            faulty += int(taken.kept.sum()) - len(found)
            size += (
                cursor.position - before if corpus.spec.kind in ("jsonl", "text") else int(taken.bytes.sum())
            )
    return _Drawn(contents, records, filtered, faulty, size)


def _entry(corpus: Corpus, piece: Piece, random: np.random.Generator) -> int:
    """Choose where in a piece to begin."""
    place = next(corpus.place(file) for file in corpus.files if file.name == piece.source)
    end = (
        piece.end if piece.end is not None else (piece.begin + piece.rows if piece.rows is not None else None)
    )
    if (
        end is None
        or corpus.spec.kind not in ("parquet", "jsonl", "text")
        or not corpus.source.seekable(place)
    ):
        return piece.begin
    return int(piece.begin + random.random() * 0.9 * (end - piece.begin))


def _sample_run(
    spec: Spec, contents: Sequence[Any], folder: Path, session: OpenSession, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, int]]:
    """Embed the sample by the job; gives its report, and quantiles of the lengths."""
    kind = {"image": pa.binary(), "words": pa.list_(pa.string())}.get(spec.source.modality, pa.string())
    column = pa.array(contents, kind)
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
    drawn: _Drawn,
    report: dict[str, Any],
    lengths: dict[str, int],
    price: float | None,
) -> Prediction:
    """Multiply what was found of the sample up to the corpus."""
    records = (
        plan.rows
        if plan.rows is not None
        else round(plan.bytes / max(1.0, drawn.bytes / max(1, drawn.records)))
    )
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
    found = []
    small = sum(file.size < _SMALL_FILE for file in plan.files)
    if small >= _MANY_SMALL:
        found.append(
            f"{small:,} of {len(plan.files):,} files are smaller than 1 MiB: opening them takes longer "
            "than reading; join them"
        )
    large = [piece for span in plan.spans for piece in span.pieces if piece.bytes > _LARGE_GROUP]
    if large:
        found.append(
            f"{large[0].source} has a stretch of {large[0].bytes >> 20:,} MiB that one reader must read; "
            "write smaller row groups"
        )
    cut = report["truncated"] / max(1, report["rows"])
    if cut > _LONG_TAIL:
        found.append(
            f"{cut:.0%} of the rows are longer than the model takes, and will be cut: encoder.window "
            "takes them whole"
        )
    if units < 4 * replicas:
        found.append(
            f"about {units} units for {replicas} replicas: some will stand idle; lower resources.unit_rows"
        )
    if (
        report["resolved"]["dtype"] == "float32"
        and report["resolved"]["device"] == "cpu"
        and rows > 1_000_000
    ):
        found.append(
            "bfloat16 is no faster than float32 on these processors, which emulate it: others may halve "
            "the time"
        )
    return found


def _file(address: str) -> Path:
    return (
        cache_folder()
        / "predictions"
        / f"{hashlib.sha256(full_address(address).encode()).hexdigest()[:32]}.json"
    )


def _keep(spec: Spec, found: Prediction) -> None:
    """Keep a prediction on this machine for the report of the run.

    Where it can't be kept, the report says nothing of it.
    """
    with suppress(OSError):
        place = _file(spec.sink.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(found)), encoding="utf-8")
        temporary.replace(place)


def kept_prediction(run: str) -> dict[str, Any] | None:
    """Give what was predicted on this machine of the run at an address, None where nothing was."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(_file(run).read_text(encoding="utf-8"))
        return found
    return None


def compared(run: str, report: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Hold a report against what was predicted: (what, predicted, found, off by).

    Empty where there is nothing to compare.
    """
    predicted = kept_prediction(run)
    if predicted is None or not report.get("seconds") or report.get("units_skipped"):
        return []
    pairs = [
        ("rows", predicted["rows"], report["rows"]),
        ("rejects", predicted["rejects"], report["rejected"]),
        ("tokens", predicted["tokens"], report["tokens"]),
        ("seconds", predicted["seconds"], report["seconds"]["total"]),
        ("units", predicted["units"], report["units"]),
    ]
    return [
        (name, f"{was:,.0f}", f"{is_now:,.0f}", f"{was / is_now - 1:+.0%}" if is_now else "")
        for name, was, is_now in pairs
    ]
