"""Files that stand in the row itself: `data:` addresses, and bare base64 of an image."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

_BARE = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_BLANKS = re.compile(r"\s+")
_SHORTEST = 32
"""Characters of the least image there is, about: what is shorter is a name."""
_MARKS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*"),
    *(b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51", b"\x00\x00\x01\x00"),
)
"""What the files of images begin with."""


def is_data_uri(reference: str) -> bool:
    """Tell an address that holds its file."""
    return reference[:5].lower() == "data:"


def of_data_uri(reference: str) -> bytes | None:
    """Decode a `data:` address, None where it is broken."""
    head, comma, body = reference.partition(",")
    if not comma:
        return None
    content = unquote_to_bytes(body)
    return _decoded(content) if head.lower().endswith(";base64") else content


def of_bare_base64(reference: str) -> bytes | None:
    """Decode base64 of an image, as `transformers.image_utils.load_image` takes it.

    None for any other text, as a path is.
    """
    text = _BLANKS.sub("", reference)
    if len(text) < _SHORTEST or not _BARE.fullmatch(text):
        return None
    content = _decoded(text.encode("ascii"))
    is_image = content is not None and (content.startswith(_MARKS) or content[4:8] == b"ftyp")
    return content if is_image else None


def _decoded(text: bytes) -> bytes | None:
    plain = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return None
