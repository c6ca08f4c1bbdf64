"""One NumPy file, which `np.load` maps."""

from __future__ import annotations

from pathlib import Path

from embed_ops.targets.matrix import MatrixFolder


class NumpyFile(MatrixFolder):
    """`vectors.npy`: (rows, dim) float32, in the order of the run."""

    kind = "npy"
    whole = "vectors.npy"

    def make(self, vectors: Path) -> Path:
        """Give the vectors as they stand: they are the file already."""
        return vectors
