"""Addresses -> file systems.

A local path, what pyarrow serves (s3, gs, abfs, az, hdfs), or any fsspec protocol.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pyarrow as pa
from pyarrow import fs as pafs

from embed_ops.errors import RunError, SpecError
from embed_ops.redaction import usable
from embed_ops.storage.faults import patiently, storage_error

SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://")
OPTIONS = re.compile(r"\?[A-Za-z_]\w*=.*$")
"""What an address with a scheme tells its file system: `s3://bucket/path?region=eu-west-1`."""
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 10.0, 30.0
"""Seconds until a connection stands, and without a byte until a request is sent anew.

Arrow's own 1 s and 3 s are less than a busy store takes to answer; the same slow request would be
sent again and again."""
REQUEST_ATTEMPTS = 3
"""Times Arrow sends one request to S3: its own default, and what a pickled file system has.

One lost page or part does not cost a whole listing or upload. That takes a second or two; longer
faults are waited for by `patiently`."""
_GCS_RETRY_S = 30
"""Google's client repeats a request for 15 minutes by itself; whole operations are repeated above
it."""
_ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
_SINGLE_PUT = ("s3", "gcs", "abfs")
_FSSPEC_SINGLE_PUT = frozenset(
    {
        "s3",
        "s3a",
        "gs",
        "gcs",
        "az",
        "abfs",
        "abfss",
        "adl",
        "oss",
        "oci",
        "cos",
        "obs",
        "r2",
        "tos",
        "memory",
        "asynclocal",
    }
)


@dataclass(frozen=True)
class Location:
    """A file system and a path inside it.

    Attributes:
        fs: the file system.
        path: inside it.
        below: path of the folder whose child it is, or a child's child; None where it is none's.
    """

    fs: pafs.FileSystem
    path: str
    below: str | None = field(default=None, compare=False, repr=False)

    def child(self, relative: str) -> Location:
        """Give the location of a path below this one.

        Raises:
            SpecError: the path leads out of it.
        """
        if ".." in relative and ".." in relative.split("/"):
            raise SpecError(f"{self.path}: {relative!r} leads out of this folder; name a file inside it")
        below = self.path if self.below is None else self.below
        return Location(self.fs, f"{self.path.rstrip('/')}/{relative}", below)

    def require_inside(self) -> None:
        """Refuse to write or to delete where a link leads out of the folder that this is below.

        Links are known of local disks only. A name that is itself a link is replaced or deleted,
        and not what it leads to.

        Raises:
            RunError: names the link's end.
        """
        if self.below is None or not self.local:
            return
        root, folder = os.path.realpath(self.below), os.path.realpath(os.path.dirname(self.path))  # noqa: PTH120
        if folder != root and not folder.startswith(f"{root.rstrip('/')}/"):
            raise RunError(
                f"{self.path}: a link between it and {self.below} leads to {folder}, and nothing is "
                "written or deleted outside of that folder; put the folder itself in the place of the link"
            )

    @property
    def local(self) -> bool:
        """Whether files can be synced to disk and free space be told."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    @property
    def fsspec(self) -> Any:
        """The fsspec file system behind it, None where pyarrow serves it itself."""
        handler = getattr(self.fs, "handler", None)
        return handler.fs if isinstance(handler, pafs.FSSpecHandler) else None

    @property
    def object_store(self) -> bool:
        """Whether an object appears with its last byte.

        Elsewhere files are written under `tmp/` and renamed.
        """
        if self.fsspec is not None:
            protocols = self.fsspec.protocol
            return not _FSSPEC_SINGLE_PUT.isdisjoint([protocols] if isinstance(protocols, str) else protocols)
        return self.fs.type_name in _SINGLE_PUT


def full_address(address: str) -> str:
    """Give an address that means the same from every working directory.

    Raises:
        SpecError: whose home `~` is can't be told.
    """
    if SCHEME.match(address):
        return address
    try:
        return str(Path(address).expanduser().absolute())
    except RuntimeError as error:
        raise SpecError(f"{address}: {error}; write the path without ~") from error


