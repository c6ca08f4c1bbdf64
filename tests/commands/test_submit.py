"""`embed-ops submit` against a real Ray head with job server and tokens, all on loopback."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpora import docstrings, write_parquet
from heads import ROOT, Head, free_port

from embed_ops.runs.verify.run import verify


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Start a head once for the module."""
    started = Head()
    try:
        started.wait()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 200 docstrings in two files."""
    folder = tmp_path_factory.mktemp("submitted") / "corpus"
    write_parquet(folder, docstrings(200), files=2)
    return folder


def spec_words(corpus: Path, model: str, run: Path, *more: str) -> list[str]:
    """Give a spec as words: twenty units, one replica, no parity check."""
    words = [
        f"source.path={corpus}",
        "source.column=text",
        f"encoder.model={model}",
        f"sink.path={run}",
        "parity.rows=0",
    ]
    return [*words, "resources.unit_rows=10", "resources.replicas=1", *more]


@pytest.fixture(scope="module")
def long_words(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Give a spec, but for its sink, that can be caught in the middle.

    150 units, and every text a batch of its own.
    """
    folder = tmp_path_factory.mktemp("long") / "corpus"
    write_parquet(folder, docstrings(600) * 5, files=2)
    words = [
        f"source.path={folder}",
        "source.column=text",
        f"encoder.model={tiny}",
        "parity.rows=0",
        "resources.replicas=1",
    ]
    return [*words, "resources.unit_rows=20", "resources.token_budget=1", "--no-install"]


def started_job(process: subprocess.Popen[str]) -> str:
    """Read what a command says until it names its job."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(r"submitted job (\S+)", line):
            return found[1]
    raise AssertionError(said)


def wait_for_units(run: Path, units: int) -> None:
    """Wait until so many units stand whole in the run directory."""
    deadline = time.monotonic() + 120
    while sum(1 for _ in (run / "data").rglob("*.parquet")) < units:
        assert time.monotonic() < deadline, "the job writes nothing"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_embeds(head: Head, corpus: Path, tiny: str, tmp_path: Path) -> None:
    """A spec file beside others, a word over it, and a token from its file.

    The job's log and its exit code 0 come back.
    """
    (tmp_path / "run.toml").write_text(
        f"""
        [source]
        path = "{corpus}"
        column = "text"
        keep = ["id"]
        [encoder]
        model = "{tiny}"
        outputs = [{{ name = "v", pooling = "mean" }}]
        [parity]
        rows = 0
        [sink]
        path = "nowhere"
        [resources]
        replicas = 1
        """
    )
    code, said = head.run(str(tmp_path / "run.toml"), f"sink.path={tmp_path / 'run'}", "--no-install")
    assert code == 0, said
    assert "submitted job" in said
    assert "200 rows" in said or "200, 0 rejected" in said
    assert "Traceback" not in said
    assert said.count("embed-ops: ") == 1, "a line of the log was shown twice"
    assert verify(str(tmp_path / "run"), source=True).differences == []


FROM_A_FOLDER = """
import sys
from pathlib import Path
from embed_ops.engine.environment import environment
from embed_ops.engine.job_server import JobServer

