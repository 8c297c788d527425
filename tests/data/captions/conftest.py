"""Records to break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
Make = Callable[..., dict[str, Any]]


def _image(**changes: Any) -> dict[str, Any]:
    record = {
        "schema": "ssl3d.image_caption/1",
        "image_id": "00/image_2/000123",
        "width": 4,
        "height": 3,
        "index": 0,
        "text": "A street with parked cars and trees.",
        "model": "human",
    }
    return {key: value for key, value in {**record, **changes}.items() if value is not ...}


def _entity(**changes: Any) -> dict[str, Any]:
    record = {
        "schema": "ssl3d.entity_caption/1",
        "image_id": "00/image_2/000123",
        "width": 4,
        "height": 3,
        "index": 0,
        "phrase": "parked car",
        "score": 0.5,
        "mask": {"format": "rle_f", "size": [3, 4], "counts": [3, 2, 1, 1, 4, 1]},
    }
    return {key: value for key, value in {**record, **changes}.items() if value is not ...}


@pytest.fixture
def image_record() -> Make:
    """``image_record(text="a room", region=...)``: a good record with changes; ``...`` leaves a key out."""
    return _image


@pytest.fixture
def entity_record() -> Make:
    """The same of an entity, whose mask is [[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]."""
    return _entity


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write("image.jsonl", record, "not json", ...)``: a file of these lines."""

    def make(name: str, *lines: dict[str, Any] | str) -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(text + "\n" for text in texts))
        return path

    return make
