"""Nodes of a graph: what the main job asks of their model.

The layers themselves run over the whole graph (`embedding/graph`).

Importing this module imports no torch: workers that read call `prepare` only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.base import TEXT, Modality, Output, Prepared, Rejected, dims_of, outputs_of
from embed_ops.encoders.graph.config import GraphConfig
from embed_ops.encoders.graph.config_file import read_config
from embed_ops.encoders.hub import folder as folders
from embed_ops.errors import ModelError
from embed_ops.schema import Reason
from embed_ops.spec.encoder import GraphEncoderSpec, OutputSpec

X = "x"
"""Column of the inputs: the features."""
UNIT_BYTES = 64 << 20


class GraphEncoder:
    """GraphSAGE, GAT, GATv2 and GCN.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
    """

    # Nodes go through the model in tiles of a fixed size.
    takes: ClassVar[Mapping[str, Modality]] = {
        "node": Modality(200, dict.fromkeys(("cpu", "cuda"), 1_024), TEXT.choices)
    }

    def __init__(self, spec: GraphEncoderSpec) -> None:
        self._spec = spec
        self._folder = folders.locate_model(spec.model, spec.revision, spec.trust_remote_code)
        self.config: GraphConfig = read_config(self._folder.path)
        self._columns = spec.outputs or (OutputSpec(),)
        for column in self._columns:
            if not -1 <= column.layer_number <= self.config.num_layers:
                raise ModelError(
                    f"{spec.model}: output {column.name!r} asks for layer {column.layer_number} of "
                    f"{self.config.num_layers}"
                )

    def prepare(self, column: pa.Array) -> Prepared:
        """Check a column of nodes (struct of id, x, chosen): inputs have `x`, fixed-size lists.

        One for each row that is fine.
        """
        features = column.field("x")
        faults = [
            _null(column.field("id"), "the id is null"),
            _null(features, "the features are null"),
            self._wrong_width(features),
        ]
        lengths = pc.fill_null(pc.list_value_length(features), -1).to_numpy(zero_copy_only=False)
        right = np.flatnonzero(lengths == self.config.in_channels)
        values = _values(features.take(pa.array(right)), self.config.in_channels)
        faults.append(_non_finite(values, right))
        rejects: dict[int, Rejected] = {}
        for fault in faults:
            for reject in fault:
                rejects.setdefault(reject.row, reject)
        bad = np.zeros(len(column), np.bool_)
        bad[list(rejects)] = True
        index = np.where(bad, -1, np.cumsum(~bad) - 1).astype(np.int32)
        kept = values[~bad[right]]
        inputs = pa.table(
            {X: pa.FixedSizeListArray.from_arrays(pa.array(kept.ravel()), self.config.in_channels)}
        )
        return Prepared(
            inputs, index, np.zeros(len(kept), np.bool_), [rejects[row] for row in sorted(rejects)]
        )

    def _wrong_width(self, features: pa.Array) -> list[Rejected]:
        lengths = pc.fill_null(pc.list_value_length(features), self.config.in_channels).to_numpy(
            zero_copy_only=False
        )
        wrong = np.flatnonzero(lengths != self.config.in_channels).tolist()
        return [
            Rejected(
                row, Reason.WRONG_TYPE, f"{lengths[row]} features, the model takes {self.config.in_channels}"
            )
            for row in wrong
        ]

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most nodes of a unit, by the bytes of their features and vectors."""
        width = self.config.in_channels + sum(dims_of(self.outputs()).values())
        return max(1, min(asked, UNIT_BYTES // (4 * width)))

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order."""
        return outputs_of(self._spec, self._columns, lambda column: self.config.width(column.layer_number))

    def column(self, output: str) -> OutputSpec:
        """Give what the spec asks of an output."""
        return next(column for column in self._columns if column.name == output)

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        widths = dims_of(self.outputs())
        shapes = {column.name: {"dim": widths[column.name], **column.told()} for column in self._columns}
        return {
            "model": self._spec.model,
            "commit": self._folder.revision,
            "config": self.config.model_dump(mode="json"),
            "outputs": shapes,
        }

    def fetched(self) -> Path:
        """Fetch the weights and give the model's folder."""
        if not self._folder.local:
            folders.fetch_weights(self._folder)
        return self._folder.path

    def weight_bytes(self) -> int:
        """Give the size of the weight files."""
        return folders.weight_bytes(self._folder.path)

    def fingerprint(self) -> dict[str, str]:
        """Hash everything of the model folder that changes vectors, {file: sha256}."""
        hashes = folders.fingerprint(self._folder, self._spec.trust_remote_code)
        if not any(name.endswith(".safetensors") for name in hashes):
            # A folder of the user's own may hold a state dict under any name.
            for path in sorted(
                path for pattern in ("*.pt", "*.pth") for path in self._folder.path.glob(pattern)
            ):
                hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return hashes


def _null(column: pa.Array, message: str) -> list[Rejected]:
    return [
        Rejected(row, Reason.NULL, message)
        for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist()
    ]


def _values(lists: pa.Array, width: int) -> Any:
    """Flatten lists of one width to (rows, width) float32; a null number is NaN."""
    values = lists.flatten()
    return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, width)


def _non_finite(values: Any, rows: Any) -> list[Rejected]:
    finite = np.isfinite(values)
    rejects = []
    for place in np.flatnonzero(~finite.all(axis=1)).tolist():
        column = int(np.argmin(finite[place]))
        rejects.append(
            Rejected(int(rows[place]), Reason.NON_FINITE, f"feature {column} is {values[place, column]}")
        )
    return rejects
