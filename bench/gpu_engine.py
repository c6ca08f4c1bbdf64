"""A replica's part alone: tokens or images that are ready, through the model, in one process.

Beside it sentence-transformers on the same texts, and plain padded transformers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from gpu_models import IMAGES, SHAPES, texts_of, write_image_model, write_text_model
from images import write_photographs

from embed_ops.embedding.batching import RULES, BatchRule
from embed_ops.embedding.forward import embed_inputs
from embed_ops.embedding.parity import compare_outputs
from embed_ops.encoders.base import Encoder
from embed_ops.encoders.device import (
    busy_clock,
    choose_kernels,
    gemm_flops_per_second,
    release_memory,
    wait_for,
)
from embed_ops.encoders.registry import make_encoder
from embed_ops.spec.spec import parse_encoder

_REPEATS = 2
_COMPARED = 64
_ST_BATCHES = (64, 256, 1024)
_PLAIN_BATCH = 256


@dataclass(frozen=True)
class Place:
    """Where to measure, and how much.

    Attributes:
        device: "cuda" or "cpu"; `dtype`: of the forward passes.
        rows: texts of docstrings' lengths; an eighth as many have 512 tokens.
        images: how many.
        folder: for files; `tokenizer`: folder of one.
        small: models and batches of a trial.
    """

    device: str
    dtype: str
    rows: int
    images: int
    folder: Path
    tokenizer: Path
    small: bool

    def seconds(self, call: Callable[[], Any]) -> float:
        """Time a call that has run once before: the faster of two."""
        call()
        taken = []
        for _ in range(_REPEATS):
            wait_for(self.device)
            began = time.perf_counter()
            call()
            wait_for(self.device)
            taken.append(time.perf_counter() - began)
        return min(taken)

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets to try."""
        return (512,) if self.small else (65_536, 262_144)


@dataclass(frozen=True)
class Side:
    """One way of ours to batch.

    Attributes:
        attention: of the encoder; `rule`: of batches; `budget`: positions.
        compiled: through torch.compile.
    """

    attention: str
    rule: BatchRule
    budget: int
    compiled: bool = False


