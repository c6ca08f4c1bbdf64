"""A model that was loaded to be compared, kept for the units that follow in the same process."""

from __future__ import annotations

from embed_ops.embedding.settings import Resolved
from embed_ops.encoders.base import Encoder
from embed_ops.encoders.registry import make_encoder
from embed_ops.spec.encoder import EncoderSpec

_kept: list[tuple[tuple[EncoderSpec, str, str, bool], Encoder]] = []


def keep(spec: EncoderSpec, resolved: Resolved, encoder: Encoder) -> None:
    """Keep an encoder, loaded as resolved, for whoever asks for one like it first."""
    _kept[:] = [(_like(spec, resolved), encoder)]


def load(spec: EncoderSpec, resolved: Resolved) -> Encoder:
    """Give an encoder loaded as resolved: the one that was kept, or a new one."""
    for like, encoder in _kept:
        if like == _like(spec, resolved):
            _kept.clear()
            return encoder
    # Another model is not to take its room.
    _kept.clear()
    encoder = make_encoder(spec)
    encoder.load(resolved.device, resolved.dtype, compiled=resolved.compile)
    return encoder


def _like(spec: EncoderSpec, resolved: Resolved) -> tuple[EncoderSpec, str, str, bool]:
    return spec, resolved.device, resolved.dtype, resolved.compile
