"""A model on an object store.

What a prefix holds, and its copy in this node's cache (`EMBED_OPS_CACHE`).

    models/DIGEST.json    the listing: {"files": {path: bytes}}
    models/DIGEST/        the files, each of them whole: it is copied to tmp/ and renamed
    tmp/                  files that are being copied

DIGEST is of the address and of the name, size and time of change of each model file. So a prefix
that has changed is another model, and never mixes with the copy of what it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from pyarrow import fs as pafs

from embed_ops.encoders.hub.cache import cache_folder, scratch, sweep, unwritable
from embed_ops.encoders.hub.fetching import here, keep_trying, may_pass, once_per_node, reason
from embed_ops.errors import EmbedOpsError, ModelError, StorageError
from embed_ops.storage.files import Location, locate

_CHUNK_BYTES = 32 * 2**20
"""Bytes of a request, unless the file is smaller."""
_ANSWERS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""What Arrow quotes of answers that will be the same again."""
_VERSIONS = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)
"""Keys under which file systems of fsspec tell a file's version."""

Stamp = tuple[int, str]
"""Size in bytes, and what the store tells that differs from one version of a file to the next: a
time, a tag."""


@dataclass(frozen=True)
class Prefix:
    """A listed prefix: its address, the digest of its listing, and {path below it: stamp}."""

    address: str
    digest: str
    files: dict[str, Stamp]

    @property
    def path(self) -> Path:
        """The folder of the copy on this node."""
        return cache_folder() / "models" / self.digest


def open_prefix(address: str, digest: str | None, kept: Sequence[str], unused: Sequence[str]) -> Prefix:
    """List a prefix; with the digest of a listing that this node knows, no request is made.

    Args:
        address: of the prefix, with a scheme.
        digest: what the listing must be, None for whatever it is now.
        kept: patterns of the files that a model may need.
        unused: patterns of those among them that none needs.

    Raises:
        SpecError: no file system serves the scheme.
        ModelError: no model file is there, or the listing is not the one asked for.
        StorageError: it can't be listed.
    """
    if digest is not None and (known := _recall(digest)) is not None:
        return Prefix(address, digest, known)
    there = _list(address)
    files = {name: there[name] for name in sorted(_matching(there, kept, unused))}
    if not files:
        listed = ", ".join(sorted(there)[:20]) or "nothing"
        raise ModelError(
            f"encoder.model {address}: no model there, found {listed}; give the prefix that holds config.json"
        )
    if odd := [
        name for name in files if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute()
    ]:
        raise ModelError(
            f"encoder.model {address}: {odd[0]!r} leads out of the folder; do not use this model"
        )
    prefix = Prefix(
        address, hashlib.sha256(json.dumps([address, list(files.items())]).encode()).hexdigest(), files
    )
    if digest is not None and digest != prefix.digest:
        raise ModelError(
            f"encoder.model {address}: encoder.revision is {digest}, and the files there have the digest "
            f"{prefix.digest} now; "
            "they have changed since the run began, or revision was meant for another model: put them "
            "back, or leave revision out"
        )
    _remember(prefix)
    return prefix


def fetch(prefix: Prefix, patterns: Sequence[str], unused: Sequence[str]) -> Path:
    """Give the copy of a prefix, with all files that match.

    What is missing is copied once per node.

    Raises:
        StorageError: the store fails for longer than it is tried again, it has changed meanwhile,
            or the cache can't be written.
    """
    wanted = _matching(prefix.files, patterns, unused)
    key = " ".join(("copy", str(prefix.path), *patterns))
    return once_per_node(
        key, lambda: None if _missing(prefix, wanted) else prefix.path, lambda: _copied(prefix, wanted)
    )


def _matching(names: Iterable[str], kept: Sequence[str], unused: Sequence[str]) -> list[str]:
    """Choose names as the hub's library does.

    So that a prefix and a hub model give the same files.
    """
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(names, allow_patterns=list(kept), ignore_patterns=list(unused)))


