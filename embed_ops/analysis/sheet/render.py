"""Fills a template of this folder: one file with everything inline, and nothing that runs."""

from __future__ import annotations

import base64
import importlib.resources
import io
from typing import Any
from urllib.parse import quote

from embed_ops.encoders.images.opening import Refused, open_image, to_rgb
from embed_ops.lazy import require
from embed_ops.redaction import redacted
from embed_ops.storage.files import publish
from embed_ops.storage.location import locate
from embed_ops.terminal import plain

_THUMBNAIL = 192
"""Pixels of the longer side of a thumbnail."""
_QUALITY = 80
_MOST_PIXELS = 200_000_000


def write_sheet(path: str, template: str, **values: Any) -> None:
    """Fill a template and write the page, which appears whole or not at all.

    What stands in values is escaped; control characters are shown as escapes, and secrets left out.

    Args:
        path: of the page.
        template: name of a file in this folder.
        values: of the template.

    Raises:
        PackageError: Jinja2 is not installed.
        StorageError: it can't be written.
    """
    jinja2 = require("jinja2", "report", "--html")
    folder = importlib.resources.files("embed_ops.analysis.sheet")

    def text_of(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(text_of),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    page = environment.get_template(template).render(style=text_of("sheet.css"), **values)
    content = page.encode("utf-8", "backslashreplace")
    where, slash, name = path.rpartition("/")
    publish(locate((where or "/") if slash else "."), name, content, None)


def thumbnail(content: bytes | None) -> str | None:
    """Make a small JPEG of an image, as the address that an `img` takes.

    None where it can't be decoded.
    """
    if content is None:
        return None
    try:
        image = open_image(content, _MOST_PIXELS)
        # A JPEG is decoded at an eighth of its size where that is enough.
        image.draft("RGB", (2 * _THUMBNAIL, 2 * _THUMBNAIL))
        small = to_rgb(image, _MOST_PIXELS)
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    except (Refused, MemoryError):
        return None
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def link_to(path: str) -> str:
    """Make a relative path one that a browser follows, whatever it is called."""
    return quote(redacted(path))