def engine(name: str, place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure one model: the kind of input and the side, and its figures, one after the other."""
    choose_kernels(place.device)
    gemm = gemm_flops_per_second(place.device, place.dtype)
    if name == IMAGES:
        yield "images", {"gemm_flops_per_second": gemm, **_of_images(place, gemm)}
        return
    for lengths, rows in (("docstrings", place.rows), ("512", place.rows // 8)):
        for side, figure in _of_texts(name, lengths, max(8, rows), place, gemm):
            yield f"{lengths}, {side}", {"gemm_flops_per_second": gemm, **figure}


def _of_texts(
    name: str, lengths: str, rows: int, place: Place, gemm: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    texts, limit = texts_of(lengths, rows)
    model = write_text_model(name, place.folder / lengths, place.tokenizer, small=place.small)
    sides = {f"padded {budget}": Side("padded", RULES["cuda"], budget) for budget in place.budgets}
    sides["padded, waste cap"] = Side("padded", RULES["cpu"], place.budgets[0])
    sides |= {f"packed {budget}": Side("packed", RULES["packed"], budget) for budget in place.budgets}
    if name == "minilm" and place.device != "cpu":
        sides["compiled"] = Side("padded", RULES["cuda"], place.budgets[0], compiled=True)
    column = pa.array(texts)
    inputs = make_encoder(parse_encoder({"model": str(model), "max_tokens": limit})).prepare(column).inputs
    tokens = pc.sum(pc.list_value_length(inputs.column("tokens"))).as_py()
    for side, asked in sides.items():
        tree = {"model": str(model), "max_tokens": limit, "attention": asked.attention}
        yield side, _unless_it_fails(lambda: _one(tree, asked, inputs, column, place, gemm))  # noqa: B023
    for side, peer in _PEERS.items():
        yield (
            side,
            _unless_it_fails(lambda: {"per_second": tokens / peer(model, texts, limit, place)}),  # noqa: B023
        )


def _unless_it_fails(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure one side; its failure is what is found, and must not end the others."""
    try:
        return call()
    except Exception as error:
        release_memory()
        return {"failed": repr(error)[:2000]}


def _one(
    tree: Mapping[str, Any], side: Side, inputs: pa.Table, column: pa.Array, place: Place, gemm: float
) -> dict[str, Any]:
    """Measure one side: positions per second, share of the product rate, closeness to float32."""
    encoder = make_encoder(parse_encoder(tree))
    encoder.load(place.device, place.dtype, compiled=side.compiled)
    clock, sizes = busy_clock(place.device), encoder.lengths(inputs)

    def call() -> None:
        embed_inputs(encoder, inputs, side.budget, rule=side.rule, clock=clock)

    seconds = place.seconds(call)
    before = 0.0 if clock is None else clock.seconds
    began = time.perf_counter()
    call()
    whole = time.perf_counter() - began
    tokens, useful = int(sizes.sum()), encoder.flops(sizes)
    return {
        "tokens": tokens,
        "per_second": tokens / seconds,
        "inputs_per_second": len(inputs) / seconds,
        "share_of_gemm": useful / seconds / gemm,
        "device_busy": None if clock is None else (clock.seconds - before) / whole,
        "parity": _parity(encoder, tree, side, column[:_COMPARED], place),
    }


def _parity(
    encoder: Encoder, tree: Mapping[str, Any], side: Side, column: pa.Array, place: Place
) -> dict[str, float]:
    """Compare the first rows with the reference library in float32."""
    prepared = encoder.prepare(column)
    vectors = embed_inputs(encoder, prepared.inputs, side.budget, rule=side.rule).vectors
    reference = make_encoder(parse_encoder(tree)).reference(column, place.device)
    (compared,) = compare_outputs(vectors, prepared.index, reference)
    return {"mean": compared.mean, "min": compared.min}


def _sentence_transformers(model: Path, texts: Sequence[str], limit: int, place: Place) -> float:
    """Encode with the batch size that is fastest on an eighth of the texts; gives the seconds."""
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, place.dtype), "attn_implementation": "sdpa"}
    loaded = SentenceTransformer(str(model), device=place.device, model_kwargs=options)
    loaded.max_seq_length = limit
    some = list(texts[: max(8, len(texts) // 8)])
    seconds = {}
    for size in (8,) if place.small else _ST_BATCHES:
        loaded.encode(some[:64], batch_size=size)
        began = time.perf_counter()
        loaded.encode(some, batch_size=size)
        seconds[size] = time.perf_counter() - began
    best = min(seconds, key=lambda size: seconds[size])
    return place.seconds(lambda: loaded.encode(list(texts), batch_size=best))


def _transformers(model: Path, texts: Sequence[str], limit: int, place: Place) -> float:
    """Run tokenized, sorted and padded batches, and take means; gives the seconds."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModel.from_pretrained(model, dtype=getattr(torch, place.dtype)).to(place.device).eval()
    by_length, size = sorted(texts, key=len, reverse=True), 8 if place.small else _PLAIN_BATCH
    cut: dict[str, Any] = {"padding": True, "truncation": True, "max_length": limit}
    firsts = range(0, len(by_length), size)
    batches = [tokenizer(by_length[first : first + size], return_tensors="pt", **cut) for first in firsts]

    @torch.inference_mode()
    def call() -> None:
        for batch in batches:
            rows = batch.to(place.device)
            hidden, mask = loaded(**rows).last_hidden_state, rows["attention_mask"].unsqueeze(-1)
            ((hidden * mask).sum(1) / mask.sum(1)).float().cpu().numpy()

    return place.seconds(call)


_PEERS = {
    "sentence-transformers with its tokenizer": _sentence_transformers,
    "padded transformers": _transformers,
}


def _of_images(place: Place, gemm: float) -> dict[str, Any]:
    model = write_image_model(place.folder, small=place.small)
    files = sorted(write_photographs(place.folder, min(64, place.images)).rglob("*.jpg"))
    # Decoding is not the replica's part: few photographs, each with a byte of its own behind its
    # end, are as many inputs as are asked for.
    contents = [
        files[number % len(files)].read_bytes() + number.to_bytes(4, "little") for number in range(len(files))
    ]
    tree = {"family": "image", "model": str(model)}
    encoder = make_encoder(parse_encoder(tree))
    prepared = encoder.prepare(pa.array(contents, pa.binary()))
    inputs = pa.concat_tables([prepared.inputs] * max(1, place.images // len(prepared.inputs)))
    encoder.load(place.device, place.dtype)
    figures: dict[str, Any] = {}
    for budget in place.budgets:
        seconds = place.seconds(lambda: embed_inputs(encoder, inputs, budget, rule=RULES["cuda"]))  # noqa: B023
        useful = encoder.flops(encoder.lengths(inputs))
        figures[f"padded {budget}"] = {
            "inputs_per_second": len(inputs) / seconds,
            "share_of_gemm": useful / seconds / gemm,
        }
    side = Side("padded", RULES["cuda"], place.budgets[0])
    figures["parity"] = _parity(encoder, tree, side, pa.array(contents[:8], pa.binary()), place)
    return figures


MODELS = (*SHAPES, IMAGES)