def locate(address: str) -> Location:
    """Open the file system of an address: a local path, a pyarrow URI, or any fsspec protocol.

    In an address with a scheme `%` begins an escape, as in any URI; blanks may stand as they are.
    For one that a run has kept without its secrets the environment must have them.

    Raises:
        SpecError: no file system serves the scheme, or it lacks a package or a setting.
        StorageError: the store does not answer.
    """
    address = usable(address)
    scheme = SCHEME.match(address)
    if "\0" in address or any("\ud800" <= character <= "\udfff" for character in address):
        raise SpecError(f"{address!r}: no path: it holds a NUL or bytes that are not UTF-8")
    if scheme is None:
        return Location(pafs.LocalFileSystem(), full_address(address))
    if scheme[1] in ("az", "abfs", "abfss"):
        address = address.replace("az://", "abfss://", 1) if scheme[1] == "az" and "@" in address else address
        if "@" not in address and ".core." not in address:
            return _azure(address)
    by_arrow = patiently("opened", address, lambda: _arrow(address))
    if isinstance(by_arrow, Location):
        return by_arrow
    try:
        opened, path = fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        cause = f"{error}; pyarrow: {by_arrow}" if scheme[1] in _ARROW_SCHEMES else error
        raise SpecError(f"{address}: no file system for {scheme[1]}://: {cause}") from error
    except Exception as error:
        # Some connect when they are made, and each has errors of its own.
        raise storage_error("opened", address, error) from error
    return Location(pafs.PyFileSystem(pafs.FSSpecHandler(opened)), path)


def _arrow(address: str) -> Location | str:
    """Ask pyarrow; gives the reason where it does not take the address.

    A scheme that it lacks, or was built without.
    """
    try:
        filesystem, path = pafs.FileSystem.from_uri(_escaped(address))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        return str(error)
    except OSError as error:
        if "not found" in str(error) or "libjvm" in str(error) or "libhdfs" in str(error):
            raise SpecError(
                f"{address}: {error}; {_ADVICE.get(address.partition(':')[0], 'correct the address')}"
            ) from error
        raise
    return Location(_tuned(filesystem), path)


_ADVICE = {
    "hdfs": "hdfs:// needs Java and Hadoop's libhdfs on every node: set JAVA_HOME, HADOOP_HOME and CLASSPATH",
    "s3": "name a bucket that exists, and its region with ?region= or AWS_DEFAULT_REGION",
}


def _escaped(address: str) -> str:
    """Escape what may not stand in a URI and is no escape itself."""
    options = OPTIONS.search(address)
    path, told = (address[: options.start()], options[0]) if options else (address, "")
    return quote(path, safe="/:@%!$&'()*+,;=~[]") + told


def _tuned(filesystem: pafs.FileSystem) -> pafs.FileSystem:
    """Set what addresses can't say.

    A file system knows its own settings when it is pickled, so they are taken from there.
    """
    if isinstance(filesystem, pafs.S3FileSystem):
        # Without the round trips of a multipart upload, an object below 10 MiB is a single PUT.
        retries = pafs.AwsStandardS3RetryStrategy(max_attempts=REQUEST_ATTEMPTS)
        changed: dict[str, Any] = {"allow_delayed_open": True, "retry_strategy": retries}
        told = _settings(filesystem)
        changed |= {"connect_timeout": CONNECT_TIMEOUT_S} if told["connect_timeout"] < 0 else {}
        changed |= {"request_timeout": REQUEST_TIMEOUT_S} if told["request_timeout"] < 0 else {}
    elif isinstance(filesystem, pafs.GcsFileSystem) and _settings(filesystem)["retry_time_limit"] is None:
        changed = {"retry_time_limit": timedelta(seconds=_GCS_RETRY_S)}
    else:
        return filesystem
    build, (settings,) = filesystem.__reduce__()
    return build({**settings, **changed})


def _settings(filesystem: pafs.FileSystem) -> dict[str, Any]:
    settings: dict[str, Any] = filesystem.__reduce__()[1][0]
    return settings


def s3_settings(at: Location) -> dict[str, Any] | None:
    """Give the settings of pyarrow's S3 file system, None for any other."""
    return _settings(at.fs) if isinstance(at.fs, pafs.S3FileSystem) else None


def _azure(address: str) -> Location:
    """Open `az://container/path`.

    The account is named by the environment, as adlfs and Azure's own tools have it.
    """
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise SpecError(
            f"{address}: names no storage account: set AZURE_STORAGE_ACCOUNT_NAME, or write "
            "abfss://container@account.dfs.core.windows.net/path"
        )
    filesystem = pafs.AzureFileSystem(
        account,
        account_key=os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_KEY"),
        sas_token=os.environ.get("AZURE_STORAGE_SAS_TOKEN"),
    )
    return Location(filesystem, address.partition("://")[2])
