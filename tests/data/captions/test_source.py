"""Captions of other tools, and the check before they are taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.captions.check import CaptionReport, check_captions
from ssl3d.data.captions.source import open_source
from ssl3d.data.errors import DataError, UsageError

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
A, B = "00/image_2/000123", "00/image_2/000124"
SIZES = {A: (4, 3), B: (4, 3)}


def check(path: Path, sizes: dict[str, tuple[int, int]] | None = None) -> CaptionReport:
    sizes = SIZES if sizes is None else sizes
    return check_captions(open_source(path, sizes), list(sizes), "semantickitti")


def errors(path: Path) -> list[str]:
    return [problem.what for problem in check(path).errors]


# ---------------------------------------------------------------- forms


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    lines = [
        "image_id,text,who",
        f'{A},"A street, with cars.",x',
        f"sequences/{B}.png,Trees.,",
        f"{A},Again.,",
        "zz,No.,",
    ]
    path.write_text("\n".join(lines) + "\n")
    source = open_source(path, SIZES)
    assert [(item.index, item.text, item.model) for item in source.images(A)] == [
        (0, "A street, with cars.", "import:mine"),
        (1, "Again.", "import:mine"),
    ]
    assert [item.text for item in source.images(B)] == ["Trees."] and source.entities(A) == []
    report = check(path)
    assert not report.errors and (report.captions, report.covered, report.expected) == (3, 2, 2)
    assert "1 images are not in the dataset" in report.problems[0].what


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("id,text\nx,y\n", "image_id and text", 1),
        (f'image_id,text\n{A},"  "\n', "'text' is empty", 2),
        ("", "columns", 1),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, what: str, line: int) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=what) as error:
        open_source(path, SIZES).images(A)
    assert error.value.where["line"] == line
    assert what in errors(path)[0]


def coco(tmp_path: Path, *annotations: dict[str, Any]) -> Path:
    path = tmp_path / "found.json"
    images = [{"id": 7, "file_name": f"sequences/{A}.png", "width": 4, "height": 3}, {"id": 8, "file_name": "z.jpg"}]
    categories = [{"id": 1, "name": "The Car."}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_coco(tmp_path: Path) -> None:
    head = {"image_id": 7, "category_id": 1}
    path = coco(
        tmp_path,
        {"id": 1, **head, "bbox": [1, 0, 2, 3], "score": 0.25},
        {"id": 2, **head, "segmentation": {"size": [3, 4], "counts": [3, 2, 1, 1, 4, 1]}},
        {"id": 3, **head, "segmentation": {"size": [3, 4], "counts": "321O30"}, "bbox": [1, 0, 3, 3]},
        {"id": 4, **head, "segmentation": [[0, 0, 1, 0, 1, 2, 0, 2]]},
        {"id": 5, "image_id": 7, "caption": "A street."},
        {"id": 6, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]},
    )
    source = open_source(path, SIZES)
    found = source.entities(A)
    assert [(item.index, item.phrase, item.score, item.box) for item in found] == [
        (0, "car", 0.25, (1.0, 0.0, 3.0, 3.0)),
        (1, "car", 1.0, None),
        (2, "car", 1.0, (1.0, 0.0, 4.0, 3.0)),
        (3, "car", 1.0, None),
    ]
    assert found[1].counts().tolist() == found[2].counts().tolist() == [3, 2, 1, 1, 4, 1]
    assert found[3].counts().tolist() == [0, 6, 6]
    assert [item.text for item in source.images(A)] == ["A street."] and source.unknown() == {"z": 1}
    report = check(path)
    assert (report.entities, report.boxes, report.membership) == (4, 1, "mask and box")


@pytest.mark.parametrize(
    ("annotation", "what"),
    [
        ({"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}, "image 9 is not listed"),
        ({"image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1]}, "category 5 is not listed"),
        ({"image_id": 7, "category_id": 1}, "neither 'box' nor 'mask'"),
        ({"image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}, "x, y, width, height"),
        ({"image_id": 7, "category_id": 1, "segmentation": [[0, 0, 1]]}, "neither run lengths nor polygons"),
        ({"image_id": 7, "category_id": 1, "segmentation": {"size": [3, 4], "counts": [11]}}, "add up to 11"),
        ({"image_id": 7, "caption": " "}, "'text' is empty"),
    ],
)
def test_bad_coco(tmp_path: Path, annotation: dict[str, Any], what: str) -> None:
    path = coco(tmp_path, {"id": 31, **annotation})
    with pytest.raises(DataError, match=what) as error:
        open_source(path, SIZES).entities(A)
    assert error.value.where["annotation"] == 31
    assert what in errors(path)[0]


def test_json_that_is_not_coco(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, what in (("[", "not JSON"), ("[]", "not a JSON object"), ("{}", "'images' is missing")):
        path.write_text(text)
        assert what in errors(path)[0]


def test_grounded_sam(tmp_path: Path) -> None:
    place = tmp_path / "demo" / A
    place.mkdir(parents=True)
    pixels = np.array([[0, 1, 1, 0], [0, 1, 0, 2], [0, 0, 0, 2]], np.uint8)
    Image.fromarray(pixels).save(place / "mask.png")
    rows = [{"value": 0, "label": "background"}, {"value": 1, "label": "Car", "logit": 0.5, "box": [1, 0, 3, 2]}]
    (place / "mask.json").write_text(json.dumps([*rows, {"value": 2, "label": "a tree", "logit": "0.41"}]))
    source = open_source(tmp_path / "demo", SIZES)
    assert source.form == "grounded-sam"
    assert [(item.phrase, item.score, item.counts().tolist()) for item in source.entities(A)] == [
        ("car", 0.5, [3, 2, 1, 1, 5]),
        ("tree", 0.41, [10, 2]),
    ]
    (place / "mask.json").write_text(json.dumps([{"value": 9, "label": "car", "logit": 0.5}]))
    assert "no pixel of the mask image has the value 9" in errors(tmp_path / "demo")[0]
    Image.fromarray(pixels[:2]).save(place / "mask.png")
    assert "has the shape (2, 4), the image 3 x 4" in errors(tmp_path / "demo")[0]
    (place / "mask.png").unlink()
    assert "no image that says which pixel is whose" in errors(tmp_path / "demo")[0]


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    for path, what in (("x.txt", "of this kind"), ("nowhere", "no such file"), (".", "holds no captions")):
        with pytest.raises(UsageError, match=what) as error:
            open_source(tmp_path / path, SIZES)
        assert error.value.hint and "image.jsonl" in error.value.hint


# ---------------------------------------------------------------- the check


def test_a_sound_folder(image_record: Make, entity_record: Make, write: Write) -> None:
    write("image.jsonl", image_record(), image_record(image_id=B))
    path = write("entity.jsonl", entity_record(), entity_record(index=1, mask=..., box=[0, 0, 1, 1])).parent
    report = check(path)
    assert report.problems == []
    assert (report.captions, report.entities, report.images, report.covered, report.expected) == (2, 2, 2, 2, 2)
    assert (report.captioned, report.with_entities, report.phrases, report.texts, report.boxes) == (2, 1, 1, 2, 1)
    one = open_source(path / "entity.jsonl", SIZES)
    assert one.files == (None, path / "entity.jsonl") and len(one.entities(A)) == 2
    assert one.digest() != open_source(path, SIZES).digest()


def test_all_bad_lines_are_told(image_record: Make, write: Write) -> None:
    path = write("image.jsonl", image_record(), "{", image_record(index=0), image_record(index=1, width=5, text="x"))
    found = check(path).errors
    assert [(problem.where["line"], problem.what[:22]) for problem in found] == [
        (2, "the line is not JSON ("),
        (3, "the image has two reco"),
        (4, "the record speaks of 5"),
    ]
    many = write("image.jsonl", *["{"] * 50)
    assert len(check(many).errors) == 21 and "30 more errors" in check(many).errors[-1].what


def test_unknown_images_are_left_out_and_another_dataset_refused(image_record: Make, write: Write) -> None:
    path = write("image.jsonl", image_record(image_id="01/image_2/000000"), image_record())
    report = check(path)
    assert not report.errors and "1 images are not in the dataset" in report.problems[0].what
    path = write("image.jsonl", image_record(image_id="samples/CAM_FRONT/n1"))
    (problem,) = check(path).errors
    assert "captions of another one" in problem.what and problem.where["in the dataset"] in SIZES
    path = write("image.jsonl", image_record())
    (path.parent / "manifest.toml").write_text('dataset = "scannet"\n')
    assert "captions of 'scannet'" in errors(path)[0]
    (path.parent / "manifest.toml").write_text("dataset = \n")
    with pytest.raises(DataError, match="manifest of captions cannot be read"):
        check(path)


def test_order_and_nothing(image_record: Make, write: Write) -> None:
    path = write("image.jsonl", image_record(index=1), image_record())
    report = check(path)
    assert not report.errors and "not sorted" in report.problems[0].what
    assert errors(write("image.jsonl")) == ["there is no record at all"]
