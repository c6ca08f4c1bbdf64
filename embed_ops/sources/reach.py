"""Where the references of rows may lead: by which schemes, and how far from the source.

Rows are not trusted. By default they name files below the source root only, whatever links, `..`,
and redirects make of an address.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import unquote, urljoin, urlsplit

from embed_ops.spec.source import ReferringSourceSpec
from embed_ops.storage import web
from embed_ops.storage.location import SCHEME, Location, locate
from embed_ops.storage.web import Inadmissible, WebLimits

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ALIKE = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "az": "abfss", "abfs": "abfss", "local": "file"}
"""Schemes of one store."""
_BUCKETS = ("s3", "gs")
"""Stores whose paths begin with the bucket."""
_SHOWN = 200
_OPENS = "source.outside_root = true allows that"

WebAddress = str
"""What `http` or `https` serves."""


class Reach:
    """What the rows of one source file may name."""

    def __init__(self, spec: ReferringSourceSpec, source: str, beside: Location) -> None:
        """Take the section, the name of a source file, and where that file is."""
        number, _, inside = source.partition("/") if len(spec.paths) > 1 else ("0", "", source)
        self.beside = beside
        self.most_bytes = spec.fetch_bytes
        self._root = Location(beside.fs, beside.path.removesuffix(inside).rstrip("/") or "/")
        self._own = _scheme_of(spec.paths[int(number)])
        self._schemes = tuple(_ALIKE.get(scheme, scheme) for scheme in spec.schemes) or (self._own,)
        self._anywhere = spec.outside_root
        private = self._anywhere or self._own in web.SCHEMES
        self.limits = WebLimits(spec.fetch_seconds, self._check_web, private)

    def place(self, reference: str) -> Location | WebAddress:
        """Find what a reference names.

        Raises:
            Inadmissible: it can't be meant, or may not be read.
            SpecError: no file system serves its scheme.
            StorageError: the store can't be opened.
        """
        address = _ADDRESS.match(reference)
        scheme = self._own if address is None else address[1].lower()
        scheme = _ALIKE.get(scheme, scheme)
        if address is not None and "::" in reference:
            raise Inadmissible("is an address inside of another")
        self._check_scheme(scheme)
        if scheme in web.SCHEMES:
            if not reference.isprintable():
                raise Inadmissible("is no address: it has control characters")
            url = urljoin(self.beside.path, reference) if address is None else reference
            self._check_web(url)
            return url
        place = self._beside(reference) if address is None else self._at(scheme, reference[address.end() :])
        # A scheme that was asked for beside the source's own has no root to lie below.
        if scheme == self._own and not self._anywhere:
            self._check_below(place)
        return place

    def in_same_store(self, place: Location) -> bool:
        """Tell whether a place is in the store of the source file."""
        own, other = self.beside.fsspec, place.fsspec
        if own is None or other is None:
            return bool(self.beside.fs == place.fs)
        # Each thread has an instance of its own.
        return (type(own), own.storage_args, own.storage_options) == (
            *(type(other), other.storage_args),
            other.storage_options,
        )

    def _beside(self, path: str) -> Location:
        folder = "" if path.startswith("/") else self.beside.path.rpartition("/")[0] + "/"
        # A store has no folders: `..` must be gone before it is asked.
        return Location(self.beside.fs, posixpath.normpath(folder + path))

    def _at(self, scheme: str, rest: str) -> Location:
        host, _, path = rest.partition("/")
        if scheme == "file":
            if host.lower() not in ("", "localhost"):
                raise Inadmissible(f"names a file of another machine, {host}")
            filesystem = self.beside.fs if self._own == "file" else locate("/").fs
            return Location(filesystem, posixpath.normpath("/" + unquote(path)))
        if scheme == self._own and scheme in _BUCKETS:
            # With the endpoint and the options of the source's address.
            return Location(self.beside.fs, posixpath.normpath(f"{host}/{unquote(path)}"))
        opened = _opened(f"{scheme}://{host}/").child(unquote(path))
        return Location(opened.fs, posixpath.normpath(opened.path))

    def _check_scheme(self, scheme: str) -> None:
        if scheme not in self._schemes and not (scheme == "https" and "http" in self._schemes):
            raise Inadmissible(f"has the scheme {scheme}; source.schemes allows {', '.join(self._schemes)}")

    def _check_below(self, place: Location) -> None:
        # On a disk without links, as it lies there; a path of a store begins with a slash or not.
        tidy: Callable[[str], str] = os.path.realpath if place.local else _store_path
        if not _is_below(tidy(place.path), tidy(self._root.path)) or not self.in_same_store(place):
            raise Inadmissible(f"lies outside of source.path; {_OPENS}")

    def _check_web(self, url: str) -> None:
        """Check an address that is to be asked, also after a redirect."""
        host = web.host_of(url)
        self._check_scheme(urlsplit(url).scheme)
        if self._own in web.SCHEMES and not self._anywhere:
            root = urlsplit(self._root.path)
            below = _is_below(_web_path(urlsplit(url).path), _web_path(root.path))
            if not below or host.partition(":")[0] != web.host_of(self._root.path).partition(":")[0]:
                raise Inadmissible(f"leads outside of source.path; {_OPENS}")


def shown(reference: str) -> str:
    """Write a reference as a message may have it: short, on one line, without what signs it."""
    if _ADDRESS.match(reference):
        scheme, _, rest = reference.partition("://")
        host, slash, path = rest.partition("/")
        reference = f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
    plain = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in reference[:_SHOWN])
    return plain if len(reference) <= _SHOWN else f"{plain}... ({len(reference)} characters)"


def _scheme_of(address: str) -> str:
    scheme = SCHEME.match(address)
    return "file" if scheme is None else _ALIKE.get(scheme[1], scheme[1])


def _is_below(path: str, root: str) -> bool:
    return (path + "/").startswith(root.rstrip("/") + "/")


def _store_path(path: str) -> str:
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _web_path(path: str) -> str:
    return _store_path(unquote(path))


@lru_cache(maxsize=64)
def _opened(address: str) -> Location:
    """Open a file system once for all files of a bucket or host."""
    return locate(address)
