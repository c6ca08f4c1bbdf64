"""Files that appear whole or not at all, and files that only one writer can make.

On disks and in object stores.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import inspect
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs as pafs

from embed_ops.storage.faults import patiently, storage_error
from embed_ops.storage.location import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Location, s3_settings

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def publish(root: Location, relative: str, content: bytes | pa.Buffer, attempt: str | None) -> None:
    """Let a file appear whole or not at all, replacing one of the same name.

    Disks: written under `tmp/<attempt>/` (beside it where there is no attempt), synced, renamed.
    Object stores: one upload of bytes that are complete in memory.

    Raises:
        StorageError: it could not be written; nothing half-written is visible.
        RunError: a link leads out of `root`; nothing was written.
    """
    final = root.child(relative)
    temporary = root.child(f".{uuid.uuid4().hex}" if attempt is None else f"tmp/{attempt}/{uuid.uuid4().hex}")
    final.require_inside()
    temporary.require_inside()

    def write() -> None:
        if root.local:
            _rename_on_disk(temporary.path, final.path, content)
        elif root.object_store:
            _unbroken(lambda: _put(final, content))
        else:
            _rename_remotely(temporary, final, content)

    try:
        patiently("written", final.path, write)
    except FileNotFoundError as error:
        raise storage_error("written", final.path, error) from error


def _rename_on_disk(temporary: str, final: str, content: bytes | pa.Buffer) -> None:
    place = Path(temporary)
    place.parent.mkdir(parents=True, exist_ok=True)
    Path(final).parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_synced(place, content)
        place.replace(final)
    except BaseException:
        with contextlib.suppress(OSError):
            place.unlink()
        raise


def _write_synced(place: Path, content: bytes | pa.Buffer) -> None:
    with place.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _rename_remotely(temporary: Location, final: Location, content: bytes | pa.Buffer) -> None:
    """Write and rename where there are folders and no sync: HDFS, SFTP, shared folders."""
    for place in (temporary, final):
        place.fs.create_dir(place.path.rpartition("/")[0], recursive=True)
    try:
        with temporary.fs.open_output_stream(temporary.path) as stream:
            stream.write(content)
        if final.fs.get_file_info(temporary.path).size != memoryview(content).nbytes:
            raise OSError(f"{temporary.path}: not all bytes were written")
        with contextlib.suppress(FileNotFoundError):
            # Some rename onto an existing file, some refuse to.
            final.fs.delete_file(final.path)
        final.fs.move(temporary.path, final.path)
    except BaseException:
        with contextlib.suppress(Exception):
            temporary.fs.delete_file(temporary.path)
        raise


def _unbroken(put: Callable[[], None]) -> None:
    """Upload in a thread of its own.

    Between opening and writing, an interrupt would make an empty object visible.
    """
    with ThreadPoolExecutor(1) as alone:
        alone.submit(put).result()


def _put(final: Location, content: bytes | pa.Buffer) -> None:
    if final.fsspec is not None:
        final.fsspec.pipe_file(final.path, bytes(content))
        return
    stream = final.fs.open_output_stream(final.path)
    try:
        stream.write(content)
        stream.close()
    except BaseException:
        # Arrow's stream completes its upload when it is destroyed: a part of the content would
        # become visible. There is no way to abort it from Python, so it is never destroyed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
        raise


def create(at: Location, content: bytes) -> bool:
    """Make a file only where there is none, so that of two writers one is told no.

    Exclusive on local disks (a hard link), on S3 where boto3 is installed (a conditional PUT), and
    with those fsspec file systems whose `pipe_file` has a mode. Elsewhere it looks first and then
    writes, and two writers in one moment may both be told yes.

    Args:
        at: the file.
        content: differs between writers, so that one whose answer was lost finds out that it had
            won.

    Returns:
        whether this call made it.

    Raises:
        StorageError: the storage fails.
        RunError: a link leads out of the folder that it is below.
    """
    at.require_inside()
    try:
        return patiently("created", at.path, lambda: _create(at, content))
    except FileNotFoundError as error:
        raise storage_error("created", at.path, error) from error


def _create(at: Location, content: bytes) -> bool:
    if at.local:
        return _link_on_disk(Path(at.path), content)
    made = _create_on_s3(at, content) if at.fsspec is None else _create_by_fsspec(at.fsspec, at.path, content)
    if made is None:
        if at.fs.get_file_info(at.path).type != pafs.FileType.NotFound:
            return False
        _unbroken(lambda: _put(at, content))
        return True
    if made:
        return True
    with contextlib.suppress(FileNotFoundError), at.fs.open_input_stream(at.path) as stream:
        return bool(stream.read() == content)
    return False


def _link_on_disk(final: Path, content: bytes) -> bool:
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    try:
        _write_synced(temporary, content)
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _exclusive_on_disk(final, content)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return True


def _exclusive_on_disk(final: Path, content: bytes) -> bool:
    """Where there are no hard links.

    Still exclusive, but a reader may see the file before its content.
    """
    try:
        _write_synced(final, content)
    except FileExistsError:
        return False
    return True


def _create_on_s3(at: Location, content: bytes) -> bool | None:
    """PUT on the condition that there is no such object; None where that is not offered."""
    settings = s3_settings(at)
    if settings is None or settings["role_arn"]:
        return None
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError:
        return None
    client = boto3.client("s3", **_boto3_settings(settings, botocore))
    bucket, _, key = at.path.partition("/")
    try:
        client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except botocore.exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == 412:
            return False
        if status == 501:
            return None
        raise
    finally:
        client.close()
    return True


def _boto3_settings(settings: dict[str, Any], botocore: Any) -> dict[str, Any]:
    endpoint = settings["endpoint_override"]
    if endpoint and "://" not in endpoint:
        endpoint = f"{settings['scheme']}://{endpoint}"
    unsigned = {"signature_version": botocore.UNSIGNED} if settings["anonymous"] else {}
    return {
        "region_name": settings["region"]
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or "us-east-1",
        "endpoint_url": endpoint or None,
        "aws_access_key_id": settings["access_key"],
        "aws_secret_access_key": settings["secret_key"],
        "aws_session_token": settings["session_token"] or None,
        "config": botocore.config.Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": 3},
            **unsigned,
        ),
    }


def _create_by_fsspec(filesystem: Any, path: str, content: bytes) -> bool | None:
    """Write by an exclusive mode; None where the file system has none of its own."""
    has_mode = "mode" in inspect.signature(getattr(filesystem, "_pipe_file", filesystem.pipe_file)).parameters
    own = hasattr(filesystem, "_pipe_file") or isinstance(filesystem, MemoryFileSystem | LocalFileSystem)
    if not (has_mode and own):
        return None
    try:
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(path, content, mode="create")
    except FileExistsError:
        return False
    return True
