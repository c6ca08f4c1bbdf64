"""What workers are told: the job, and the work of one reading task."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from embed_ops.embedding.settings import Resolved
from embed_ops.sources.plan import place_of
from embed_ops.spec.encoder import EncoderSpec
from embed_ops.spec.spec import Spec
from embed_ops.storage.files import Location


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to read, embed and write units."""

    spec: Spec
    run: Location
    roots: tuple[Location, ...]
    columns: pa.Schema
    resolved: Resolved
    fingerprint: str
    attempt: str
    deadline: float | None = None
    """Seconds since 1970 after which no further unit is begun."""

    @property
    def encoder(self) -> EncoderSpec:
        """What workers make their encoder of."""
        return self.spec.encoder.drafting(self.resolved.draft)

    def late(self) -> bool:
        """Tell whether no further unit may be begun."""
        return self.deadline is not None and time.time() > self.deadline

    def place(self, source: str) -> Location:
        """Find a source file by its name."""
        return place_of(self.roots, source)
