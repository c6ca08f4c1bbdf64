"""Which class serves which family of encoders.

Classes are named, not imported: torch loads only where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from embed_ops.lazy import load_class

if TYPE_CHECKING:
    from embed_ops.encoders.base import Encoder
    from embed_ops.spec.encoder import EncoderSpec

ENCODERS = {
    "text": "embed_ops.encoders.text.encoder:TextEncoder",
    "words": "embed_ops.encoders.windows.encoder:WindowedEncoder",
    "static": "embed_ops.encoders.static.encoder:StaticEncoder",
    "image": "embed_ops.encoders.images.encoder:ImageEncoder",
    "clip": "embed_ops.encoders.clip.encoder:ClipEncoder",
    "graph": "embed_ops.encoders.graph.encoder:GraphEncoder",
}


def make_encoder(spec: EncoderSpec) -> Encoder:
    """Build the encoder that `encoder.family` names; weights are not loaded yet."""
    return cast("Encoder", load_class(ENCODERS["words" if spec.in_windows else spec.family])(spec))
