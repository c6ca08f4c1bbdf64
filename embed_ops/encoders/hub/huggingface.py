"""A model on the Hugging Face hub.

Which commit a branch is, and its files in the hub's own cache (`HF_HOME`).

Requests are few, since a cluster that starts all at once is what a hub answers with 429: the driver
asks for the commit, one process per node lists and fetches, and whoever finds its files in the
cache asks nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import (
    HfApi,
    RepoFile,
    constants,
    get_cached_repo_tree,
    hf_hub_download,
    is_offline_mode,
    resolve_revision,
    snapshot_download,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import filter_repo_objects, parse_ratelimit_headers

from embed_ops.encoders.hub.fetching import keep_trying, may_pass, once_per_node, reason
from embed_ops.errors import EmbedOpsError, ModelError, StorageError

_TOO_EARLY = frozenset({408, 425, 429})
"""Answers of the 400s that mean: not now."""
_ADVICE = (
    "Where the hub can't be reached: stop this, and set HF_HUB_OFFLINE=1 to take the model from the cache "
    "at once, or name its folder as encoder.model"
)
_log = logging.getLogger(__name__)


def commit_of(model: str, revision: str | None) -> str:
    """Give the commit that a branch or tag is now; a commit is itself, without a request.

    Where the hub is down or offline mode is on, the branch is what it was when it was last asked
    for.

    Raises:
        ModelError: no such model or revision, or not for this token; offline, the cache does not
            know the branch.
        StorageError: the hub can't be reached, and the cache does not know the branch.
    """
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    branch = revision or constants.DEFAULT_REVISION

    def ask() -> str:
        # resolve_revision alone would wait for a silent hub for ever, and take one that stumbles
        # for one that is down.
        HfApi().model_info(model, revision=branch, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return str(resolve_revision(model, revision=branch).resolved)

    error: Exception | None = None
    if not is_offline_mode():
        try:
            return keep_trying(f"{model} on {constants.ENDPOINT}", ask, _passes, _asked, _ADVICE)
        except Exception as failure:
            if not _passes(failure):
                raise _explained(failure, model, branch) from failure
            error = failure
    try:
        commit = str(resolve_revision(model, revision=branch, local_files_only=True).resolved)
    except Exception as failure:
        raise _explained(error or failure, model, branch) from failure
    if error is not None:
        _log.warning(
            "%s: the hub can't be reached (%s); %s is taken to be commit %s, as when last asked",
            model,
            reason(error),
            branch,
            commit,
        )
    return commit


def fetch(model: str, commit: str, patterns: Sequence[str], unused: Sequence[str]) -> Path:
    """Give the snapshot of a commit, with all files that match.

    What is missing is fetched once per node.

    Args:
        model: hub name.
        commit: 40 hexadecimal digits.
        patterns: of the files wanted, as `snapshot_download` takes them.
        unused: of those among them that are not.

    Raises:
        ModelError: no such model or commit, not for this token, or not in the cache in offline
            mode.
        StorageError: the hub or the network fails for longer than it is tried again, or the cache
            can't be written.
    """
    key = " ".join(("hub", constants.ENDPOINT, constants.HF_HUB_CACHE, model, commit, *patterns))
    return once_per_node(
        key,
        lambda: _in_cache(model, commit, patterns, unused),
        lambda: _fetched(model, commit, patterns, unused),
    )


def _in_cache(model: str, commit: str, patterns: Sequence[str], unused: Sequence[str]) -> Path | None:
    """Find a snapshot without a request.

    None where files are missing or cut short, or where nothing tells whether they are.
    """
    try:
        path = _snapshot(model, commit, patterns, unused, local_only=True)
    except HFValidationError as error:
        raise _explained(error, model, commit) from error
    except LocalEntryNotFoundError:
        return None
    listed = _listed(model, commit, patterns, unused)
    if listed is None:
        # A cache that other software filled has no listing; offline it is taken as it is, and
        # loading says what it lacks.
        return path if is_offline_mode() else None
    return None if _cut_short(path, listed) else path


def _snapshot(
    model: str, commit: str, patterns: Sequence[str], unused: Sequence[str], *, local_only: bool = False
) -> Path:
    chosen, left_out = list(patterns), list(unused)
    return Path(
        snapshot_download(
            model,
            revision=commit,
            allow_patterns=chosen,
            ignore_patterns=left_out,
            local_files_only=local_only,
        )
    )


def _listed(model: str, commit: str, patterns: Sequence[str], unused: Sequence[str]) -> list[RepoFile] | None:
    """List the files that match, as the cache knows them.

    None where it has no listing of the commit.
    """
    try:
        tree = get_cached_repo_tree(model, revision=commit)
    except CachedRepoTreeNotFoundError:
        return None
    return list(
        filter_repo_objects(
            tree, allow_patterns=list(patterns), ignore_patterns=list(unused), key=lambda file: file.path
        )
    )


def _cut_short(path: Path, listed: Iterable[RepoFile]) -> list[str]:
    """Name the files of a snapshot that are there with another size than the hub's."""
    return [
        file.path
        for file in listed
        if (path / file.path).is_file() and (path / file.path).stat().st_size != file.size
    ]