runtime = environment(Path(sys.argv[2]))
# What it depends on is here already: pip would have nothing to do but to copy this environment.
assert runtime.pop("pip")["packages"] != []
server = JobServer(sys.argv[1])
job = server.submit("python -c 'import embed_ops; print(embed_ops.__file__)'", runtime)
sys.exit(server.follow(job, lambda line: sys.stdout.write(line + chr(10))))
"""


@pytest.mark.slow
def test_from_any_folder(head: Head, tmp_path: Path) -> None:
    """Without a checkout the job imports the package of this machine, which went up with it."""
    line = [sys.executable, "-c", FROM_A_FOLDER, head.address, str(tmp_path)]
    told = {**head.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=told, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "py_modules_files" in done.stdout


def test_refusals_are_one_sentence(head: Head, corpus: Path, tiny: str, tmp_path: Path) -> None:
    """A bad spec, a wrong token, no server, a wrong kind of address.

    Told at once, and no job is begun.
    """
    good = spec_words(corpus, tiny, tmp_path / "run")
    cases: list[tuple[list[str], dict[str, str], int, str]] = [
        ([*good, "source.kolumn=text"], {}, 2, "did you mean 'column'?"),
        ([*good, "--stop-after", "soon"], {}, 2, "90s, 30m or 2h"),
        ([*good, "--no-install", "--working-dir", str(corpus)], {}, 2, "holds the data itself"),
        (
            [*good, "--no-install"],
            {"RAY_AUTH_TOKEN": "0" * 64},
            3,
            "refuses this machine's authentication token",
        ),
        (
            [*good, "--no-install"],
            {"RAY_AUTH_TOKEN_PATH": "/nonexistent"},
            3,
            "refuses this machine's authentication token",
        ),
        (
            [*good, "--no-install", "--address", f"http://127.0.0.1:{free_port()}"],
            {},
            3,
            "no job server answers there",
        ),
        ([*good, "--no-install", "--address", head.gcs], {}, 2, "give the cluster's job server"),
        (["--attach", "nosuchjob"], {}, 2, "no job nosuchjob there"),
        ([], {}, 2, "give a spec to submit it"),
    ]
    running = []
    for words, env, code, sentence in cases:
        line = [sys.executable, "-m", "embed_ops", "submit", *words] + (
            [] if "--address" in words else ["--address", head.address]
        )
        process = subprocess.Popen(
            line,
            env=head.env | env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        running.append((process, words, code, sentence))
    for process, words, code, sentence in running:
        said = process.communicate()[0]
        assert (process.returncode, sentence in said) == (code, True), (words, said)
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
    assert "submitted job" not in said


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray's job client is not installed, the sentence names the extra."""
    import importlib.util

    from embed_ops.engine import job_server as submit
    from embed_ops.errors import AddressError

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "aiohttp" else real(name, *more)
    )
    with pytest.raises(AddressError, match=r"embed-ops\[cluster\]"):
        submit.JobServer("http://127.0.0.1:8265")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["source.path={folder}/nowhere"], 2, "nothing there"),
        (["--stop-after", "0.1s"], 3, "as asked"),
        (["source.path={folder}/bad", "resources.unit_rows=1000"], 1, "5 rejected"),
    ],
)
def test_exit_codes_come_through(
    more: list[str], code: int, sentence: str, head: Head, corpus: Path, tiny: str, tmp_path: Path
) -> None:
    """What the job ends with is what the command ends with."""
    write_parquet(tmp_path / "bad", [*docstrings(20), *[None] * 5], files=1)
    filled = [word.format(folder=tmp_path) for word in more]
    found, said = head.run(*spec_words(corpus, tiny, tmp_path / "run"), *filled, "--no-install")
    assert (found, sentence in said) == (code, True), said
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_environment_without_the_packages(head: Head, corpus: Path, tiny: str, tmp_path: Path) -> None:
    """A job that can't find its own code is a bad environment, not a run that is done."""
    # Here the packages are installed for editing, so that they are found from everywhere; the job
    # takes that back.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path[:] = [one for one in sys.meta_path if 'Editable' not in repr(one)]\n"
    )
    words = [*spec_words(corpus, tiny, tmp_path / "run"), "--no-install", "--working-dir", str(tmp_path)]
    code, said = head.run(*words)
    assert (code, "the cluster has no Python module 'embed_ops'" in said) == (2, True), said


@pytest.mark.slow
def test_detach_and_attach(head: Head, long_words: list[str], tmp_path: Path) -> None:
    """Ctrl-C leaves the job running and says how to come back.

    Attaching shows the log to its end and gives the exit code.
    """
    process = head.start(*long_words, f"sink.path={tmp_path / 'run'}")
    job = started_job(process)
    wait_for_units(tmp_path / "run", 1)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 3, said
    assert f"detached; job {job} goes on" in said
    assert f"--attach {job}" in said
    assert f"--stop {job}" in said
    assert "Traceback" not in said
    code, said = head.run("--attach", job)
    assert code == 0, said
    assert said.count("embed-ops: ") == 1
    assert verify(str(tmp_path / "run"), source=True).differences == []


@pytest.mark.slow
def test_stop(head: Head, long_words: list[str], tmp_path: Path) -> None:
    """A stopped job ends early with exit code 3, and submitting it again goes on."""
    words = [*long_words, f"sink.path={tmp_path / 'run'}"]
    follower = head.start(*words)
    job = started_job(follower)
    wait_for_units(tmp_path / "run", 2)
    code, said = head.run("--stop", job)
    assert (code, f"job {job} is stopped" in said) == (0, True), said
    said = follower.communicate()[0]
    assert follower.returncode == 3, said
    done = sum(1 for _ in (tmp_path / "run" / "data").rglob("*.parquet"))
    assert done < 150
    assert head.run("--stop", job) == (0, f"job {job} was over already\n")
    code, said = head.run(*words)
    assert code == 0, said
    assert verify(str(tmp_path / "run"), source=True).differences == []
