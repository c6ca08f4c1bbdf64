"""What a first spec says of a network of Keras: its preprocessing, and the layer that is taken."""

from __future__ import annotations

from collections.abc import Iterator

from embed_ops.encoders.keras.files import locate_keras
from embed_ops.encoders.keras.images import PREPROCESSINGS
from embed_ops.encoders.keras.model import KerasModel
from embed_ops.encoders.keras.network import WHOLE
from embed_ops.encoders.keras.structure import Structure, read_structure
from embed_ops.encoders.keras.taps import shape_at, vector_layers
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import KerasEncoderSpec
from embed_ops.spec.toml import literal
from embed_ops.terminal import plain_line


def first_lines(model: str, modality: str) -> tuple[str, ...]:
    """Write the lines of `[encoder]` that stand behind `model`.

    Args:
        model: folder or file.
        modality: of the data.

    Raises:
        ModelError: it is no network of Keras, or takes other data.
        PackageError: Keras is not installed.
    """
    spec = KerasEncoderSpec(model=model)
    file = locate_keras(spec)
    structure = read_structure(file.path, file.config, file.saved_by)
    if structure.takes.images != (modality == "image"):
        what = "images" if structure.takes.images else "arrays of numbers"
        raise ModelError(f"{file.path}: takes {what}, and the data are {modality}s")
    unsaid = structure.takes.images and structure.rescales is None
    size = 224 if structure.takes.images and None in structure.takes.shape else None
    asked = {"preprocessing": "none" if unsaid else None, "size": size}
    network = KerasModel(spec.model_copy(update=asked))
    lines = [*(_preprocessing(structure) if unsaid else ())]
    if size is not None:
        lines.append(f"size = {size}      # the network takes any")
    return (*lines, *_output(network))


def _preprocessing(structure: Structure) -> Iterator[str]:
    """Word what becomes of pixels; nobody but who has trained it knows, so it is no default."""
    if like := structure.application:
        named = plain_line(like[0])
        yield f"preprocessing = {literal(like[1])}      # as keras.applications has it for {named}"
    else:
        known = ", ".join(PREPROCESSINGS)
        yield f'# preprocessing = "tf"      # required: what it was trained with, of {known}'


def _output(network: KerasModel) -> Iterator[str]:
    """Word which layer has the vector, where the network's own output is none."""
    built = network.built()
    if network.structure.classes is not None and (layers := vector_layers(network.structure, built)):
        path, shape = layers[0]
        yield "[[encoder.outputs]]"
        remark = "numbers; behind it come the probabilities of classes"
        yield f"tensor = {literal(path)}      # {shape[0]:,} {remark}"
    elif network.structure.classes is None and len(shape_at(built, WHOLE) or ()) > 1:
        yield "[[encoder.outputs]]"
        yield 'pooling = "mean"      # of all positions; or "max"'