def _fetched(model: str, commit: str, patterns: Sequence[str], unused: Sequence[str]) -> Path:

    def act() -> Path:
        path = _snapshot(model, commit, patterns, unused)
        listed = _listed(model, commit, patterns, unused)
        if listed is None:
            # Either the cache is read-only, or the hub is down and what came back is whatever the
            # cache holds: the listing tells.
            next(iter(HfApi().list_repo_tree(model, revision=commit)), None)
        for name in _cut_short(path, listed or ()):
            _log.warning("%s: %s is cut short in the cache, fetching it again", model, name)
            hf_hub_download(model, name, revision=commit, force_download=True)
        return path

    try:
        return keep_trying(f"{model} on {constants.ENDPOINT}", act, _passes, _asked, _ADVICE)
    except Exception as error:
        raise _explained(error, model, commit) from error


def _cause(error: BaseException) -> BaseException:
    """Give what the hub or the network said.

    The hub's library hides it behind "not found in the cache".
    """
    while error.__cause__ is not None and isinstance(
        error, LocalEntryNotFoundError | RevisionResolutionError
    ):
        error = error.__cause__
    return error


def _passes(error: BaseException) -> bool:

    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in _TOO_EARLY
    if isinstance(
        error, FileMetadataError | OfflineModeIsEnabled | LocalEntryNotFoundError | RevisionResolutionError
    ):
        return False
    return may_pass(error)


def _asked(error: BaseException) -> float | None:
    """Give the seconds that an answer asks to wait."""
    error = _cause(error)
    if not isinstance(error, HfHubHTTPError):
        return None
    headers = error.response.headers
    if (limits := parse_ratelimit_headers(headers)) is not None and limits.remaining == 0:
        return float(limits.reset_in_seconds)
    told = headers.get("Retry-After", "")
    return float(told) if told.isdigit() else None


def _explained(error: BaseException, model: str, revision: str) -> EmbedOpsError:
    """Say what is wrong and what to do.

    Exit 2 where the same command would fail again, exit 3 where it need not.
    """
    error, named = _cause(error), f"encoder.model: {model} at revision {revision}"
    if _passes(error):
        return StorageError(
            f"{named} can't be fetched from {constants.ENDPOINT} ({reason(error)}); run the same command "
            "again, or with HF_HUB_OFFLINE=1 if it is in the cache, or give a folder"
        )
    match error:
        case HFValidationError():
            said = (
                f"encoder.model: {model} is no folder here and no hub name ({reason(error)}); correct the "
                "path or the name"
            )
        case GatedRepoError():
            said = (
                f"{named} is gated: accept its terms at {constants.ENDPOINT}/{model} and set HF_TOKEN to a "
                "token of that login"
            )
        case RepositoryNotFoundError():
            said = (
                f"encoder.model: {model} is not on the hub (or not for this login: set HF_TOKEN), nor a "
                "folder here; correct it"
            )
        case RevisionNotFoundError():
            said = f"{named} is not on the hub, though the model is; correct encoder.revision"
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            said = f"{named}: the hub refuses ({reason(error)}); set HF_TOKEN to a token that may read it"
        case OfflineModeIsEnabled():
            said = _offline(named)
        case OSError() if error.errno is not None:
            return StorageError(
                f"{named}: the cache {constants.HF_HUB_CACHE} can't be written ({error}); mend it or set "
                "HF_HOME, and run again"
            )
        case _ if constants.is_offline_mode():
            said = _offline(named)
        case _:
            said = (
                f"{named} can't be fetched from {constants.ENDPOINT} ({reason(error)}); correct HF_ENDPOINT "
                "or the name, or give a folder"
            )
    return ModelError(said)


def _offline(named: str) -> str:

    return (
        f"{named}: offline mode (HF_HUB_OFFLINE) is on, and the cache {constants.HF_HUB_CACHE} does not "
        "hold it whole; "
        "turn it off, or fill the cache where the hub can be reached and copy it here (HF_HOME), or give "
        "a folder"
    )
