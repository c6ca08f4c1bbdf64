"""Which class serves which family of encoders.

Classes are named, not imported: torch loads only where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from embed_ops.errors import SpecError
from embed_ops.lazy import load_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from embed_ops.encoders.base import Encoder, Modality
    from embed_ops.spec.encoder import EncoderSpec
    from embed_ops.spec.spec import Spec

ENCODERS = {
    "text": "embed_ops.encoders.text.encoder:TextEncoder",
    "words": "embed_ops.encoders.windows.encoder:WindowedEncoder",
    "static": "embed_ops.encoders.static.encoder:StaticEncoder",
    "image": "embed_ops.encoders.images.encoder:ImageEncoder",
    "clip": "embed_ops.encoders.clip.encoder:ClipEncoder",
    "graph": "embed_ops.encoders.graph.encoder:GraphEncoder",
}


def encoder_class(spec: EncoderSpec) -> type[Encoder]:
    """Give the class of the family that a spec names; no model is looked at.

    Raises:
        SpecError: no such family.
    """
    family = "words" if spec.in_windows else spec.family
    if family not in ENCODERS:
        raise SpecError(f"encoder.family is {family!r}, which is none of {', '.join(ENCODERS)}")
    return cast("type[Encoder]", load_class(ENCODERS[family]))


def make_encoder(spec: EncoderSpec) -> Encoder:
    """Build the encoder that `encoder.family` names; weights are not loaded yet.

    Raises:
        SpecError: no such family.
        ModelError: the model can't be used.
    """
    make = cast("Callable[[EncoderSpec], Encoder]", encoder_class(spec))
    return make(spec)


def modality_of(spec: Spec) -> Modality:
    """Give what the family of a spec makes of the modality of its source.

    Raises:
        SpecError: it takes none of that.
    """
    takes, asked = encoder_class(spec.encoder).takes, spec.source.modality
    if asked not in takes:
        raise SpecError(
            f"source.modality is {asked!r}, and family {spec.encoder.family!r} takes {', '.join(takes)}"
        )
    return takes[asked]
