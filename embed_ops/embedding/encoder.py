"""The encoder in memory: values in, vectors out, in the process that asks.

The steps are the job's own (`prepare`, token batches, `gather`, storing), and so are the numbers.
There is no run, and with it no resume and no proof; nothing guards against a row that kills.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa

from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.given import column_of, prompted, slices_of
from embed_ops.embedding.parity import Parity, compare, original_of, reference_of, require
from embed_ops.embedding.settings import Resolved, choices, resolve
from embed_ops.embedding.trial import Volume
from embed_ops.embedding.tuning import settled_with
from embed_ops.embedding.vectors_in_memory import embed_unit, joined, none_of
from embed_ops.encoders import base
from embed_ops.encoders.base import Rejected, dims_of, gather
from embed_ops.encoders.hub.contents import not_run
from embed_ops.encoders.optional import modalities
from embed_ops.encoders.registry import encoder_class, make_encoder
from embed_ops.encoders.runtimes import runtime_of
from embed_ops.engine.bar import Bar
from embed_ops.errors import ModelError, RowsError
from embed_ops.numerics.kinds import Vectors
from embed_ops.sources.contents import listed
from embed_ops.sources.plan import unit_limits
from embed_ops.spec.spec import Spec, parse_encoder

_WHERE = "in memory"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Loaded:
    """A model in this process.

    Attributes:
        encoder: with its weights.
        resolved: how it computes.
    """

    encoder: base.Encoder
    resolved: Resolved


class Encoder:
    """A model that embeds what this process has in memory.

        encoder = Encoder("sentence-transformers/all-MiniLM-L6-v2")
        vectors = encoder.embed(["a text", "another"])

    Weights are loaded at the first call. It can be pickled, and loads again where it is unpickled.
    Close it, or use it in a `with`, to let go of the model.

    Args:
        model: folder, object store prefix, or hub name.
        device: "cpu", "cuda", or "auto": a GPU where torch finds one and the family takes it.
        parity: rows of the first call that are compared with the reference, and vouch for what is
            "auto"; 0: no comparison, and "auto" is float32. A section `[parity]` for other limits.
        threads: CPU threads of the forward pass; None leaves torch's.
        token_budget: padded tokens of a forward pass, or "auto".
        unit_rows: rows whose batches are formed together, as of a run's unit.
        section: fields of `[encoder]`: `family`, `dtype`, `prompt`, `outputs`, `max_tokens`, ...

    Raises:
        SpecError: a field is unknown or has a value that it can't have.
        ModelError: the model can't be used.
    """

    def __init__(
        self,
        model: str,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        parity: int | Mapping[str, Any] = 0,
        threads: int | None = None,
        token_budget: int | Literal["auto"] = "auto",
        unit_rows: int = 16_384,
        **section: Any,
    ) -> None:
        self._asked = {
            "model": model,
            "device": device,
            "parity": parity,
            "threads": threads,
            "token_budget": token_budget,
            "unit_rows": unit_rows,
            **section,
        }
        self._tree = {
            "encoder": {"family": "text", "model": str(model), **section},
            "sink": {"path": _WHERE},
            "parity": {"rows": parity} if isinstance(parity, int) else dict(parity),
            "resources": {"token_budget": token_budget, "unit_rows": unit_rows},
        }
        self._device, self._threads = device, threads
        self._section = parse_encoder(self._tree["encoder"])
        if "node" in encoder_class(self._section).takes:
            raise ModelError(
                f"{model}: a graph is no list of rows: write its tables, and embed them by a run"
            )
        self._specs: dict[str, Spec] = {}
        self._loaded: _Loaded | None = None
        self._prompted: dict[str, base.Encoder] = {}

    def embed(
        self,
        values: Any,
        *,
        prompt: str | Sequence[str] | None = None,
        rejects: bool = False,
        progress: bool | None = None,
    ) -> Any:
        """Embed values, in their order.

        Args:
            values: texts, lists of words, or images (`given.column_of` lists what they may be).
            prompt: text before every row of this call, or the name of one of the model's prompts
                ("query"); a list of them has one for each row; by default that of the encoder.
            rejects: give (vectors, list of `Rejected`), with rows of NaN, instead of an error, for
                rows that have no vector.
            progress: show a bar; by default on a terminal, once a call has taken seconds.

        Returns:
            (rows, dim) float32, or of the type that an output names; of several outputs a dict by
            name. Outputs with a list of vectors for each row are `Ragged`.

        Raises:
            SourceError: the values are of no kind that the model takes, or prompts are not as many.
            RowsError: rows have no vector, and `rejects` is false.
            ParityError: the vectors differ from the reference.
        """
        modality, column = column_of(values, self._takes)
        spec = self._spec(modality)
        at = self._ready(spec, column)
        encoder = at.encoder if prompt is None else self._with_prompt(at.encoder, prompt)
        rows = column if prompt is None or isinstance(prompt, str) else prompted(column, prompt)
        parts: list[dict[str, Vectors]] = []
        refused: list[Rejected] = []
        limits = unit_limits(spec)
        limits = replace(limits, rows=encoder.most_rows(modality, limits.rows))
        with closing(Bar(len(column), progress)) as bar:
            for first, last in slices_of(column, limits):
                vectors, without = embed_unit(spec, encoder, at.resolved, rows[first:last], bar.batch)
                parts.append(vectors)
                refused += [replace(item, row=item.row + first) for item in without]
                bar.unit(last)
        if refused and not rejects:
            raise rows_error(refused, len(column))
        named = joined(parts) if parts else none_of(encoder)
        given: Any = named if len(named) > 1 else next(iter(named.values()))
        return (given, refused) if rejects else given

    def stream(self, batches: Iterable[Any], **options: Any) -> Iterator[tuple[Any, Any]]:
        """Embed batch after batch in constant memory: yield (batch, what `embed` gives of it)."""
        for batch in batches:
            yield batch, self.embed(batch, **options)

    def parity(self, values: Any) -> list[Parity]:
        """Compare the vectors of values with the reference library's, output by output."""
        modality, column = column_of(values, self._takes)
        at = self._ready(self._spec(modality), column)
        prepared = at.encoder.prepare(column)
        budget, rule = at.resolved.token_budget, at.resolved.rule
        runtime = runtime_of(self._section)
        embedded = embed_inputs(at.encoder, prepared.inputs, budget, rule=rule, runtime=runtime)
        vectors = gather(at.encoder, prepared.inputs, embedded.vectors, prepared.documents)
        reference = reference_of(at.encoder, str(self._asked["model"]), column, at.resolved.device, runtime)
        original = original_of(at.encoder, column, at.resolved.device)
        return compare(vectors, prepared.index, reference, original)

    @cached_property
    def _takes(self) -> tuple[str, ...]:
        """The modalities that it takes; where the model's file tells them, it is looked at."""
        spec = self._section
        return tuple(encoder_class(spec).takes) if spec.RUNTIME is None else modalities(make_encoder(spec))

    @property
    def dims(self) -> dict[str, int]:
        """Width of each output's vectors; loads no weights."""
        return dims_of(make_encoder(self._spec(self._takes[0]).encoder).outputs())

    @property
    def resolved(self) -> Resolved | None:
        """How it computes, once it has been used."""
        return None if self._loaded is None else self._loaded.resolved

    @staticmethod
    def stage(model: str, column: str = "text", **options: Any) -> type[Any]:
        """Give the class that `Dataset.map_batches` of Ray Data makes its actors of.

        Arguments as of `ray_stage.encoder_stage`.
        """
        from embed_ops.embedding.ray_stage import encoder_stage

        return encoder_stage(model, column, **options)

    def close(self) -> None:
        """Let go of the model; the next call loads it again."""
        if self._loaded is not None:
            self._loaded, self._prompted = None, {}
            runtime_of(self._section).release_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Encoder], tuple[dict[str, Any]]]:
        return _unpickled, (self._asked,)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._asked.items() if name != "model")
        return f"Encoder({self._asked['model']!r}, {fields})"

    def _spec(self, modality: str) -> Spec:
        """Give the spec of a run that would embed such values."""
        if modality not in self._specs:
            source = {"path": _WHERE, "column": "value", "modality": modality}
            self._specs[modality] = Spec.parse({**self._tree, "source": source})
        return self._specs[modality]

    def _ready(self, spec: Spec, column: pa.Array) -> _Loaded:
        """Load the model, and compare it where that is asked for, at the first call."""
        if self._loaded is None:
            device = runtime_of(spec.encoder)
            own = device.default_device() if spec.encoder.GPUS == "always" else "cpu"
            chosen = own if self._device == "auto" else self._device
            device.require_device(chosen)
            resolved = replace(
                resolve(spec, 0.0 if chosen == "cpu" else 1.0),
                threads_per_replica=self._threads or device.threads(),
            )
            device.use_threads(resolved.threads_per_replica)
            device.choose_kernels(chosen)
            if spec.parity.rows:
                compared = listed(pa.chunked_array([column[: spec.parity.rows]]), spec.source.modality)
                volume = Volume(len(column), 0, 1)
                settled, encoder = settled_with(
                    spec.encoder, resolved, choices(spec) - {"draft"}, spec.parity, compared, volume
                )
                require(settled.parity, spec.parity)
                resolved = settled.resolved
            else:
                encoder = make_encoder(spec.encoder.drafting(resolved.draft))
                encoder.load(resolved.device, resolved.dtype, compiled=resolved.compile)
            if warning := not_run(spec.encoder.model, encoder.describe()):
                _log.warning(warning)
            self._loaded = _Loaded(encoder, resolved)
        return self._loaded

    def _with_prompt(self, encoder: base.Encoder, prompt: str | Sequence[str]) -> base.Encoder:
        """Give the encoder with a prompt for all rows, or the one that takes prompts of rows."""
        of_rows = not isinstance(prompt, str)
        with_prompt = getattr(encoder, "prompted", None)
        if with_prompt is None or (of_rows and isinstance(encoder, base.InWindows)):
            what = " of rows" if of_rows else ""
            raise ModelError(f"{self._asked['model']}: models of this family take no prompt{what}")
        if not isinstance(prompt, str):
            return encoder
        if prompt not in self._prompted:
            self._prompted[prompt] = with_prompt(prompt)
        return self._prompted[prompt]


def rows_error(refused: Sequence[Rejected], rows: int) -> RowsError:
    """Say that rows have no vector, and why the first has none."""
    return RowsError(
        f"{len(refused)} of {rows} rows have no vector; the first is row {refused[0].row}: "
        f"{refused[0].message}. Leave them out, or ask for rejects=True"
    )


def _unpickled(asked: dict[str, Any]) -> Encoder:
    return Encoder(**asked)
