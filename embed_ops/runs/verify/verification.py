"""What `verify` counts, and the differences that it lists."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        file: the file of the run directory or of the source, or the unit.
        what: a sentence without its subject, which is the file.
    """

    file: str
    what: str


@dataclass
class Verification:
    """What was counted, and every difference.

    Attributes:
        units, rows, rejects, filtered: of the units whose data files are there; rejects of whole
            files are among the rejects.
        records: read from the source to make them.
        source: whether the source was read again.
        differences: in the order in which they were met.
    """

    units: int = 0
    rows: int = 0
    rejects: int = 0
    filtered: int = 0
    records: int = 0
    source: bool = False
    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the run is complete and unchanged."""
        return not self.differences
