"""Which class serves which family of encoders.

Classes are named, not imported: torch loads only where it is used.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from embed_ops.errors import ModelError, SpecError
from embed_ops.lazy import load_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embed_ops.encoders.base import Encoder, Modality
    from embed_ops.spec.encoder import EncoderSpec
    from embed_ops.spec.spec import Spec

ENCODERS = {
    "text": "embed_ops.encoders.text.encoder:TextEncoder",
    "words": "embed_ops.encoders.windows.encoder:WindowedEncoder",
    "static": "embed_ops.encoders.static.encoder:StaticEncoder",
    "onnx": "embed_ops.encoders.onnx.encoder:OnnxEncoder",
    "keras": "embed_ops.encoders.keras.encoder:KerasEncoder",
    "tensorflow": "embed_ops.encoders.tensorflow.encoder:TensorflowEncoder",
    "image": "embed_ops.encoders.images.encoder:ImageEncoder",
    "clip": "embed_ops.encoders.clip.encoder:ClipEncoder",
    "graph": "embed_ops.encoders.graph.encoder:GraphEncoder",
}


_MISFITS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What is raised where a value of a configuration is of another type or size."""


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
    with usable(spec):
        return make(spec)


@contextmanager
def usable(spec: EncoderSpec) -> Iterator[None]:
    """Say of a model that it can't be used where its configuration is no such model's.

    Raises:
        ModelError: what is done inside stumbles over a value.
    """
    try:
        yield
    except _MISFITS as error:
        raise ModelError(
            f"{spec.model}: can't be used: a file of it holds what no such model has "
            f"({type(error).__name__}: {error}); fetch the model again, or choose another"
        ) from error


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
