"""A folder with one file made of all vectors, and beside it the rows that they belong to.

The vectors grow in `.vectors.npy`. Each unit has a file in `rows/`, which is written last: a unit
is there once that file is. What is made of the vectors has its name only once it is whole.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embed_ops.numerics.topk import Vectors
from embed_ops.targets.base import Contents, Options, TargetUnit
from embed_ops.targets.folder import claim, form_of


class MatrixFolder(ABC):
    """The folder; what is made of the vectors is the kind's own.

    Attributes:
        kind: its word in the registry; `whole`: name of the file that is made.
    """

    kind: ClassVar[str]
    whole: ClassVar[str]

    def __init__(self, place: str) -> None:
        self.place = Path(place).expanduser()
        self._growing = self.place / ".vectors.npy"

    def begin(self, contents: Contents, options: Options) -> None:
        """Claim the folder and make room for all vectors."""
        self.contents, self.options = contents, options
        claim(self.place, form_of(self.kind, contents, options))
        (self.place / "rows").mkdir(exist_ok=True)
        if not self._growing.exists() and not (self.place / self.whole).exists():
            temporary = self.place / ".vectors.new"
            np.lib.format.open_memmap(temporary, "w+", np.float32, (contents.rows, contents.dim)).flush()
            temporary.replace(self._growing)

    def present(self) -> frozenset[str]:
        """Name the units whose rows are there."""
        whole = (self.place / self.whole).exists()
        return frozenset(unit.name for unit in self.contents.units if whole or self._rows_file(unit).exists())

    def put(self, unit: TargetUnit, x: Vectors, table: pa.Table) -> None:
        """Write the vectors to their place, then the rows."""
        # Written and not mapped: on a full disk a mapped page ends the process without a word.
        with self._growing.open("r+b") as file:
            width = self.contents.dim * x.itemsize
            file.seek(-(self.contents.rows - unit.first) * width, os.SEEK_END)
            file.write(np.ascontiguousarray(x).data)
            file.flush()
            os.fsync(file.fileno())
        temporary = self._rows_file(unit).with_suffix(".new")
        pq.write_table(table, temporary)
        temporary.replace(self._rows_file(unit))

    def end(self) -> None:
        """Make the file of all vectors."""
        whole = self.place / self.whole
        if not whole.exists():
            self.make(self._growing).replace(whole)
        self._growing.unlink(missing_ok=True)

    @abstractmethod
    def make(self, vectors: Path) -> Path:
        """Make the file out of all vectors, under a name of its own.

        Args:
            vectors: a NumPy file, (rows, dim) float32.

        Returns:
            what is to be renamed, `vectors` itself or another file.
        """

    def _rows_file(self, unit: TargetUnit) -> Path:
        return self.place / "rows" / f"{unit.number:06d}.parquet"
