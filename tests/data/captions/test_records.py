"""Records of captions: there and back, and every way a line can be wrong."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.captions.files import CaptionFiles
from ssl3d.data.captions.ids import image_id
from ssl3d.data.captions.membership import captions_at, entity_at
from ssl3d.data.captions.parse import parse_entity, parse_image, read_entities, read_images
from ssl3d.data.captions.records import clean_phrase, to_line
from ssl3d.data.errors import DataError

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
MASK = {"format": "rle_f", "size": [3, 4], "counts": [3, 2, 1, 1, 4, 1]}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("dataset/sequences/00/image_2/000123.png", "00/image_2/000123"),
        ("samples/CAM_FRONT/n015__CAM_FRONT__1531.jpg", "samples/CAM_FRONT/n015__CAM_FRONT__1531"),
        ("scans/scene0000_00/color/000100.jpg", "scene0000_00/color/000100"),
        ("scannet_frames_25k/scene0000_00/color/000100.jpg", "scene0000_00/color/000100"),
        ("scans/scene0000_00/scene0000_00.sens#color/100", "scene0000_00/color/000100"),
        ("drive/front/1.5.png", "drive/front/1.5"),
        ("drive/front/1.5", "drive/front/1.5"),
    ],
)
def test_ids_of_images(path: str, name: str) -> None:
    assert image_id(path) == name


def test_there_and_back(image_record: Make, entity_record: Make) -> None:
    value = image_record(
        region=[0, 0, 2, 3],
        phrases=[{"text": "parked cars", "boxes": [[1.5, 0.0, 3.0, 2.0]]}],
        prompt="<grounding>An image of",
        revision="abc",
    )
    assert json.loads(to_line(parse_image(value))) == value
    entity = entity_record(box=[1, 0, 4, 3], mask_score=0.9, detector="d", segmenter="s")
    assert json.loads(to_line(parse_entity(entity))) == entity
    text = to_line(parse_image(image_record(text="ein Haus mit Gärten, 街道")))
    assert "Gärten, 街道" in text and text.endswith("}\n") and text.count("\n") == 1


def test_unknown_keys_are_passed_over(image_record: Make) -> None:
    assert parse_image(image_record(tags=["x"], schema="ssl3d.image_caption/1.3")).index == 0


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (" The  Parked car. ", "parked car"),
        ("a couch", "couch"),
        ("anchor", "anchor"),
        ("Theater", "theater"),
        ("..", ""),
    ],
)
def test_phrases(text: str, phrase: str) -> None:
    assert clean_phrase(text) == phrase


@pytest.mark.parametrize(
    ("changes", "what", "field"),
    [
        ({"schema": ...}, "'schema' is missing", "schema"),
        ({"schema": "ssl3d.image_caption/2"}, "schema version 2, this ssl3d reads 1", "schema"),
        ({"schema": "ssl3d.entity_caption/1"}, "an entity record in a file of image records", "schema"),
        ({"schema": "coco"}, "no schema of captions", "schema"),
        ({"image_id": ...}, "'image_id' is missing", "image_id"),
        ({"image_id": 7}, "has to be text, not 7", "image_id"),
        ({"image_id": "00\\image_2\\1"}, "backslashes", "image_id"),
        ({"image_id": "/data/00/image_2/1"}, "not a path below the dataset", "image_id"),
        ({"image_id": "../1"}, "not a path below the dataset", "image_id"),
        ({"image_id": "00/image_2/1.png"}, "has an ending", "image_id"),
        ({"width": 0}, "'width' is 0", "width"),
        ({"height": 3.0}, "whole number", "height"),
        ({"width": True}, "whole number", "width"),
        ({"index": -1}, "'index' is -1", "index"),
        ({"text": "  \t"}, "'text' is empty", "text"),
        ({"text": ...}, "'text' is missing", "text"),
        ({"model": ...}, "'model' is missing", "model"),
        ({"region": [0, 0, 2]}, "four numbers", "region"),
        ({"region": [0, 0, 0, 3]}, "'region' is empty", "region"),
        ({"region": [9, 0, 12, 3]}, "outside of the image", "region"),
        ({"phrases": ["car"]}, "list of objects", "phrases"),
        ({"phrases": [{"text": "car", "boxes": [[0, 0, float("nan"), 1]]}]}, "four numbers", "phrases.boxes"),
    ],
)
def test_bad_image_records(image_record: Make, write: Write, changes: dict[str, Any], what: str, field: str) -> None:
    path = write("image.jsonl", image_record(), image_record(index=1), image_record(**changes))
    with pytest.raises(DataError, match=re.escape(what)) as error:
        list(read_images(path))
    assert error.value.where["file"] == path and error.value.where["line"] == 3
    assert error.value.where["field"] == field


@pytest.mark.parametrize(
    ("changes", "what", "field"),
    [
        ({"phrase": " . "}, "'phrase' is empty", "phrase"),
        ({"phrase": "The."}, "", ""),
        ({"score": ...}, "'score' is missing", "score"),
        ({"score": 1.5}, "from 0 to 1", "score"),
        ({"score": float("nan")}, "from 0 to 1", "score"),
        ({"mask": ...}, "neither 'box' nor 'mask'", "mask"),
        ({"mask": [1, 2]}, "has to be an object", "mask"),
        ({"mask": {**MASK, "size": [4, 3]}}, "has the size [4, 3], the image 3 x 4", "mask.size"),
        ({"mask": {**MASK, "counts": [3, 2, 1, 1, 4]}}, "add up to 11 pixels, the image has 12", "mask.counts"),
        ({"mask": {**MASK, "counts": [13, -1]}}, "negative length", "mask.counts"),
        ({"mask": {**MASK, "counts": [12.0]}}, "no list of whole numbers", "mask.counts"),
        ({"mask": {**MASK, "counts": []}}, "no list of whole numbers", "mask.counts"),
        ({"mask": {**MASK, "counts": [[12]]}}, "no list of whole numbers", "mask.counts"),
        ({"mask": {**MASK, "counts": [1, [2]]}}, "no list of whole numbers", "mask.counts"),
        ({"mask": {**MASK, "counts": "é"}}, "compressed counts of the mask are damaged", "mask.counts"),
        ({"mask": {**MASK, "format": "png"}}, 'format "png"', "mask.format"),
        ({"box": [3, 0, 1, 3]}, "'box' is empty", "box"),
    ],
)
def test_bad_entity_records(entity_record: Make, write: Write, changes: dict[str, Any], what: str, field: str) -> None:
    path = write("entity.jsonl", entity_record(), entity_record(**changes))
    if not what:  # "The." is a word, not only an article
        assert [line.record.phrase for line in read_entities(path)] == ["parked car", "the"]
        return
    with pytest.raises(DataError, match=re.escape(what)) as error:
        list(read_entities(path))
    assert (error.value.where["line"], error.value.where["field"]) == (2, field)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"schema":"ssl3d.image_caption/1","image_id":"00/im', "not JSON"),
        ("", "the line is empty"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ("\ufeff{}", "byte order mark"),
    ],
)
def test_lines_that_are_no_records(image_record: Make, write: Write, line: str, what: str) -> None:
    path = write("image.jsonl", image_record(), line, image_record(index=1))
    for read in (lambda: list(read_images(path)), lambda: CaptionFiles(path, None).images("00/image_2/000123")):
        with pytest.raises(DataError, match=what) as error:
            read()
            read_images(path)
        assert error.value.where["line"] == 2


def test_a_file_that_was_cut_says_so(image_record: Make, write: Write) -> None:
    path = write("image.jsonl", image_record(), image_record(index=1))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="the file was cut"):
        list(read_images(path))


def test_no_utf8_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "image.jsonl"
    with pytest.raises(DataError, match="no such file"):
        list(read_images(path))
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_images(path))


def test_captions_of_an_image(image_record: Make, entity_record: Make, write: Write) -> None:
    images = write(
        "image.jsonl",
        image_record(index=1, text="second"),
        image_record(text="first"),
        {"image_id": "b", **image_record(image_id=...), "schema": "ssl3d.image_caption/1"},
    )
    entities = write("entity.jsonl", entity_record(image_id="c"), entity_record(), entity_record(index=1))
    files: CaptionFiles = pickle.loads(pickle.dumps(CaptionFiles(images, entities)))
    assert files.ids() == ["00/image_2/000123", "b", "c"]
    assert [caption.text for caption in files.images("00/image_2/000123")] == ["first", "second"]
    assert [line for line, _ in files.entities_by_line("00/image_2/000123")] == [1, 2]
    assert files.images("c") == [] and files.entities("b") == [] and files.images("nowhere") == []
    assert CaptionFiles(images, None).entities("c") == []


def test_the_surest_entity_wins_a_pixel(entity_record: Make) -> None:
    whole = {"format": "rle_f", "size": [3, 4], "counts": [0, 12]}
    entities = [
        parse_entity(entity_record(index=0, score=0.6, mask=whole)),
        parse_entity(entity_record(index=1, score=0.8)),
        parse_entity(entity_record(index=2, score=0.6, mask=..., box=[0, 0, 2, 3])),
    ]
    u, v = np.array([1, 0, 3, 3]), np.array([1, 1, 2, 0])
    assert entity_at(entities, u, v).tolist() == [1, 2, 1, 0]  # of equal scores the smaller area wins
    assert entity_at([], u, v).tolist() == [-1] * 4


def test_captions_of_regions(image_record: Make) -> None:
    captions = [parse_image(image_record()), parse_image(image_record(index=1, region=[0, 0, 2, 3]))]
    assert captions_at(captions, np.array([1, 2]), np.array([0, 0])).tolist() == [[True, True], [True, False]]


def test_the_page_about_the_format_shows_good_records() -> None:
    page = (Path(__file__).parents[3] / "docs" / "captions.md").read_text(encoding="utf-8")
    image, entity = page.split("```json\n")[1].split("```")[0].splitlines()
    assert parse_image(json.loads(image)).text == "A street with parked cars."
    assert parse_entity(json.loads(entity)).counts().sum() == 1241 * 376
    for value, parse in ((json.loads(image), parse_image), (json.loads(entity), parse_entity)):
        keys = {
            name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
        }
        assert value.keys() <= keys and parse(value)
