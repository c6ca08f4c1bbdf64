"""The Ray session of a command.

Starts a local Ray or joins a cluster, and stops only what it started.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import ray.exceptions
from ray._private.authentication import authentication_token_setup

from embed_ops.engine.ray_alive import Parts, looked_after
from embed_ops.engine.ray_alone import alone, keep_token_private
from embed_ops.engine.ray_tasks import RayEngine
from embed_ops.engine.streams import LastingStream
from embed_ops.errors import AddressError, ClusterError, EmbedOpsError, EngineError

LOCAL = "local"
AUTO = "auto"
PATIENCE_S = 5.0
"""How long an address may take to answer: a head that lives answers in milliseconds."""
_IDLE_WORKERS = 16
"""Idle worker processes that a Ray of its own keeps. By default it keeps as many as there are
cores, actors counted, so that on a small machine full of replicas every reading or writing task
would start a process anew: two seconds of a core."""
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]/\s]+):(?P<port>\d{1,5})")
TOKEN_PLACES = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"


@contextmanager
def ray_session(address: str | None = None) -> Iterator[RayEngine]:
    """Open a session for the time of a `with`.

    A Ray that this process has joined already is used as it is. Otherwise `address`, then
    `RAY_ADDRESS` (set inside a Ray job), then a Ray of its own on this machine, to which no node
    will be added. At the end a Ray of its own is stopped; a cluster that was joined is left as it
    was found.

    Raises:
        AddressError: `address` has no form that Ray knows.
        ClusterError: nothing answers there within seconds, or it refuses.
    """
    if ray.is_initialized():
        yield RayEngine(elastic=True)
        return
    no_usage_statistics()
    # Ray's C++ side warns on every actor pool of Ray Data (ray issue 53727): noise that no user can
    # act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    place, named_by = _place(address)
    if place == LOCAL:
        _start()
    else:
        _join(place, named_by)
    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    parts = Parts(ray._private.worker._global_node, own=place == LOCAL)
    with looked_after(parts.lost):
        try:
            yield RayEngine(elastic=place != LOCAL)
        finally:
            parts.left = True
            ray.shutdown()


def no_usage_statistics() -> None:
    """Keep Ray from sending usage statistics.

    Unless the user has turned them on, by variable or `ray enable-usage-stats`.
    """
    try:
        config = Path(os.environ.get("RAY_USAGE_STATS_CONFIG_PATH") or Path.home() / ".ray" / "config.json")
        wanted = json.loads(config.read_text(encoding="utf-8")).get("usage_stats") is True
    except (OSError, ValueError, AttributeError, RuntimeError):
        # RuntimeError: nobody knows of a home folder.
        wanted = False
    if not wanted:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _place(address: str | None) -> tuple[str, str]:
    """Give where to go, and what named it."""
    if address is not None:
        return address.strip(), "--address"
    if address := os.environ.get("RAY_ADDRESS", "").strip():
        return address, "RAY_ADDRESS"
    return LOCAL, "default"


def require_cluster(address: str) -> None:
    """Refuse an address where no cluster answers; what Ray finds by itself is not asked.

    Raises:
        AddressError, ClusterError: as `ray_session`.
    """
    if not ray.is_initialized() and address.strip() not in (LOCAL, AUTO):
        _require_answer(address.strip(), "--address")


def _start() -> None:
    """Start a Ray that only this process uses, and only this user reaches.

    Raises:
        EngineError: it does not start.
        StorageError: the folder in the temporary folder is not this user's.
    """
    workers = (os.cpu_count() or 1) + _IDLE_WORKERS
    try:
        with alone() as private, _native_remarks_dropped():
            ray.init(
                address=LOCAL,
                **private,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _system_config={"num_workers_soft_limit": workers},
            )
    except EmbedOpsError:
        raise
    except Exception as error:  # whatever Ray finds wrong with this machine
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(
            f"Ray can't start on this machine: {reason}. Its files lie in RAY_TMPDIR (a short path), else in "
            "TMPDIR or /tmp, and in HOME: all must be writable. A machine under load may take more than Ray "
            "waits for: run the same command again. resources.engine=local needs no Ray"
        ) from error


@contextmanager
def _native_remarks_dropped() -> Iterator[None]:
    """Let only Python write to the terminal for the time of a `with`.

    Ray's native side says there that it was told to say nothing.
    """
    ours, shown = os.dup(2), sys.stderr
    try:
        with open(os.devnull, "w") as nothing, open(ours, "w", buffering=1, closefd=False) as terminal:  # noqa: PTH123
            os.dup2(nothing.fileno(), 2)
            if getattr(shown, "stream", shown) is sys.__stderr__:
                sys.stderr = LastingStream(terminal)
            try:
                yield
            finally:
                sys.stderr = shown
                os.dup2(ours, 2)
    finally:
        os.close(ours)


def _join(place: str, named_by: str) -> None:
    """Join the cluster at an address, or say in one sentence why that is not possible."""
    if place != AUTO:
        _require_answer(place, named_by)
    try:
        with _native_remarks_dropped():
            ray.init(address=place, logging_level=logging.ERROR, log_to_driver=False)
    except ray.exceptions.AuthenticationError as error:
        raise _refused(place) from error
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        # Ray says much about its own options; its first line names the reason.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(
            f"{named_by} {place}: Ray can't join a cluster there: {reason}. See `ray status` on its head node"
        ) from error


def _require_answer(place: str, named_by: str) -> None:
    """Check within seconds that a Ray head answers.

    Ray itself would try for most of a minute and log as it goes.
    """
    host, port = _host_and_port(place, named_by)
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"{named_by} {place}: no Ray cluster answers there ({error}). Start one with `ray start "
            "--head` on that machine, "
            "correct the address, or leave it out to start a Ray on this one"
        ) from error
    _greet(place, named_by)


def _host_and_port(place: str, named_by: str) -> tuple[str, int]:
    """Split host:port.

    Raises:
        AddressError: it has another form, and what form it should have.
    """
    if place.startswith(("http://", "https://")):
        raise AddressError(
            f"{named_by} {place}: that is a job server, which takes jobs and can't be joined; "
            "use `embed-ops submit`, or give the head node as host:port, usually port 6379"
        )
    if place.startswith("ray://"):
        raise AddressError(
            f"{named_by} {place}: Ray Client is not supported; give the head node as host:port, usually "
            "port 6379"
        )
    parts = _HOST_AND_PORT.fullmatch(place)
    if parts is None or not 0 < int(parts["port"]) < 2**16:
        raise AddressError(
            f"{named_by} {place!r}: give the head node as host:port, for example 10.0.0.1:6379, or auto, "
            "or local"
        )
    return parts["host"].strip("[]"), int(parts["port"])


def _greet(place: str, named_by: str) -> None:
    """Ask the head whether it is alive.

    Where it wants a token and this machine has one, turn token authentication on.

    Ray itself uses a token for a named address only if RAY_AUTH_MODE says so. A token goes only to
    a head that asks for it.
    """
    try:
        # grpcio comes with ray[default]. Without it Ray's own attempt, of up to 40 s, has to do.
        import grpc
        from ray._private.gcs_utils import create_gcs_channel
        from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    except ImportError:
        return
    for asked in range(2):
        try:
            with create_gcs_channel(place) as channel:
                stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
                stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=PATIENCE_S)
            return
        except ray.exceptions.AuthenticationError as error:
            raise _refused(place) from error
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise ClusterError(
                    f"{named_by} {place}: the port is open, but no Ray head node answers there "
                    f"({error.code().name.lower()}). "
                    "Give the port of `ray start --head`, usually 6379"
                ) from error
            if asked or not use_token():
                raise _refused(place) from error


def use_token() -> bool:
    """Turn token authentication on in this process; say whether it is on.

    It stays as it is where the user has chosen a mode, or no token is there.
    """
    logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
    on: bool = authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return on


def own_token() -> None:
    """Do for a cluster of several nodes what `ray.init` does for one.

    Authentication on, with a new token where there is none.
    """
    logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
    authentication_token_setup.enable_token_auth_by_default()
    keep_token_private()
    authentication_token_setup.ensure_token_if_auth_enabled(create_token_if_missing=True)


def _refused(place: str) -> ClusterError:
    return ClusterError(
        f"{place}: the cluster refuses this machine's authentication token, or there is none. Put the "
        "cluster's token in "
        f"{TOKEN_PLACES} (`ray get-auth-token` on its head node shows it), with RAY_AUTH_MODE unset or token"
    )
