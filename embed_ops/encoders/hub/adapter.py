"""Adapters of PEFT: a few weights that change a base model, merged into it as it is loaded.

Importing this module imports neither torch nor peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embed_ops.encoders.hub.files import is_pointer, read_json, sha256_of
from embed_ops.encoders.hub.folder import Folder, fetch_files, locate_model
from embed_ops.encoders.hub.quiet import quiet
from embed_ops.errors import ModelError
from embed_ops.lazy import installed

if TYPE_CHECKING:
    from embed_ops.spec.language import LanguageEncoderSpec

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_OF_PROMPTS = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT"}
)
"""Kinds that put learned tokens before texts: no weights of the base model change."""
_LISTING = ("*.json", "*.txt")
_Spec = TypeVar("_Spec", bound="LanguageEncoderSpec")


@dataclass(frozen=True)
class Adapter:
    """A folder of PEFT.

    Attributes:
        folder: where it is.
    """

    folder: Folder

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What it says of itself.

        Raises:
            ModelError: it is no adapter, or one that can't be merged.
        """
        file = self.folder.path / CONFIG
        config = read_json(file)
        if not config:
            raise ModelError(
                f"encoder.adapter: {self.folder.model} holds no adapter of PEFT ({CONFIG}); correct it"
            )
        if config.get("peft_type") in _OF_PROMPTS:
            raise ModelError(
                f"{file}: {config['peft_type']} puts learned tokens before texts, and only adapters of "
                "weights (as LoRA) are merged; choose another"
            )
        return config

    @property
    def base(self) -> str:
        """The name of the model that it was trained on.

        Raises:
            ModelError: it does not say.
        """
        named = self.config.get("base_model_name_or_path")
        if not isinstance(named, str) or not named:
            raise ModelError(
                f"{self.folder.path / CONFIG}: names no base model; give it as encoder.model, and this "
                "folder as encoder.adapter"
            )
        return named

    def told(self) -> dict[str, Any]:
        """Say for `run.json` which it is."""
        return {"adapter": self.folder.model, "adapter_commit": self.folder.revision}

    def fetch(self, modules: Iterable[str] = ()) -> Path:
        """Fetch the weights, and those of modules that it brings; give its own file.

        Raises:
            ModelError: they are not there, or only as a pickle.
        """
        fetch_files(self.folder, [WEIGHTS, *(f"{module}/*.safetensors" for module in modules)])
        file = self.folder.path / WEIGHTS
        if is_pointer(file):
            raise ModelError(
                f"{file}: is a Git LFS pointer, which stands for the file; fetch the file itself (git lfs "
                "pull)"
            )
        if not file.is_file():
            names = sorted(path.name for path in self.folder.path.iterdir())
            raise ModelError(
                f"{self.folder.path}: no {WEIGHTS}, found {', '.join(names[:20])}; save the adapter as "
                "safetensors"
            )
        return file

    def fingerprint(self, parts: Iterable[str], modules: Iterable[str]) -> dict[str, str]:
        """Hash what changes vectors, {adapter/file: sha256}.

        Args:
            parts: folders of modules in it.
            modules: those with weights, which are fetched: the hashes are the same before and
                after it is loaded.

        Raises:
            ModelError: as `fetch`.
        """
        files = {self.fetch(modules)}
        for part in {"", *parts}:
            for pattern in _LISTING if part == "" else (*_LISTING, "*.safetensors"):
                files |= set((self.folder.path / part).glob(pattern))
        return {
            f"adapter/{file.relative_to(self.folder.path).as_posix()}": sha256_of(file)
            for file in sorted(files)
        }

    def attached(self, model: Any) -> Any:
        """Put the adapter's layers into a model, beside the weights that they change.

        Raises:
            ModelError: it does not fit the model.
        """
        return self._loaded(model).base_model.model

    def merged(self, model: Any) -> Any:
        """Add the adapter to the weights of a model; what it gives has no layers of PEFT.

        Raises:
            ModelError: it does not fit the model.
        """
        return self._loaded(model).merge_and_unload(safe_merge=True).eval().requires_grad_(False)

    def _loaded(self, model: Any) -> Any:
        from peft import PeftModel

        file = self.fetch()
        renamed = dict(getattr(model, "_checkpoint_conversion_mapping", {}))
        if prefix := getattr(model, "base_model_prefix", ""):
            # Trained with a head, a model's own weights stand one name deeper.
            renamed[rf"^{prefix}\."] = ""
        try:
            with quiet(), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                loaded = PeftModel.from_pretrained(
                    model,
                    str(self.folder.path),
                    torch_device="cpu",
                    key_mapping=renamed,
                    local_files_only=True,
                )
        except Exception as error:  # peft's readers fail in many ways
            reason = (str(error).splitlines() or [repr(error)])[0]
            raise ModelError(
                f"{file}: does not fit the model ({reason[:300]}); give the base model that it was trained on"
            ) from error
        for warning in said:
            if "missing adapter keys" in str(warning.message):
                raise ModelError(
                    f"{file}: lacks weights for the model, which would stay as they were "
                    f"({str(warning.message)[:200]}); give the base model that it was trained on"
                )
        return loaded


def with_adapter(spec: _Spec) -> tuple[_Spec, Folder, Adapter | None]:
    """Find a model and its adapter: one that the spec names, or that which stands for the model.

    Returns:
        the spec with the base model as its model, the base model's folder, and the adapter.

    Raises:
        ModelError: there is no such folder, or it is no adapter.
        PackageError: peft is not installed.
    """
    folder = locate_model(spec.model, spec.revision, spec.trust_remote_code)
    if spec.adapter is not None:
        name, revision = _divided(spec.adapter)
        adapter = Adapter(locate_model(name, revision, False))
        _require_fitting(adapter)
        return spec, folder, adapter
    if not (folder.path / CONFIG).is_file():
        return spec, folder, None
    adapter = Adapter(folder)
    _require_fitting(adapter)
    own = spec.model if spec.revision is None else f"{spec.model}@{spec.revision}"
    base = {"model": adapter.base, "revision": adapter.config.get("revision"), "adapter": own}
    spec = spec.model_copy(update=base)
    return spec, locate_model(spec.model, spec.revision, spec.trust_remote_code), adapter


def _divided(address: str) -> tuple[str, str | None]:
    """Take name and revision of an adapter apart, `name@revision`."""
    name, _, revision = address.rpartition("@")
    if not name or Path(address).expanduser().exists():
        return address, None
    return name, revision


def _require_fitting(adapter: Adapter) -> None:
    _ = adapter.config
    installed("peft", "peft", "encoder.adapter")
