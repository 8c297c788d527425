"""The table of texts as vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.captions.embeddings import TextEmbeddings, phrase_text
from ssl3d.data.errors import DataError


def table(path: Path = Path()) -> TextEmbeddings:
    emb = np.array([[3, 4], [0, 0], [1, 0]], np.float16)
    return TextEmbeddings(("A street.", "", "a photo of a car."), emb, "m", "a photo of a {phrase}.", path)


def test_there_and_back(tmp_path: Path) -> None:
    table().save(tmp_path / "a.npz")
    found = TextEmbeddings.load(tmp_path / "a.npz")
    assert found.texts == table().texts and (found.emb == table().emb).all() and found.width == 2
    assert (found.model, found.template) == ("m", "a photo of a {phrase}.")
    table().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_rows_and_what_is_missing() -> None:
    found = table(Path("text_emb.npz"))
    assert found.rows(["a photo of a car.", "A street."]).tolist() == [2, 0] and found.rows([]).dtype == np.int64
    assert found.phrase_rows(["The car.", "car"]).tolist() == [2, 2]
    with pytest.raises(DataError, match="a text has no embedding") as error:
        found.rows(["A street.", "A road."])
    assert error.value.where["text"] == "A road." and "ssl3d embed" in str(error.value.hint)
    with pytest.raises(DataError) as error:
        found.phrase_rows(["tree"])
    assert error.value.where["text"] == "a photo of a tree."


def test_scales() -> None:
    assert table().scaled("rms")[0] == pytest.approx([0.848528, 1.131371])
    assert table().scaled("l2")[0] == pytest.approx([0.6, 0.8]) and table().scaled("none")[0].tolist() == [3, 4]
    assert table().scaled("rms")[1].tolist() == [0, 0] and table().scaled("rms").dtype == np.float32


def test_phrases() -> None:
    assert phrase_text("A Traffic sign.", "a photo of a {phrase}.") == "a photo of a traffic sign."


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match="there are no embeddings"):
        TextEmbeddings.load(path)
    table().save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:-30], whole[:60] + bytes(40) + whole[100:], b"no archive at all"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            TextEmbeddings.load(path)
    np.savez(path, texts=np.array(["a", "a"]), emb=np.zeros((2, 3), np.float16), model="m", template_entity="t")
    with pytest.raises(DataError, match="2 texts, 1 different"):
        TextEmbeddings.load(path)
    np.savez(path, texts=np.array(["a", "b"]), emb=np.zeros((3, 3), np.float16), model="m", template_entity="t")
    with pytest.raises(DataError, match="damaged"):
        TextEmbeddings.load(path)
