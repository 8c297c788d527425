"""Opens the models of ``transformers``: from a folder, or from the cache of the Hugging Face hub. Nothing is downloaded
unless that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.files import digest_value

OLDEST = (4, 51)
"""The release of ``transformers`` from which on the calls made here exist."""
_INSTALL = "pip install 'ssl3d[vlm]'"
_FOLDER = "name the folder that save_pretrained, or a download from the hub, made"


def require_transformers() -> Any:
    """The module. UsageError when it is not installed, or too old."""
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            f"this needs transformers, which cannot be imported ({error})", hint=f"type: {_INSTALL}"
        ) from None
    found = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if found < OLDEST:
        raise UsageError(
            f"transformers {transformers.__version__} is too old, at least {OLDEST[0]}.{OLDEST[1]} is needed",
            hint="type: pip install -U transformers",
        )
    transformers.logging.disable_progress_bar()  # of loading weights: one more bar would break ours
    return transformers


def require_model(name: str, allow_download: bool) -> None:
    """UsageError unless the model is in its folder or in the cache of the hub, or may be downloaded."""
    require_transformers()
    from transformers.utils import cached_file

    where = ModelName.parse(name)
    if where.local:
        if not (Path(where.where) / "config.json").is_file():
            raise UsageError("a folder without config.json is no model", where={"model": where.where}, hint=_FOLDER)
    elif not allow_download:
        try:
            cached_file(where.where, "config.json", revision=where.revision, local_files_only=True)
        except Exception as error:  # kinds differ from version to version
            raise not_cached(where, error) from None


def not_cached(where: ModelName, error: Exception) -> UsageError:
    return UsageError(
        "a model is not (whole) in the cache of the Hugging Face hub, and nothing is downloaded unasked",
        where={"model": where.where, "revision": where.revision or "main", "reason": _short(error)},
        hint=f"add --allow-download; or fetch it yourself: hf download {where.where}; or name a local folder of it",
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def fingerprint(name: str) -> str:
    """What of a model belongs into a key: its name; of a folder (it may be moved) its own name and its files' sizes."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
    return f"local:{folder.name}:{digest_value(files)[:16]}"


@dataclass(frozen=True, slots=True)
class ModelName:
    """``id``, ``id@revision`` or a folder."""

    where: str
    revision: str | None
    local: bool

    @classmethod
    def parse(cls, text: str) -> ModelName:
        folder = Path(text).expanduser()
        if folder.is_dir():
            return cls(str(folder), None, True)
        if text.startswith((".", "/", "~")) or text.count("/") > 1:
            raise UsageError("there is no such folder with a model", where={"model": text})
        where, _, revision = text.partition("@")
        return cls(where, revision or None, False)

    @property
    def shown(self) -> str:
        """As records name it: no path of this machine."""
        return f"local:{Path(self.where).name}" if self.local else self.where


class Loader:
    """Loads parts of models.

    Args:
        device: for torch; ``half``: weights in float16.
        allow_download: whether the hub may be asked for what is not in its cache.
    """

    def __init__(self, device: str = "cpu", half: bool = False, allow_download: bool = False) -> None:
        self.device, self.half, self.allow_download = device, half, allow_download

    def model(self, kind: str, name: str, *, exact: bool = False) -> Any:
        """The model of class ``transformers.<kind>``, for inference, on the device; ``exact``: never in float16."""
        import torch

        loaded = self.part(kind, name)
        loaded = loaded.to(device=self.device, dtype=torch.float16 if self.half and not exact else torch.float32)
        return loaded.eval()

    def part(self, kind: str, name: str) -> Any:
        """Anything with ``from_pretrained``: a processor, a tokenizer, a model.

        Raises:
            UsageError: it is not in the cache and may not be downloaded; says what to type.
            Ssl3dError: its files are damaged, or of another kind of model.
        """
        transformers = require_transformers()
        where = ModelName.parse(name)
        options: dict[str, Any] = {"local_files_only": where.local or not self.allow_download}
        if where.revision is not None:
            options["revision"] = where.revision
        try:
            return getattr(transformers, kind).from_pretrained(where.where, **options)
        except Exception as error:  # the hub and torch have dozens of kinds
            raise self._explained(error, kind, where) from error

    def tokenizer(self, kind: str, name: str, words: int) -> Any:
        """A tokenizer that knows most of the ``words`` tokens of its model: some versions give an empty one without a
        word when its files are missing."""
        found = self.part(kind, name)
        if len(found) < words // 2:
            raise Ssl3dError(
                f"the tokenizer of a model knows {len(found)} of its {words} tokens: its files are missing",
                where={"model": name},
                hint=_FOLDER,
            )
        return found

    def _explained(self, error: Exception, kind: str, where: ModelName) -> Ssl3dError:
        if not where.local and not self.allow_download:
            return not_cached(where, error)
        facts = {"model": where.where, "class": kind, "reason": _short(error)}
        if where.local:
            return Ssl3dError("a model cannot be opened", where=facts, hint=_FOLDER)
        return Ssl3dError("a model could be neither downloaded nor opened", where=facts)

    def revision(self, name: str) -> str:
        """The commit of a model in the cache; empty for a folder, or where it cannot be told."""
        where = ModelName.parse(name)
        if where.local:
            return ""
        try:
            from transformers.utils import cached_file

            path = cached_file(where.where, "config.json", revision=where.revision, local_files_only=True)
        except Exception:  # only a courtesy to the manifest
            return ""
        parts = Path(str(path)).parts
        return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""
