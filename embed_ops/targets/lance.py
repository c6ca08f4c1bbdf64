"""A Lance dataset, appended unit by unit; its number of rows says which units are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from embed_ops.errors import SpecError
from embed_ops.numerics.topk import Vectors
from embed_ops.targets.base import Contents, Options, TargetUnit
from embed_ops.targets.folder import form_of

_FORM = b"embed_ops.export"
"""Key of the schema's metadata that says what the dataset is of."""


class LanceDataset:
    """The place is the dataset: the columns of the rows, and the vectors as a column of its own."""

    kind = "lance"

    def __init__(self, place: str) -> None:
        self._place = Path(place).expanduser()

    def begin(self, contents: Contents, options: Options) -> None:
        """Check that what is there is of this run and ends with a whole unit."""
        import lance

        self._contents = contents
        self._form = form_of(self.kind, contents, options).encode()
        self._rows = 0
        # A first append that was stopped leaves files without a version, which no reader sees.
        if not self._place.exists() or {item.name for item in self._place.iterdir()} <= {
            "data",
            "_transactions",
        }:
            return
        try:
            dataset = lance.dataset(str(self._place))
        except (ValueError, OSError) as error:
            raise SpecError(
                f"{self._place}: is there, and is no Lance dataset ({error}); choose another folder"
            ) from error
        self._rows = dataset.count_rows()
        ends = {0, *(unit.first + unit.rows for unit in contents.units)}
        if self._rows not in ends or (dataset.schema.metadata or {}).get(_FORM, self._form) != self._form:
            raise SpecError(
                f"{self._place}: has {self._rows:,} rows, which are no units of this run in this form; "
                "choose another folder"
            )

    def present(self) -> frozenset[str]:
        """Name the units that were appended."""
        return frozenset(unit.name for unit in self._contents.units if unit.first + unit.rows <= self._rows)

    def put(self, unit: TargetUnit, x: Vectors, table: pa.Table) -> None:
        """Append the rows in one transaction."""
        import lance

        if not unit.rows:
            return
        values = pa.array(np.ascontiguousarray(x).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(values, x.shape[1])
        whole = table.append_column(self._contents.column, vectors)
        metadata = {**(table.schema.metadata or {}), _FORM: self._form}
        lance.write_dataset(whole.replace_schema_metadata(metadata), str(self._place), mode="append")

    def end(self) -> None:
        """Nothing is left: each append was whole."""
