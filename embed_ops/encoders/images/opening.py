"""From the bytes of an image file to its pixels in RGB, as Pillow and transformers give them.

Transparent parts become white, as transformers' processors make them; gray of more than eight bits
keeps its upper eight.
"""

from __future__ import annotations

import io
import struct
import warnings
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from embed_ops.errors import PackageError
from embed_ops.lazy import require
from embed_ops.schema import Reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO")
"""What is decoded, whatever the file's name says."""
_HEIF, _TARGA = "HEIF", "TGA"
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_TARGA_HEADER = struct.Struct("<3B5x4x2H2B")
_TARGA_FOOTER = b"TRUEVISION-XFILE.\x00"
_DEEP_MODES = ("I", "F")
_INTEGER_BITS = (8, 12, 16)
"""Depths of gray that cameras and scanners write into integers of 16 and 32 bits."""
_DIM = 16.0
"""Floats that reach above 1 and not this far are neither shares of white nor of 255 steps."""


class Refused(Exception):
    """An image that can't be embedded: a reason and a sentence."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def open_image(content: bytes, most_pixels: int) -> Image.Image:
    """Read the header of an image; pixels are not decoded yet.

    Raises:
        Refused: it is no image of a known format, or has too many pixels.
    """
    if not content:
        raise Refused(Reason.UNDECODABLE, "the image has no bytes")
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are refused below, and refuses by itself what is twice as
            # large.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=_formats(content))
    except Image.DecompressionBombError as error:
        raise Refused(Reason.TOO_LARGE, str(error)) from error
    except PackageError as error:
        raise Refused(Reason.UNDECODABLE, str(error)) from error
    except UnidentifiedImageError as error:
        known = ", ".join((*FORMATS, _TARGA, _HEIF))
        raise Refused(Reason.UNDECODABLE, f"no image of a known format ({known})") from error
    except MemoryError:
        raise
    except Exception as error:  # readers of headers fail in many ways
        raise Refused(Reason.UNDECODABLE, f"{type(error).__name__}: {error}") from error
    _check_size(image, most_pixels)
    return image


def to_rgb(image: Image.Image, most_pixels: int) -> Image.Image:
    """Decode the first frame, upright, in RGB.

    Transparency is laid on white. Of deep gray the upper eight bits are kept.

    Raises:
        Refused: it can't be decoded, or turns out to have too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            # An icon learns its size from the picture inside.
            _check_size(image, most_pixels)
            # Both this and `convert` would copy a photograph that has nothing to change.
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith(_DEEP_MODES):
                return _of_deep_gray(image)
            if "A" in image.getbands() or image.info.get("transparency") is not None:
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
            return image if image.mode == "RGB" else image.convert("RGB")
    except (MemoryError, Refused):
        raise
    except Image.DecompressionBombError as error:
        raise Refused(Reason.TOO_LARGE, str(error)) from error
    except Exception as error:  # decoders fail in many ways
        raise Refused(Reason.UNDECODABLE, f"{type(error).__name__}: {error}") from error


def _check_size(image: Image.Image, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        raise Refused(
            Reason.TOO_LARGE,
            f"{image.width} x {image.height} pixels are more than encoder.max_pixels = {most_pixels}",
        )
    if image.width == 0 or image.height == 0:
        raise Refused(Reason.UNDECODABLE, f"the image has {image.width} x {image.height} pixels")


def _formats(content: bytes) -> tuple[str, ...]:
    """Choose the readers that are tried: two only where the content is theirs.

    Raises:
        PackageError: it is HEIC, and the package that reads it is not installed.
    """
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS and b"avif" not in content[8:64]:
        read_heif()
        return (_HEIF,)
    return (*FORMATS, _TARGA) if _is_targa(content) else FORMATS


@cache
def read_heif() -> None:
    """Let Pillow open HEIC.

    Raises:
        PackageError: pillow-heif is not installed.
    """
    require("pillow_heif", "heic", "an image in HEIC").register_heif_opener()


def _is_targa(content: bytes) -> bool:
    """Tell a Targa: it has no mark at its beginning, and Pillow would take much else for one."""
    if content.endswith(_TARGA_FOOTER):
        return True
    if len(content) < _TARGA_HEADER.size:
        return False
    _, colours, kind, width, height, depth, order = _TARGA_HEADER.unpack_from(content)
    kinds = (1, 9) if colours == 1 else (2, 3, 10, 11)
    known = colours in (0, 1) and kind in kinds and depth in (8, 16, 24, 32) and order < 1 << 6
    whole = kind >= 9 or len(content) >= _TARGA_HEADER.size + width * height * depth // 8
    return bool(known and width and height and whole)


def _of_deep_gray(image: Image.Image) -> Image.Image:
    """Make RGB of gray in integers of 16 or 32 bits, or in floats.

    Pillow's own conversion makes white of every value above 255.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        gray = _of_floats(values, float(low), float(high))
    else:
        # A PPM says what is white, and Pillow has scaled its values to 16 bits.
        depths = _INTEGER_BITS[-1:] if image.format == "PPM" else _INTEGER_BITS
        bits = next((bits for bits in depths if high < 1 << bits), None)
        if low < 0 or bits is None:
            raise _beyond(f"from {low} to {high}", "8, 12 and 16 bits")
        gray = (values >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")


def _of_floats(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.uint8]:
    if low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if low >= 0 and _DIM <= high < 256:
        return values.astype(np.uint8)
    raise _beyond(f"from {low:.6g} to {high:.6g}", "floats from 0 to 1 and from 0 to 255")


def _beyond(reach: str, known: str) -> Refused:
    return Refused(Reason.UNDECODABLE, f"its gray values reach {reach}: only {known} are known")
