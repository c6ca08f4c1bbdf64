"""What an engine raises, as errors of ours."""

from __future__ import annotations

from embed_ops.errors import EmbedOpsError, EngineError


class WorkerDied(EngineError):
    """The process of a worker died, or ended itself since it hung."""


def engine_error(error: Exception) -> EmbedOpsError:
    """Give the error of ours that a worker raised, or say that Ray gave up."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, EmbedOpsError):
        return type(cause)(*cause.args)
    return EngineError(
        f"Ray gave up: {type(error).__name__}: {str(error).strip()[-2000:]}\nRun the same command again "
        "to go on"
    )
