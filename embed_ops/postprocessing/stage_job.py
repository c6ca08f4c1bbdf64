"""What every worker of a stage is given: the job, and its folder `work/`.

What is kept in `work/` is not computed again when a command is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embed_ops.numerics.tiles import Vectors
from embed_ops.runs.columns import Stretch, VectorColumn, blocks
from embed_ops.spec.stage import StageSpec
from embed_ops.storage.files import Location, publish, read_bytes

WORK = "work"


@dataclass(frozen=True)
class StageJob:
    """Everything that a worker needs to fit and to apply a stage.

    Attributes:
        spec: the stage's section.
        run: its run directory.
        input: the run whose units it has.
        vectors: where the column is that it reads.
        rows: of the input.
        seed: of everything that draws.
        output: name of its vector column.
        fingerprint: of the footers.
        attempt: the command at work.
        copied: columns of the runs below that its files have too.
        work: folder of its unfinished fit.
    """

    spec: StageSpec
    run: Location
    input: Location
    vectors: VectorColumn
    rows: int
    seed: int
    output: str
    fingerprint: str
    attempt: str
    copied: tuple[VectorColumn, ...] = ()

    def keep(self, name: str, content: bytes) -> None:
        """Write a file below `work/`."""
        publish(self.run, f"{WORK}/{name}", content, self.attempt)

    def kept(self, name: str) -> bytes | None:
        """Read a file below `work/`."""
        return read_bytes(self.run.child(f"{WORK}/{name}"))

    def read(self, stretch: Stretch) -> Vectors:
        """Read the vectors of a stretch of the input: (rows, dim) float32."""
        return np.concatenate([x for _, x in blocks(self.vectors, stretch)])
