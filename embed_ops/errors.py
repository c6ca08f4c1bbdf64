"""The errors a user can meet, each with the exit code it ends a command with.

    EmbedOpsError
    ├── SpecError      2   the spec: an unknown key, a bad value, a name clash
    ├── SourceError    2   the corpus: a missing path, no matching file, a wrong column
    ├── ModelError     2   the model: no weights, no tokenizer, an unknown module
    ├── RunError       2   the run directory: another spec, changed source files
    ├── PackageError   2   a package of an extra is not installed
    ├── DeviceError    2   the GPU that is asked for is not there, or torch can't use it
    ├── StageError     2   a stage can't be fitted or applied to these vectors
    ├── ParityError    2   the vectors differ from the reference
    ├── RowsError      2   rows in memory have no vector
    ├── StorageError   3   reading or writing failed for a reason that is not the data
    ├── EngineError    3   workers can't start, nothing moves, a cluster is lost
    │   └── WorkerDied   3 a worker's process died (in `engine/errors.py`)
    ├── ClusterError   3   no cluster answers, it refuses, or it broke off
    │   └── AddressError 2 what was asked for can't be meant: an address without a port
    ├── HeldError      3   another command is at work on the run directory
    └── Stopped        3   the run ended early and resumes with the same command

A message says what, where, what was found and what to do.
"""

from __future__ import annotations

from typing import ClassVar

from embed_ops.redaction import redacted


class EmbedOpsError(Exception):
    """Base of every error that this library raises on purpose; its message holds no secrets."""

    exit_code: ClassVar[int] = 2

    def __init__(self, *words: object) -> None:
        """Take the message."""
        super().__init__(*(redacted(word) if isinstance(word, str) else word for word in words))


class SpecError(EmbedOpsError):
    """The spec is unusable. Correct the named field."""


class SourceError(EmbedOpsError):
    """The corpus can't be read as the spec describes it. Correct the path or the column."""


class ModelError(EmbedOpsError):
    """The model can't be loaded or has a part that is not supported.

    Choose another folder or name.
    """


class RunError(EmbedOpsError):
    """The run directory belongs to another spec or its source has changed.

    Choose another `sink.path`.
    """


class PackageError(EmbedOpsError):
    """A package that this needs is not installed. Install the extra that the message names."""


class DeviceError(EmbedOpsError):
    """A worker can't use the GPU that it is to compute on. Mend the node, or ask for none."""


class StageError(EmbedOpsError):
    """A stage can't be fitted or applied to these vectors: more clusters than rows, another width.

    Correct the named field.
    """


class ParityError(EmbedOpsError):
    """The first rows miss the `[parity]` limits against the reference.

    Choose `encoder.dtype = "float32"`.
    """


class RowsError(EmbedOpsError):
    """Rows that were given in memory have no vector. Leave them out, or ask for rejects."""


class StorageError(EmbedOpsError):
    """Storage failed, not the data. Mend it and run the same command again."""

    exit_code: ClassVar[int] = 3


class EngineError(EmbedOpsError):
    """The engine gave up, not the data.

    See its message, mend the machine or the cluster, and run the same command again.
    """

    exit_code: ClassVar[int] = 3


class HeldError(EmbedOpsError):
    """Another command is at work on the run directory.

    Wait for it, or stop it; then run the same command again.
    """

    exit_code: ClassVar[int] = 3


class Stopped(EmbedOpsError):
    """The run stopped before its end. Run the same command again to go on."""

    exit_code: ClassVar[int] = 3


class ClusterError(EmbedOpsError):
    """A cluster can't be reached or refuses. See its message, and run the same command again."""

    exit_code: ClassVar[int] = 3


class AddressError(ClusterError):
    """An address or an option is not usable as it stands. Correct it."""

    exit_code: ClassVar[int] = 2
