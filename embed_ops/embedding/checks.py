"""What is refused before anything starts: what `embed` and `plan` ask of a spec alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embed_ops.embedding.settings import fingerprint
from embed_ops.embedding.sink import require_apart, require_free_names, require_names
from embed_ops.embedding.storing import quantizers, vector_bytes
from embed_ops.encoders.base import dims_of
from embed_ops.encoders.optional import require_modality
from embed_ops.encoders.registry import make_encoder, modality_of, usable
from embed_ops.engine.progress import Reporter
from embed_ops.errors import RunError
from embed_ops.runs.directory import RunDir
from embed_ops.runs.fingerprint import listing_digest, require_same
from embed_ops.runs.header import FINISHED, RunHeader
from embed_ops.runs.ledger import Ledger
from embed_ops.runs.writer import known_header
from embed_ops.sources.corpus import Corpus, open_edges
from embed_ops.sources.plan import Plan, unit_limits
from embed_ops.spec.source import GraphSourceSpec, SourceSpec
from embed_ops.spec.spec import Spec
from embed_ops.stages.registry import require_possible
from embed_ops.storage.files import check_space, locate

_TOKEN_BYTES = 5
"""Bytes of a token or word of text, where only reading would tell: rather too many."""
_FEW_FILES = 1_000
"""Files that are quickly looked into twice."""


@dataclass(frozen=True)
class Checked:
    """A spec, its corpus and its run directory, which go together.

    Attributes:
        run: the directory; `header`: what an earlier command has left there, None: nothing.
        corpus: the files; `plan`: of them, and of an earlier command.
        stale: source files whose units are to be made again.
        fingerprint: what decides the vectors; empty where no model was looked at.
    """

    run: RunDir
    header: RunHeader | None
    corpus: Corpus
    plan: Plan
    stale: tuple[str, ...]
    fingerprint: dict[str, Any]


def check(spec: Spec, reporter: Reporter, *, model: bool = True) -> Checked:
    """Refuse what could not be embedded as the spec says. Nothing is written.

    Args:
        spec: of the run.
        reporter: told what takes its time: listing, the model, a look into the files.
        model: look at the model too; without it nothing is compared with what is in the run
            directory, and the plan is that of a new run.

    Raises:
        SourceError, SpecError, ModelError: the input is unusable, or the run would lie in it.
        RunError: the run directory is of another spec, or source files have changed.
    """
    run = RunDir(locate(spec.sink.path))
    reporter.doing(f"listing the files of {', '.join(spec.source.paths)}")
    corpora = _open_corpora(spec.source)
    require_apart(spec, run.root, corpora)
    header = known_header(run)
    corpus, *of_edges = corpora
    fingerprint_now: dict[str, Any] = {}
    if model:
        reporter.doing(f"looking at the model {spec.encoder.model}")
        encoder = make_encoder(spec.encoder)
        require_modality(encoder, spec.encoder.model, spec.source.modality)
        edges = listing_digest(of_edges[0].files) if of_edges else None
        with usable(spec.encoder):
            of_model = encoder.fingerprint() | quantizers(spec.encoder, encoder)
        fingerprint_now = fingerprint(spec, of_model, edges)
        if header is not None:
            require_same(spec.sink.path, header.fingerprint, fingerprint_now)
    stale: tuple[str, ...] = ()
    reporter.doing(f"looking into {len(corpus.files):,} file{'' if len(corpus.files) == 1 else 's'}")
    if header is None or not model:
        require_free_names(spec, corpus)
        plan = corpus.plan()
    else:
        plan, stale = _updated_plan(run, corpus, spec)
    require_names(run.root, plan, unit_limits(spec))
    return Checked(run, header, corpus, plan, stale, fingerprint_now)


def require_space(spec: Spec, run: RunDir, stock: Ledger) -> None:
    """Refuse a disk that is too small for the vectors still to come.

    Unknown row counts are guessed from the bytes of the files.

    Raises:
        StorageError: names both figures.
    """
    of_vectors, of_token = vector_bytes(spec, make_encoder(spec.encoder))
    pieces = [piece for work in stock.works for piece in work.span.pieces]
    of_row = modality_of(spec).row_bytes
    rows = (
        stock.rows_left
        if stock.rows_left is not None
        else sum(piece.rows or piece.bytes // of_row for piece in pieces)
    )
    needed = rows * of_vectors + sum(piece.bytes for piece in pieces) // _TOKEN_BYTES * of_token
    check_space(run.root, needed)


def check_stages(spec: Spec) -> None:
    """Refuse stages that the rows of a corpus could not fit, before anything is embedded.

    Of many files it is left to the stages: each would be looked into once more.

    Raises:
        SourceError, ModelError: as `check`.
        StageError: names the stage, and what it asks for.
    """
    corpus = Corpus.open(spec.source)
    if spec.stage and len(corpus.files) <= _FEW_FILES:
        require_stages(spec, corpus.plan())


def require_stages(spec: Spec, plan: Plan) -> None:
    """Refuse stages that the rows of a plan could not fit, where it is known how many there are.

    Raises:
        StageError: names the stage, and what it asks for.
    """
    if spec.stage and plan.rows is not None:
        widths = list(dims_of(make_encoder(spec.encoder).outputs()).values())
        require_possible(spec.stage, plan.rows, widths[0] if len(widths) == 1 else None)


def _open_corpora(source: SourceSpec) -> list[Corpus]:
    """List the files of the source, and behind them those of a graph's edges."""
    if not isinstance(source, GraphSourceSpec):
        return [Corpus.open(source)]
    if source.features_run is not None:
        _require_finished(source.features_run)
    return [Corpus.open(source), open_edges(source)]


def _updated_plan(run: RunDir, corpus: Corpus, spec: Spec) -> tuple[Plan, tuple[str, ...]]:
    """Give the run's plan with the files that are new, and the files whose units are stale.

    Raises:
        RunError: a graph has new files of nodes.
    """
    planned = run.read_plan()
    plan, stale = corpus.update(planned)
    if isinstance(spec.source, GraphSourceSpec) and plan is not planned:
        raise RunError(
            f"{spec.sink.path}: there are new node files: they change the vectors of nodes that are "
            "done; choose another sink.path"
        )
    return plan, stale


def _require_finished(path: str) -> None:
    """Refuse features out of a run that is no run, or not finished.

    Raises:
        RunError: says which.
    """
    header = RunDir(locate(path)).read_header()
    if header is None or header.status != FINISHED:
        what = "no run directory" if header is None else f"a run that is {header.status}"
        raise RunError(f"source.features_run {path}: {what}; finish it first, or give a finished one")