def _list(address: str) -> dict[str, Stamp]:
    at = locate(address)
    try:
        return keep_trying(address, lambda: _stamps(at), _passes)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except Exception as error:
        raise StorageError(
            f"encoder.model {address}: can't be listed ({reason(error)}); mend it and run the same "
            "command again"
        ) from error


def _stamps(at: Location) -> dict[str, Stamp]:
    """List the files below a place.

    Nothing is asked about the place itself, as a policy may allow no more than that.
    """
    base = at.path.rstrip("/")
    handler = getattr(at.fs, "handler", None)
    if isinstance(handler, pafs.FSSpecHandler):
        # Arrow would pass on no more than size and `mtime`, which most of these name otherwise: a
        # change would not be seen.
        handler.fs.invalidate_cache()
        told = handler.fs.find(base, detail=True)
        return {
            path[len(base) + 1 :]: (
                info["size"],
                " ".join(str(info[key]) for key in _VERSIONS if info.get(key) is not None),
            )
            for path, info in told.items()
            if path.startswith(f"{base}/")
        }
    infos = at.fs.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=True))
    return {
        info.path[len(base) + 1 :]: (info.size, str(info.mtime_ns))
        for info in infos
        if info.type == pafs.FileType.File
    }


def _passes(error: BaseException) -> bool:
    return may_pass(error) and not any(answer in str(error) for answer in _ANSWERS)


def _recall(digest: str) -> dict[str, Stamp] | None:
    # A digest comes from the spec, so it may be anything; it must not become a path then.
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        return None
    try:
        listed = json.loads((cache_folder() / "models" / f"{digest}.json").read_text(encoding="utf-8"))
        return {str(name): (int(size), str(version)) for name, (size, version) in listed["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remember(prefix: Prefix) -> None:
    file = prefix.path.with_name(f"{prefix.digest}.json")
    try:
        if not file.is_file():
            temporary = scratch() / uuid.uuid4().hex
            temporary.write_text(json.dumps({"files": prefix.files}), encoding="utf-8")
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(file)
    except OSError as error:
        raise unwritable(error) from error


def _missing(prefix: Prefix, wanted: Sequence[str]) -> list[str]:
    """Name the files that are not in the copy, or not with the size of the listing."""
    here = {name: prefix.path / name for name in wanted}
    return [
        name
        for name, file in here.items()
        if not file.is_file() or file.stat().st_size != prefix.files[name][0]
    ]


def _copied(prefix: Prefix, wanted: Sequence[str]) -> Path:
    """Copy what is missing to a temporary folder, then rename it file by file.

    It is renamed only if the store still has what was listed.
    """
    try:
        sweep()
        with tempfile.TemporaryDirectory(dir=scratch(), ignore_cleanup_errors=True) as folder:
            _copy_to(Path(folder), prefix, _missing(prefix, wanted))
    except EmbedOpsError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and here(error):
            raise unwritable(error) from error
        raise StorageError(
            f"encoder.model {prefix.address}: can't be copied ({reason(error)}); mend the storage and "
            "run the same command again"
        ) from error
    return prefix.path


def _copy_to(folder: Path, prefix: Prefix, names: Sequence[str]) -> None:
    at = locate(prefix.address)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        keep_trying(
            f"{prefix.address}: {name}",
            partial(_copy, at, name, prefix.files[name][0], folder / name),
            _passes,
        )
    there = _list(prefix.address)
    if changed := [name for name in names if there.get(name) != prefix.files[name]]:
        raise StorageError(
            f"encoder.model {prefix.address}: {changed[0]} has changed while it was copied; run the same "
            "command again"
        )
    for name in names:
        (prefix.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(prefix.path / name)


def _copy(at: Location, name: str, size: int, target: Path) -> None:
    """Copy one file; bytes that are missing are a failure that may pass."""
    pafs.copy_files(
        at.child(name).path,
        str(target),
        source_filesystem=at.fs,
        destination_filesystem=pafs.LocalFileSystem(),
        chunk_size=_CHUNK_BYTES,
    )
    if (found := target.stat().st_size) != size:
        raise OSError(f"{name}: {found} bytes came of {size}")
