"""`embed-ops submit SPEC`: the same spec as a job on a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embed_ops.commands.field_table import field_help
from embed_ops.commands.options import (
    EXIT_CODES,
    Grace,
    LogLevel,
    StopAfter,
    Words,
    load_spec,
    seconds,
)
from embed_ops.commands.running import verb
from embed_ops.engine.environment import environment, secrets_inside
from embed_ops.errors import AddressError
from embed_ops.redaction import holds_secret
from embed_ops.spec.spec import Spec
from embed_ops.spec.toml import spec_words
from embed_ops.terminal import PlainConsole

if TYPE_CHECKING:
    from embed_ops.engine.job_server import JobServer

HELP = (
    "Run `embed` as a job on a Ray cluster: the working directory is uploaded, the log is followed, and "
    "the exit code is the job's. "
    f"Ctrl-C detaches and leaves the job running.\n\n{EXIT_CODES}\n\n{field_help('submit')}"
)

ServerAddress = Annotated[
    str | None,
    typer.Option(
        help="the cluster's job server, as http://head:8265; by default RAY_API_SERVER_ADDRESS",
        show_default=False,
    ),
]
WorkingDir = Annotated[
    Path, typer.Option(help="folder to upload and run in: a checkout of embed-ops, or your project")
]
Image = Annotated[
    str | None,
    typer.Option(help="container image to run in, instead of uploading and installing", show_default=False),
]
NoInstall = Annotated[bool, typer.Option("--no-install", help="the cluster has the packages; upload only")]
Attach = Annotated[
    str | None, typer.Option(metavar="ID", help="follow a job that was submitted before", show_default=False)
]
Stop = Annotated[
    str | None,
    typer.Option(metavar="ID", help="stop a job: it finishes its units in flight", show_default=False),
]


@verb
def run(
    words: Words = None,
    address: ServerAddress = None,
    working_dir: WorkingDir = Path(),
    image: Image = None,
    no_install: NoInstall = False,
    attach: Attach = None,
    stop: Stop = None,
    log_level: LogLevel = "warning",
    stop_after: StopAfter = None,
    grace: Grace = "25s",
) -> int:
    """Submit, attach or stop."""
    from embed_ops.engine.job_server import JobServer

    console = PlainConsole(stderr=True, soft_wrap=True)
    if (attach is not None) + (stop is not None) + bool(words) != 1:
        raise AddressError("give a spec to submit it, or --attach ID, or --stop ID")
    if stop is not None:
        was_running = JobServer(address).stop(stop)
        console.print(f"job {stop} {'is stopped' if was_running else 'was over already'}")
        return 0
    if attach is not None:
        return _follow(JobServer(address), attach, console)
    tree = _from_everywhere(load_spec(words))
    for option, given in (("--stop-after", stop_after), ("--grace", grace)):
        if given is not None:
            seconds(option, given)
    if holds_secret(tree):
        raise AddressError(
            "an address of the spec brings a secret, and everybody who sees the cluster's jobs sees their "
            "command lines: leave it out, and give the credentials to the cluster's nodes by their "
            "environment"
        )
    sources = tree["source"]["path"]
    addresses = [
        *([sources] if isinstance(sources, str) else sources),
        tree["sink"]["path"],
        tree["encoder"]["model"],
    ]
    runtime = environment(
        working_dir,
        image=image,
        install=not no_install,
        leave_out=(path for path in addresses if "://" not in path),
    )
    if left_out := secrets_inside(working_dir) if image is None else []:
        console.print(f"not uploaded, since secrets may lie there: {', '.join(left_out)}")
    options = ["--progress", "plain", "--log-level", log_level]
    options += ["--stop-after", stop_after] if stop_after else []
    command = ["python", "-m", "embed_ops", "embed", *spec_words(tree), *options, "--grace", grace]
    server = JobServer(address)
    job = server.submit(shlex.join(command), runtime)
    console.print(f"submitted job {job} to {server.address}; Ctrl-C detaches")
    return _follow(server, job, console)


def _from_everywhere(spec: Spec) -> dict[str, Any]:
    """Give the fields that were set, with absolute local paths.

    The job runs in a copy of the working directory, without the data.
    """
    from embed_ops.storage.location import full_address

    tree: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
    given = tree["source"]["path"]
    tree["source"]["path"] = (
        full_address(given) if isinstance(given, str) else [full_address(path) for path in given]
    )
    tree["sink"]["path"] = full_address(tree["sink"]["path"])
    if Path(tree["encoder"]["model"]).exists():
        tree["encoder"]["model"] = full_address(tree["encoder"]["model"])
    return tree


def _follow(server: JobServer, job: str, console: PlainConsole) -> int:
    """Show the log until the job ends or the user has seen enough."""
    from embed_ops.engine.job_server import STOPPED

    log = PlainConsole(soft_wrap=True)
    try:
        return server.follow(job, lambda line: log.print(line))
    except KeyboardInterrupt:
        again = f"embed-ops submit --address {server.address}"
        console.print(f"\ndetached; job {job} goes on")
        console.print(
            f"  follow it: {again} --attach {job}\n  stop it:   {again} --stop {job}",
        )
        return STOPPED
