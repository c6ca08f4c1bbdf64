"""A worker of the local engine: `python -m embed_ops.engine.worker_process FD`.

It takes calls from the command's process over a connection, one at a time, in its main thread, and
ends when that process does. It is started so and not by `multiprocessing`, which would run the
user's script a second time.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from inspect import isgeneratorfunction
from multiprocessing.connection import Connection
from typing import Any

from embed_ops.errors import EmbedOpsError

LEFT = 70
"""Exit code of a worker whose command has ended."""


@dataclass(frozen=True)
class Call:
    """A function to call.

    Attributes:
        function: of a module; where it is a generator function, what it yields is sent as it comes.
        arguments: of it; a `Held` or a `Stored` stands for a value.
        device: of products (`numerics/products.py`), None: numpy.
        patience: seconds after which the worker ends itself, None: it has as long as it takes.
        alone: whether products of numpy use one thread.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    device: str | None = None
    patience: float | None = None
    alone: bool = True


@dataclass(frozen=True)
class Held:
    """Stands for a value that was sent once, and that many calls read."""

    number: int


@dataclass(frozen=True)
class Stored:
    """Stands for an array in a file."""

    path: str


@dataclass(frozen=True)
class Hold:
    """Sends such a value."""

    number: int
    value: Any


@dataclass(frozen=True)
class Drop:
    """Lets go of such a value."""

    number: int


@dataclass(frozen=True)
class Stop:
    """Asks the call that runs to begin nothing further."""


@dataclass(frozen=True)
class Beat:
    """A sign of life: what is being done, and of how many inputs."""

    doing: str
    inputs: int = 0


@dataclass(frozen=True)
class Item:
    """What a generator has yielded."""

    value: Any


@dataclass(frozen=True)
class Ended:
    """A call has ended: its value, and the most bytes that the worker has held."""

    value: Any
    memory: int


@dataclass(frozen=True)
class Raised:
    """A call has raised an error: one of ours, or the text of another."""

    error: EmbedOpsError | str


@dataclass
class Channel:
    """A worker's side of the connection."""

    connection: Connection
    calls: queue.SimpleQueue[Call] = field(default_factory=queue.SimpleQueue)
    held: dict[int, Any] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def listen(self) -> None:
        """Take in what comes, from a thread; end the process where nobody is there any more."""
        try:
            while True:
                match self.connection.recv():
                    case Call() as call:
                        self.stopping.clear()
                        self.calls.put(call)
                    case Hold(number, value):
                        self.held[number] = value
                    case Drop(number):
                        self.held.pop(number, None)
                    case Stop():
                        self.stopping.set()
        except (EOFError, OSError):
            # What is being written is not there before it is whole.
            os._exit(LEFT)

    def send(self, message: Beat | Item | Ended | Raised) -> None:
        """Tell the command."""
        with self._sending:
            try:
                self.connection.send(message)
            except OSError:
                os._exit(LEFT)


_channel: Channel | None = None


def goes_on() -> bool:
    """Tell whether this process stays for further calls of the same command."""
    return _channel is not None


def beat(doing: str, inputs: int = 0) -> None:
    """Give a sign of life, in a worker of the local engine."""
    if _channel is not None:
        _channel.send(Beat(doing, inputs))


def asked_to_stop() -> bool:
    """Tell whether the call that runs shall begin nothing further."""
    return _channel is not None and _channel.stopping.is_set()


@contextmanager
def _as_asked(call: Call) -> Iterator[None]:
    with ExitStack() as stack:
        if call.patience is not None:
            from embed_ops.engine.guard import guard

            stack.enter_context(guard(call.patience))
        if call.device is not None:
            from embed_ops.numerics.products import computing_on

            stack.enter_context(computing_on(call.device))
        if call.alone:
            # A product over several threads would have other bits, and take the cores of others.
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(1))
        yield


def _received(channel: Channel, argument: Any) -> Any:
    """Give an argument as the function gets it."""
    if isinstance(argument, Held):
        return channel.held[argument.number]
    if isinstance(argument, Stored):
        import numpy as np

        return np.load(argument.path, allow_pickle=False)
    return argument


def _answer(channel: Channel, call: Call) -> Ended | Raised:
    from embed_ops.engine.memory import private_memory

    try:
        arguments = [_received(channel, argument) for argument in call.arguments]
        with _as_asked(call):
            if isgeneratorfunction(call.function):
                for value in call.function(*arguments):
                    channel.send(Item(value))
                value = None
            else:
                value = call.function(*arguments)
        return Ended(value, private_memory())
    except EmbedOpsError as error:
        return Raised(error)
    except Exception as error:
        return Raised("".join(traceback.format_exception(error)))


def main(descriptor: int) -> None:
    """Take calls until the command ends."""
    global _channel
    # Ctrl-C and a service's SIGTERM reach the whole group: the command decides, and tells.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    socket.socket(fileno=descriptor).detach()
    channel = _channel = Channel(Connection(descriptor))
    threading.Thread(target=channel.listen, daemon=True).start()
    while True:
        channel.send(_answer(channel, channel.calls.get()))


if __name__ == "__main__":
    # As the module that others import: there is one channel.
    from embed_ops.engine import worker_process

    worker_process.main(int(sys.argv[1]))
