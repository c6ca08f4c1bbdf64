"""The encoder as a stage of a Ray Data pipeline that is the user's own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa

from embed_ops.embedding.encoder import Encoder, rows_error
from embed_ops.numerics.kinds import kind_in_memory
from embed_ops.numerics.ragged import Ragged

REJECT = "reject"


def encoder_stage(model: str, column: str = "text", *, rejects: bool = False, **options: Any) -> type[Any]:
    """Give the class that `Dataset.map_batches` makes its actors of: each loads the model once.

        dataset.map_batches(Encoder.stage("..."), batch_size=1024, concurrency=4, num_gpus=1)

    Vectors become columns named as the encoder's outputs ("embedding"). Batches may be pyarrow
    tables, which get fixed-size lists, pandas frames or dicts of numpy arrays.

    Args:
        model: as of `Encoder`.
        column: of texts, lists of words or images.
        rejects: rows without a vector get NaN, and why in the column "reject"; by default they end
            the pipeline with an error.
        options: of `Encoder`.
    """

    class EncoderStage:
        """Embeds one column of each batch."""

        def __init__(self) -> None:
            self._encoder = Encoder(model, **options)

        def __call__(self, batch: Any) -> Any:
            """Add the columns of vectors to a batch."""
            values = batch.column(column) if isinstance(batch, pa.Table) else batch[column]
            vectors, refused = self._encoder.embed(values, rejects=True, progress=False)
            if refused and not rejects:
                raise rows_error(refused, len(values))
            named = vectors if isinstance(vectors, dict) else {next(iter(self._encoder.dims)): vectors}
            added: dict[str, Any] = dict(named)
            if rejects:
                reasons: list[str | None] = [None] * len(values)
                for item in refused:
                    reasons[item.row] = f"{item.reason}: {item.message}"
                added[REJECT] = reasons
            for name, given in added.items():
                batch = _with_column(batch, name, given)
            return batch

    return EncoderStage


def _with_column(batch: Any, name: str, values: Any) -> Any:
    """Add a column to a batch of any form that Ray Data has."""
    if isinstance(batch, pa.Table):
        if isinstance(values, list):
            return batch.append_column(name, pa.array(values, pa.string()))
        return batch.append_column(name, kind_in_memory(values).column(values, str(_dtype(values))))
    if isinstance(values, Ragged):
        values = [values.values[first:last] for first, last in pairwise(values.offsets)]
    if isinstance(batch, dict):
        return {**batch, name: values}
    return batch.assign(**{name: values if isinstance(values, list) else list(values)})


def _dtype(values: Any) -> Any:
    return values.values.dtype if isinstance(values, Ragged) else values.dtype
