"""Jobs on a cluster's job server.

The folder goes up, the log comes back, and the exit code is the job's own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import ray.exceptions
import tenacity

from embed_ops.engine.environment import GRACE_S
from embed_ops.engine.ray_session import PATIENCE_S, TOKEN_PLACES, use_token
from embed_ops.errors import AddressError, ClusterError

OUTAGE_S = 120.0
"""How long the job server may be away while a job is followed."""
POLL_S = 0.5
STOPPED = 3
_NO_MODULE = re.compile(r"No module named '?([\w.]+)'?")


class JobServer:
    """A cluster's job server, by its HTTP address.

    Raises:
        AddressError: the address has another form, or `ray[default]` is not installed here.
        ClusterError: nothing answers there within seconds, or it refuses the token.
    """

    def __init__(self, address: str | None) -> None:
        given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
        self.address = _require_server(given)
        with _explained(self.address):
            self._client = self._connect()

    def _connect(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            # Ray prefers these variables to the address that it is given.
            try:
                return JobSubmissionClient(self.address)
            except ray.exceptions.AuthenticationError:
                if not use_token():
                    raise
            return JobSubmissionClient(self.address)

    def submit(self, entrypoint: str, runtime: dict[str, Any]) -> str:
        """Upload what the environment names and start a shell command there; gives the job's id.

        A head that has just started has no agent yet to take jobs: that is waited for.
        """
        starting = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: "No available agent" in str(error)),
            wait=tenacity.wait_fixed(POLL_S),
            stop=tenacity.stop_after_delay(OUTAGE_S),
            reraise=True,
        )
        with _explained(self.address):
            try:
                job: str = starting(self._client.submit_job, entrypoint=entrypoint, runtime_env=runtime)
            except ValueError as error:
                raise AddressError(f"--working-dir {runtime.get('working_dir')}: {error}") from error
        return job

    def follow(self, job: str, show: Callable[[str], None]) -> int:
        """Show a job's log from its start, line by line, until the job ends; gives its exit code.

        A server that is away for less than two minutes is waited for; no line is shown twice. The
        code of a job that was stopped or killed is 3: the same command goes on.

        Raises:
            ClusterError: there is no such job, its environment could not be made, or the server
                stays away.
        """
        tail = _Tail(show)
        retries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_outage),
            wait=tenacity.wait_exponential(multiplier=POLL_S, max=10),
            stop=tenacity.stop_after_delay(OUTAGE_S),
            reraise=True,
        )
        while True:
            # Each time the server answers, its next outage may last as long as the one before.
            with _explained(self.address, job):
                details = retries(self._client.get_job_info, job)
            if details.status.is_terminal():
                self._rest(job, tail)
                return _code(job, details)
            with suppress(*_OUTAGES):
                asyncio.run(tail.read(self._client, job))
            time.sleep(POLL_S)

    def _rest(self, job: str, tail: _Tail) -> None:
        """Show what of the log has not been seen: a job that is over before it began has none."""
        with suppress(*_OUTAGES):
            tail.take(self._client.get_job_logs(job), whole=True)
        tail.end()

    def stop(self, job: str) -> bool:
        """Ask a job to end and wait for it; says whether it was running.

        Raises:
            ClusterError: there is no such job, or it goes on after its time of grace.
        """
        with _explained(self.address, job):
            running: bool = self._client.stop_job(job)
            deadline = time.monotonic() + GRACE_S + OUTAGE_S
            while not self._client.get_job_info(job).status.is_terminal():
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{self.address}: job {job} has not ended {GRACE_S} s after it was asked to; see "
                        "`ray list jobs` there"
                    )
                time.sleep(POLL_S)
        return running


class _Tail:
    """What of a log has been shown: the server sends it from the start each time."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._seen = 0
        self._line = ""

    async def read(self, client: Any, job: str) -> None:
        """Follow the log until the server closes it."""
        sent = 0
        async for text in client.tail_job_logs(job):
            new = text[max(0, self._seen - sent) :]
            sent += len(text)
            self.take(new)

    def take(self, text: str, *, whole: bool = False) -> None:
        """Show the whole lines of what came; of a whole log, what is new in it."""
        text = text[self._seen :] if whole else text
        self._seen += len(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._show(line)

    def end(self) -> None:
        """Show a last line that has no end."""
        if self._line:
            self._show(self._line)
            self._line = ""


def _code(job: str, details: Any) -> int:
    """Give the exit code of a job that is over.

    Raises:
        ClusterError: it never ran, for a reason that is the environment's.
    """
    code, message = details.driver_exit_code, (details.message or "").strip()
    if code is None and details.status.value == "FAILED":
        raise ClusterError(f"job {job} could not be started on the cluster: {message[-2000:]}")
    missing = _NO_MODULE.search(message.splitlines()[-1]) if code == 1 and message else None
    if missing is not None:
        raise AddressError(
            f"job {job}: the cluster has no Python module {missing[1]!r}; submit from a checkout that "
            "holds it, name an image that has "
            "it, or leave out --no-install"
        )
    return code if code in range(STOPPED + 1) else STOPPED


def _require_server(address: str | None) -> str:
    """Check the address: its form, that Ray's job client is installed, that something answers.

    Raises:
        AddressError, ClusterError: which of these is not so.
    """
    example = "give the cluster's job server, for example --address http://head:8265"
    if not address:
        raise AddressError(f"no address: {example}")
    parts = urlsplit(address)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise AddressError(f"--address {address}: {example}")
    if importlib.util.find_spec("aiohttp") is None:
        raise AddressError(
            "submitting jobs needs Ray's job client, which is not installed here: pip install "
            "'embed-ops[cluster]'"
        )
    try:
        socket.create_connection((parts.hostname, port), timeout=PATIENCE_S).close()
    except OSError as error:
        raise ClusterError(
            f"--address {address}: no job server answers there ({error}). It runs on the head node, by "
            "default on port 8265 of its "
            "loopback only: open a tunnel with `ssh -N -L 8265:localhost:8265 HEAD` and give "
            "http://localhost:8265"
        ) from error
    return address.rstrip("/")


def _outages() -> tuple[type[Exception], ...]:
    """List what a server that is away for a moment raises; part of it comes with `ray[default]`."""
    import requests

    outages: list[type[Exception]] = [
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        OSError,
        RuntimeError,
    ]
    with suppress(ImportError):
        import aiohttp

        outages.append(aiohttp.ClientError)
    return tuple(outages)


_OUTAGES = _outages()


def _is_outage(error: BaseException) -> bool:
    """Tell whether to ask again.

    Ray raises RuntimeError for every answer but 200, and 404 is an answer.
    """
    return isinstance(error, _OUTAGES) and "status code 404" not in str(error)


@contextmanager
def _explained(address: str, job: str | None = None) -> Iterator[None]:
    """Turn what Ray's client raises into one sentence."""
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"{address}: the job server refuses this machine's authentication token, or there is none. "
            "Put the cluster's token in "
            f"{TOKEN_PLACES} (`ray get-auth-token` on its head node shows it), with RAY_AUTH_MODE unset "
            "or token"
        ) from error
    except _OUTAGES as error:
        if job is not None and "status code 404" in str(error):
            raise AddressError(
                f"{address}: no job {job} there; `ray job list --address {address}` shows all"
            ) from error
        if job is not None:
            raise ClusterError(
                f"{address}: the job server stays away ({error}). Job {job} may be running; attach to it "
                "again once the server answers"
            ) from error
        raise ClusterError(
            f"{address}: the job server does not do as asked: {str(error).strip()[-1000:]}"
        ) from error


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide environment variables for the time of a `with`."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
