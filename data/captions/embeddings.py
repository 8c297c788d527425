"""Texts as vectors: the table ``text_emb.npz`` that ``ssl3d embed`` makes and training reads."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.records import clean_phrase
from ssl3d.data.errors import DataError

TEXT_FILE = "text_emb.npz"
Norm = Literal["rms", "l2", "none"]
_AGAIN = "type: ssl3d embed"


@dataclass(frozen=True)
class TextEmbeddings:
    """Vectors of texts.

    Attributes:
        texts: T different texts; of a phrase, the template filled in.
        emb: (T, Dt) float16 as the encoder gave them, unscaled.
        model: of the encoder.
        template: how a phrase becomes a text, e.g. ``a photo of a {phrase}.``
        path: where it was read from.
    """

    texts: tuple[str, ...]
    emb: npt.NDArray[np.float16]
    model: str
    template: str
    path: Path = Path()
    _rows: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._rows.update((text, row) for row, text in enumerate(self.texts))

    @property
    def width(self) -> int:
        """Dt."""
        return int(self.emb.shape[1])

    @classmethod
    def load(cls, path: Path) -> TextEmbeddings:
        """DataError when the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                texts = tuple(file["texts"].tolist())
                found = cls(texts, file["emb"], str(file["model"]), str(file["template_entity"]), path)
        except FileNotFoundError:
            raise DataError("there are no embeddings of texts", where={"file": path}, hint=_AGAIN) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"embeddings are damaged: {error}", where={"file": path}, hint=_AGAIN) from error
        shape, kind = found.emb.shape, found.emb.dtype
        if len(shape) != 2 or shape[0] != len(texts) or kind != np.float16 or len(found._rows) != len(texts):
            what = f"embeddings are damaged: {len(texts)} texts, {len(found._rows)} different, {kind} {shape}"
            raise DataError(what, where={"file": path}, hint=_AGAIN)
        return found

    def save(self, path: Path) -> None:
        """Byte for byte the same for the same content."""
        texts, model, template = (np.array(value, "U") for value in (self.texts, self.model, self.template))
        with path.open("wb") as file:
            np.savez_compressed(file, texts=texts, emb=self.emb, model=model, template_entity=template)

    def rows(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Rows of captions, in order. DataError names the text that is not there: never a zero in its place."""
        return np.array([self._row(text) for text in texts], np.int64)

    def phrase_rows(self, phrases: Iterable[str]) -> npt.NDArray[np.int64]:
        """Rows of the phrases of entities."""
        return self.rows(phrase_text(phrase, self.template) for phrase in phrases)

    def _row(self, text: str) -> int:
        try:
            return self._rows[text]
        except KeyError:
            raise DataError(
                "a text has no embedding",
                where={"text": text, "file": self.path},
                hint=f"captions have changed since; {_AGAIN}",
            ) from None

    def scaled(self, norm: Norm) -> npt.NDArray[np.float32]:
        """(T, Dt) float32: of length sqrt(Dt) (``rms``, LASS3D 3.4), of length 1 (``l2``), or as they are."""
        emb = self.emb.astype(np.float32)
        if norm == "none":
            return emb
        length = np.linalg.norm(emb, axis=1, keepdims=True)
        scale = np.sqrt(np.float32(self.width)) if norm == "rms" else np.float32(1)
        return np.asarray(emb * (scale / np.where(length > 0, length, 1)), np.float32)


def phrase_text(phrase: str, template: str) -> str:
    """The text that is embedded for a phrase."""
    return template.replace("{phrase}", clean_phrase(phrase))
