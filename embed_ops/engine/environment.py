"""What a submitted job is given.

The files that go up, the packages that are installed, or an image.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import importlib.metadata
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from embed_ops.errors import AddressError

EXCLUDES = (
    *(
        ".git",
        ".hg",
        ".venv",
        "venv",
        ".tox",
        "node_modules",
        "build",
        "dist",
        "*.egg-info",
        ".ipynb_checkpoints",
    ),
    *(
        "__pycache__",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        ".import_linter_cache",
        ".cache",
    ),
)
"""Never uploaded, beside what `.gitignore` and `.rayignore` name: environments and caches."""
SECRETS = (
    *(".ssh", ".aws", ".azure", ".config", ".docker", ".gnupg", ".kube", ".oci", ".ray", ".terraform.d"),
    *(".netrc", ".env*", ".git-credentials", ".pgpass", ".npmrc", ".pypirc", ".boto", ".s3cfg"),
    *(".vault-token", ".huggingface", ".databrickscfg", ".htpasswd", ".my.cnf", "auth_token"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.tfstate*"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
)
"""Never uploaded either, wherever it lies in the folder: what holds keys and passwords."""
_TOLD = 10
GRACE_S = 600
"""Seconds between the request to stop a job and the end of its process: it finishes its units in
flight. Ray's own is 3."""
_OURS = "embed_ops"
_CONSTRAINTS, _PROJECT, _REQUIREMENTS = "constraints.txt", "pyproject.toml", "requirements.txt"
_UPLOADED = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"


def environment(
    folder: Path | None, *, image: str | None = None, install: bool = True, leave_out: Iterable[str] = ()
) -> dict[str, Any]:
    """Describe a job's runtime environment.

    Args:
        folder: what is uploaded and becomes the job's working directory; nothing is uploaded where
            an image is named, since Ray can't do both.
        image: container image in which the job and its workers run.
        install: install what the folder's `pyproject.toml` depends on, or its `requirements.txt`
            lists, in the versions of its `constraints.txt`. Where the folder is no checkout of
            embed-ops, this package goes up beside it, with what it depends on.
        leave_out: local paths of data; those inside the folder are not uploaded.

    Raises:
        AddressError: the folder is not there.
    """
    described: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S)}}
    if image is not None:
        return described | {"image_uri": image}
    if folder is None or not folder.is_dir():
        raise AddressError(f"--working-dir {folder}: no such folder; give the one that the job is to run in")
    described |= {"working_dir": str(folder), "excludes": [*EXCLUDES, *SECRETS, *_inside(folder, leave_out)]}
    if install:
        if not (folder / _OURS).is_dir():
            described["py_modules"] = [str(Path(__file__).parents[1])]
        described["pip"] = {"packages": _packages(folder)}
    return described


def secrets_inside(folder: Path) -> list[str]:
    """Name what is not uploaded of a folder since it may hold secrets, the first few."""
    told: list[str] = []
    for here, folders, files in os.walk(folder):
        hidden = [name for name in (*folders, *files) if _matches(name, SECRETS)]
        told += (Path(here, name).relative_to(folder).as_posix() for name in sorted(hidden))
        folders[:] = [name for name in folders if name not in hidden and not _matches(name, EXCLUDES)]
        if len(told) > _TOLD:
            return [*told[:_TOLD], "and more"]
    return told


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _inside(folder: Path, paths: Iterable[str]) -> Iterator[str]:
    """Give the patterns that leave out those paths which lie inside a folder."""
    for path in paths:
        with suppress(ValueError):
            relative = Path(path).absolute().relative_to(folder.absolute()).as_posix()
            if relative == ".":
                raise AddressError(
                    f"--working-dir {folder}: holds the data itself ({path}), which can't be uploaded; "
                    "submit from another folder"
                )
            # A glob of the spec is a pattern here too; in other names git's own signs stand for
            # themselves.
            yield "/" + (relative if glob.has_magic(relative) else re.sub(r"([!#\\ ])", r"\\\1", relative))


def _requirements() -> list[str]:
    """List what this package depends on, its extras apart.

    Raises:
        AddressError: it is not installed here, so nothing says what it needs.
    """
    try:
        lines = importlib.metadata.requires("embed-ops") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise AddressError(
            "embed-ops is imported here without being installed, so nothing says what a cluster must "
            "install for it; install it, or give --no-install or --image where the cluster has it"
        ) from error
    return [line for line in lines if "extra ==" not in line]


def _packages(folder: Path) -> list[str]:
    """List what pip is to install for the code of a folder, and for this package beside it.

    Ray itself is the cluster's. The digest of the constraints makes another environment of other
    versions: Ray reuses one as long as these lines are the same.
    """
    if (folder / _PROJECT).is_file():
        project = tomllib.loads((folder / _PROJECT).read_text(encoding="utf-8")).get("project", {})
        packages = list(project.get("dependencies", []))
    elif (folder / _REQUIREMENTS).is_file():
        lines = (folder / _REQUIREMENTS).read_text(encoding="utf-8").splitlines()
        packages = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    else:
        packages = []
    if not (folder / _OURS).is_dir():
        packages += [line for line in _requirements() if line not in packages]
    packages = [line for line in packages if re.match(r"(ray\b|embed[-_]ops\b)(?!-)", line) is None]
    if (folder / _CONSTRAINTS).is_file():
        digest = hashlib.sha256((folder / _CONSTRAINTS).read_bytes()).hexdigest()[:16]
        packages.insert(0, f"-c {_UPLOADED}/{_CONSTRAINTS} # {digest}")
    return packages
