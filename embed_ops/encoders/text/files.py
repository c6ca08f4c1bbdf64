"""Where the parts of a model of texts are: transformer, tokenizer, modules, and an adapter.

Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from embed_ops.encoders.hub import contents
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.hub.adapter import Adapter, with_adapter
from embed_ops.encoders.hub.folder import Folder
from embed_ops.encoders.text.module_types import Dense, LayerNorm
from embed_ops.encoders.text.modules import Pipeline, read_pipeline
from embed_ops.encoders.text.settings import Transformer
from embed_ops.spec.language import LanguageEncoderSpec


@dataclass(frozen=True)
class TextFiles:
    """A model's folder, and the parts of it.

    Attributes:
        spec: of the encoder, with the base model where an adapter was named in its place.
        folder: of the model.
        path: of the transformer's configuration and weights.
        tokenizer: folder of the tokenizer.
        root: folder that the modules are below.
        pipeline: what a sentence-transformers folder asks for; None for others.
        settings: of the transformer in it.
        adapter: merged into the weights; it may bring modules and a tokenizer of its own.
    """

    spec: LanguageEncoderSpec
    folder: Folder
    path: Path
    tokenizer: Path
    root: Path
    pipeline: Pipeline | None
    settings: Transformer
    adapter: Adapter | None

    @property
    def _modules(self) -> list[str]:
        """The folders of modules with weights, relative to the root."""
        modules = self.pipeline.modules if self.pipeline else ()
        return [module.path for module in modules if isinstance(module, Dense | LayerNorm)]

    @property
    def _parts(self) -> list[str]:
        """The folders with weights, relative to the model's, the transformer's first."""
        part = self.path.relative_to(self.folder.path).as_posix()
        beside = self._modules if self.root == self.folder.path else []
        return ["" if part == "." else part, *beside]

    def fetch(self) -> None:
        """Fetch the weights, where the model or its adapter is on a hub or in an object store."""
        folders.fetch_weights(self.folder, self._parts)
        if self.adapter is not None:
            self.adapter.fetch([] if self.root == self.folder.path else self._modules)

    def fingerprint(self) -> dict[str, str]:
        """Hash everything that changes vectors, {file: sha256}.

        A hub model's weights stand as `commit`.
        """
        own = self.root == self.folder.path
        listed = self.pipeline.folders if self.pipeline else ()
        hashes = folders.fingerprint(
            self.folder, self.spec.trust_remote_code, self._parts, listed if own else ()
        )
        if self.adapter is not None:
            hashes |= self.adapter.fingerprint(*((), ()) if own else (listed, self._modules))
        return hashes


def locate_texts(spec: LanguageEncoderSpec) -> TextFiles:
    """Find a model of texts, and the adapter that the spec names or that stands in its place.

    Raises:
        ModelError: the folder misses a part, or has one that is not supported.
        PackageError: an adapter needs peft.
    """
    spec, folder, adapter = with_adapter(spec)
    bare = spec.outputs or spec.family != "text"
    pipeline = read_pipeline(folder.path, transformer_only=bool(bare))
    settings = pipeline.transformer if pipeline else Transformer()
    path = folder.path / settings.path
    contents.check_config(path)
    if folder.local:
        contents.check_weights(path)
    files = TextFiles(spec, folder, path, path, folder.path, pipeline, settings, adapter)
    if adapter is None:
        return files
    root = adapter.folder.path
    if (brought := read_pipeline(root, transformer_only=bool(bare))) is not None:
        files = replace(files, root=root, pipeline=brought, settings=brought.transformer)
    place = root / (brought.transformer.path if brought else "")
    return replace(files, tokenizer=place) if (place / "tokenizer.json").is_file() else files
