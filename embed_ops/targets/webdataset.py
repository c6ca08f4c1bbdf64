"""WebDataset shards: a tar for each unit that has rows, two members for each of these.

`<row>.npy` is the vector, (dim,) float32. `<row>.json` says where the row comes from and what was
kept of it. The same run gives the same bytes: headers name no time and no owner.
"""

from __future__ import annotations

import base64
import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embed_ops.numerics.topk import Vectors
from embed_ops.targets.base import Contents, Options, TargetUnit
from embed_ops.targets.folder import claim, form_of


class WebDatasetShards:
    """`000000.tar`, `000001.tar` and so on, without gaps; a key is the row's index in the run."""

    kind = "webdataset"

    def __init__(self, place: str) -> None:
        self._place = Path(place).expanduser()

    def begin(self, contents: Contents, options: Options) -> None:
        """Claim the folder and number the shards."""
        claim(self._place, form_of(self.kind, contents, options))
        filled = [unit.name for unit in contents.units if unit.rows]
        self._shards = {name: self._place / f"{number:06d}.tar" for number, name in enumerate(filled)}
        self._empty = frozenset(unit.name for unit in contents.units if not unit.rows)

    def present(self) -> frozenset[str]:
        """Name the units whose shard is there, and those that need none."""
        return self._empty | {name for name, shard in self._shards.items() if shard.exists()}

    def put(self, unit: TargetUnit, x: Vectors, table: pa.Table) -> None:
        """Write the shard of a unit."""
        shard = self._shards[unit.name]
        temporary = shard.with_suffix(".new")
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for batch in table.to_batches(max_chunksize=1_000):
                for row in batch.to_pylist():
                    _add(tar, f"{row['row']:012d}.npy", _npy(x[row["row"] - unit.first]))
                    told = json.dumps(_plain(row), ensure_ascii=False)
                    _add(tar, f"{row['row']:012d}.json", told.encode())
        temporary.replace(shard)

    def end(self) -> None:
        """Nothing is left: each shard is whole."""


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _npy(vector: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    file = io.BytesIO()
    np.save(file, vector)
    return file.getvalue()


def _plain(value: Any) -> Any:
    """Give a value as JSON has it: bytes in base64, times as text, no number that is not one."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
