"""Worker processes of a command: deaths, what is left behind, noise, and which engine is chosen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from embed_ops.engine import choice
from embed_ops.engine.base import ONE_CORE, Engine
from embed_ops.engine.choice import Planned, choose
from embed_ops.engine.errors import WorkerDied
from embed_ops.engine.local_tasks import LocalEngine, local_session
from embed_ops.engine.processes import Died, _last_words
from embed_ops.engine.worker_process import Beat, Ended, Item, asked_to_stop, beat
from embed_ops.errors import AddressError, EngineError, Stopped, StorageError


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    """Open a session of its own."""
    with local_session() as opened:
        yield opened


def die_once(mark: str, value: int) -> int:
    """Kill this process, unless somebody has been killed before."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def die() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """Meet a fault of the program."""
    raise ZeroDivisionError("by hand")


def count(most: int) -> Iterator[int]:
    """Give numbers until asked to stop."""
    for number in range(most):
        beat("counting")
        if asked_to_stop():
            return
        yield number
        time.sleep(0.01)


def whoami() -> int:
    """Name this process."""
    return os.getpid()


def test_a_worker_that_dies_is_replaced(engine: LocalEngine, tmp_path: Path) -> None:
    """Its call is made again, the others are not; where workers die each time, it is said how."""
    calls = [(str(tmp_path / "mark"), number) for number in range(20)]
    assert engine.all(die_once, calls) == list(range(20))
    with pytest.raises(WorkerDied, match=r"a worker process was killed by SIGKILL\. Run the same"):
        engine.all(die, [()])


def test_what_a_worker_said_last_is_told(engine: LocalEngine) -> None:
    """The terminal of a dead worker is where its cause is."""
    with pytest.raises(WorkerDied, match="ended with exit code 3 and had said: no more"):
        engine.all(exec, [("import os, sys; sys.stderr.write('no more'); sys.stderr.flush(); os._exit(3)",)])


def test_the_line_that_tells() -> None:
    """Of a crash report it is the first line, not the last; of plain output the last one."""
    report = (
        "loading\nFatal Python error: Segmentation fault\n\nCurrent thread:\n  File a\nExtension modules: b"
    )
    assert _last_words(report) == "Fatal Python error: Segmentation fault"
    assert _last_words("one\n\ntwo\n") == "two"
    assert _last_words("") == ""


def test_a_worker_that_can_not_be_started(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more processes, no more memory: one sentence."""

    def refuse(*given: object, **more: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(EngineError, match="can't be started: Resource temporarily unavailable; free memory"):
        engine.all(abs, [(-1,)])


def test_no_room_for_arrays(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temporary folder is full, it is named."""
    members = engine.begin(np.split, (np.arange(4), 2), 2)
    engine.folder.joinpath(members[0].path.name).unlink()
    engine.folder.joinpath(members[0].path.name).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device: arrays on their way"):
        engine.all(np.sum, [(members[0],)])


def test_a_fault_of_the_program(engine: LocalEngine) -> None:
    """Its traceback comes along, and the worker lives on."""
    with pytest.raises(EngineError, match=r"ZeroDivisionError: by hand"):
        engine.all(fail, [()])
    assert engine.all(abs, [(-2,)]) == [2]


def test_the_same_worker_goes_on(engine: LocalEngine) -> None:
    """What was loaded for `once` is there for what follows."""
    first = engine.once(whoami, claim=ONE_CORE, patience=60)
    assert engine.all(whoami, [()]) == [first]
    assert first != os.getpid()


def test_calls_while_others_are_answered(engine: LocalEngine) -> None:
    """A loop over values may make calls of its own: they get workers of their own."""
    pairs = [(number, engine.all(abs, [(-number,)])) for number, _ in engine.each(abs, [(0,), (-1,), (-2,)])]
    assert sorted(pairs) == [(0, [0]), (1, [1]), (2, [2])]


def test_a_stream(engine: LocalEngine) -> None:
    """What a generator gives comes as it is made, with signs of life, and then an end."""
    with closing(engine.stream(count, [(3,), (2,)], claim=ONE_CORE, most=1, look_up=lambda: None)) as said:
        heard = list(said)
    assert [(number, message.value) for number, message in heard if isinstance(message, Item)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]
    assert any(isinstance(message, Beat) for _, message in heard)
    assert sum(isinstance(message, Ended) for _, message in heard) == 2


def test_a_stream_that_dies(engine: LocalEngine) -> None:
    """A death is told, and the next call gets another worker."""
    with closing(engine.stream(die, [()], claim=ONE_CORE, most=1, look_up=lambda: None)) as said:
        assert [type(message) for _, message in said] == [Died]
    assert engine.all(abs, [(-1,)]) == [1]


def test_a_stream_is_asked_to_stop(engine: LocalEngine) -> None:
    """The call that runs is told, ends by itself, and no other is begun."""
    heard = []

    def stop_at_the_first() -> None:
        calls = [(1000,), (1000,)]
        for _, message in engine.stream(count, calls, claim=ONE_CORE, most=1, look_up=lambda: None):
            heard.append(message)
            if isinstance(message, Item):
                engine.stop.ask()

    with pytest.raises(Stopped):
        stop_at_the_first()
    assert 0 < sum(isinstance(message, Item) for message in heard) < 100


def test_arrays_of_other_calls_do_not_stay(engine: LocalEngine) -> None:
    """A file lasts as long as what stands for it."""
    members = engine.begin(np.split, (np.arange(4), 2), 2)
    assert engine.all(np.sum, [(members[0],), (members[1],)]) == [1, 5]
    assert len(list(engine.folder.iterdir())) == 2
    del members
    assert list(engine.folder.iterdir()) == []


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """At the end of a session its processes and its folder are gone."""
    with local_session() as engine:
        pid, folder = engine.once(whoami, claim=ONE_CORE, patience=60), engine.folder
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


_KILLED = """
import os, time
from embed_ops.engine.base import ONE_CORE
from embed_ops.engine.local_tasks import local_session
with local_session() as engine:
    print(engine.once(os.getpid, claim=ONE_CORE, patience=60), flush=True)
    engine.all(time.sleep, [(60,)])
"""


def test_workers_end_with_their_command() -> None:
    """A command that is killed leaves no worker behind, not even in the middle of a call."""
    line = [sys.executable, "-c", _KILLED]
    command = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    worker = psutil.Process(int(command.stdout.readline()))
    command.kill()
    command.wait()
    command.stdout.close()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()


def test_signals_are_the_commands(engine: LocalEngine) -> None:
    """Ctrl-C reaches the whole group, a service's SIGTERM too: the command decides."""
    pid = engine.once(whoami, claim=ONE_CORE, patience=60)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert engine.once(whoami, claim=ONE_CORE, patience=60) == pid


@pytest.mark.parametrize(
    ("planned", "address", "engine", "why"),
    [
        (Planned(1000, 5_000_000), None, "local", "1,000 rows, 5.0 MB"),
        (Planned(None, 5_000_000), None, "local", "5.0 MB"),
        (Planned(choice.FEW_ROWS + 1, 5_000_000), None, "ray", "more than"),
        (Planned(None, choice.FEW_BYTES + 1), None, "ray", "more than"),
        (Planned(10, 10), "auto", "ray", "--address is auto"),
        (Planned(10, 10, "ray"), None, "ray", 'resources.engine is "ray"'),
        (Planned(10**9, 10**12, "local"), None, "local", 'resources.engine is "local"'),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch, planned: Planned, address: str | None, engine: str, why: str
) -> None:
    """Small work stays here unless somebody says otherwise; the reason is told."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(choice, "_joined", lambda: False)
    chosen = choose(planned, address)
    assert chosen.engine == engine
    assert why in chosen.why


def test_choice_of_a_job_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitted job runs on its cluster; to be local and elsewhere is refused."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose(Planned(10, 10), None).why == "RAY_ADDRESS is 10.0.0.1:6379"
    assert choose(Planned(10, 10, "local"), None).engine == "local"
    with pytest.raises(AddressError, match=r'resources\.engine is "local": leave one of them out'):
        choose(Planned(10, 10, "local"), "auto")


def test_ray_is_not_imported() -> None:
    """A command on worker processes knows nothing of Ray, nor of torch where no model runs."""
    code = (
        "import sys; from embed_ops.engine.session import session; "
        "from embed_ops.engine.choice import Planned\n"
        "with session(Planned(1, 1)) as engine: engine.all(abs, [(-1,)])\n"
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def _typed(engine: LocalEngine) -> Engine:
    """Let a type checker see that the protocol is kept."""
    return engine
