"""Worker processes of this command: started, spoken to, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from embed_ops.engine.worker_process import (
    Beat,
    Call,
    Drop,
    Ended,
    Held,
    Hold,
    Item,
    Raised,
    Stop,
)
from embed_ops.errors import EngineError

_MODULE = "embed_ops.engine.worker_process"
_LAST_BYTES, _MOST_WORDS = 20_000, 400
_TELLING = ("Timeout (", "Fatal Python error", "embed-ops: ", "MemoryError")
_END_S = 5.0
_BEYOND = 1_000
"""More than any machine has cores: places of calls that are made while others are answered."""
Place = tuple[int, str | None]
Said = Beat | Item | Ended | Raised


@dataclass(frozen=True)
class Died:
    """A worker has died in the middle of a call; `how` in words."""

    how: str


@dataclass(eq=False)
class Shared:
    """A value that many calls read; each worker gets it once."""

    number: int
    value: Any


def in_words(exit_code: int | None) -> str:
    """Say how a process ended."""
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"


class Worker:
    """One worker process; what it writes to its terminal goes to a file that nobody else sees."""

    def __init__(self, gpu: str | None) -> None:
        """Start it; it computes on that GPU, or on CPUs."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._log = tempfile.TemporaryFile()
                self.process = subprocess.Popen(
                    # -P: what lies where the command runs is not to stand before what is installed.
                    [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    env=_environment(gpu),
                )
            except OSError as error:
                ours.close()
                raise EngineError(
                    f"a worker process can't be started: {error.strerror or error}; free memory, processes "
                    "or space for temporary files, and run the same command again"
                ) from error
        self.connection = Connection(ours.detach())
        self._holds: set[int] = set()
        self._stopping = False
        self.busy = False

    def begin(self, call: Call) -> None:
        """Let it make a call; values that it lacks are sent before."""
        self._stopping, self.busy = False, True
        arguments = []
        for argument in call.arguments:
            if isinstance(argument, Shared):
                if argument.number not in self._holds:
                    self._holds.add(argument.number)
                    self._send(Hold(argument.number, argument.value))
                arguments.append(Held(argument.number))
            else:
                arguments.append(argument)
        self._send(Call(call.function, tuple(arguments), call.device, call.patience, call.alone))

    def ask_to_stop(self) -> None:
        """Ask the call that runs to begin nothing further."""
        if not self._stopping:
            self._stopping = True
            self._send(Stop())

    def drop(self, number: int) -> None:
        """Let go of a shared value."""
        if number in self._holds:
            self._holds.discard(number)
            self._send(Drop(number))

    def hear(self) -> Said | Died:
        """Take what it says next; it must have something to say, or be dead."""
        try:
            said: Said = self.connection.recv()
        except (EOFError, OSError):
            self.busy = False
            return Died(self._how())
        self.busy = isinstance(said, Beat | Item)
        return said

    def end(self) -> None:
        """End it, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.wait()
        self._log.close()

    def _send(self, message: Call | Hold | Drop | Stop) -> None:
        """Send; that it is dead is heard later."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def _how(self) -> str:
        try:
            code = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LAST_BYTES))
        words = _last_words(self._log.read().decode(errors="replace"))
        return in_words(code) + (f" and had said: {words}" if words else "")


def _last_words(text: str) -> str:
    """Find the line that tells why a process ended: what says so, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(_TELLING)]
    return (telling or lines or [""])[-1][:_MOST_WORDS]


def _environment(gpu: str | None) -> dict[str, str]:
    """Give a worker the modules of this process, and one thread where nothing else is asked for."""
    path = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    return os.environ | own | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})


@dataclass
class Workers:
    """The workers of a session, each in a place of its own: (number, GPU or None)."""

    _started: dict[Place, Worker] = field(default_factory=dict)
    _shared: int = 0
    _dropped: list[int] = field(default_factory=list)

    def at(self, place: Place) -> Worker:
        """Give the worker of a place; one that died is replaced."""
        while self._dropped:
            number = self._dropped.pop()
            for worker in self._started.values():
                worker.drop(number)
        if place not in self._started:
            self._started[place] = Worker(place[1])
        return self._started[place]

    def idle(self, place: Place) -> Place:
        """Give this place, or one beyond where its worker has a call of somebody else."""
        number, gpu = place
        while (number, gpu) in self._started and self._started[number, gpu].busy:
            number += _BEYOND
        return number, gpu

    def end(self, place: Place) -> None:
        """End the worker of a place."""
        if (worker := self._started.pop(place, None)) is not None:
            worker.end()

    def end_all(self) -> None:
        """End all of them."""
        for place in list(self._started):
            self.end(place)

    def share(self, value: Any) -> Shared:
        """Let workers have a value, for as long as what this gives is held."""
        self._shared += 1
        shared = Shared(self._shared, value)
        # Called from wherever the last reference goes: not the moment to write to a connection.
        weakref.finalize(shared, self._dropped.append, shared.number)
        return shared
