"""Texts made tidy, phrases to look for, boxes: no model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.captions.records import ImageCaption, Phrase
from ssl3d.pipeline.captioning.boxes import Detection, best_boxes, overlap
from ssl3d.pipeline.captioning.words import (
    PHRASES_AT_ONCE,
    caption_phrases,
    class_phrases,
    in_chunks,
    is_clean,
    match_phrase,
    tidy_caption,
)

SHORT, LONG = "<grounding>An image of", "<grounding>Describe this image in detail:"


@pytest.mark.parametrize(
    ("text", "prompt", "tidy"),
    [
        ("An image of  a street\nwith cars.", SHORT, "An image of a street with cars."),
        ("Describe this image in detail: The image shows cars.", LONG, "The image shows cars."),
        ("Describe this image in detail:", LONG, ""),
        ("An image of", SHORT, ""),
        ("", SHORT, ""),
        ("A car. A tree. A car. A car. A tree.", SHORT, "A car. A tree."),
        ("A car! a CAR! Again.", SHORT, "A car!"),
    ],
)
def test_captions_are_tidied(text: str, prompt: str, tidy: str) -> None:
    assert tidy_caption(text, prompt) == tidy


def test_phrases_of_classes_and_captions() -> None:
    names = ["car", "traffic-sign", "other-vehicle", "driveable_surface", "otherfurniture", "car"]
    assert class_phrases(names) == ["car", "traffic sign", "driveable surface"]
    words = [
        "a snowman",
        "The parked Cars",
        "one two three four five",
        "<patch_index_0044>",
        "",
        "St. Mary",
        "a snowman",
    ]
    caption = ImageCaption("a", 4, 3, 0, "x", "m", phrases=tuple(Phrase(word) for word in words))
    assert caption_phrases([caption]) == ["snowman", "parked cars"]
    assert not is_clean("<patch_index_00") and is_clean("two trees")


@given(st.lists(st.text(), max_size=100))
def test_chunks_hold_everything_in_order(phrases: list[str]) -> None:
    chunks = in_chunks(phrases)
    assert [phrase for chunk in chunks for phrase in chunk] == phrases
    assert all(0 < len(chunk) <= PHRASES_AT_ONCE for chunk in chunks)


@pytest.mark.parametrize(
    ("found", "phrase"),
    [
        ("car truck", "car"),
        ("sign", "traffic sign"),
        ("", None),
        ("traffic sign", "traffic sign"),
        ("Car.", "car"),
        ("tree", None),
    ],
)
def test_what_a_detector_means(found: str, phrase: str | None) -> None:
    assert match_phrase(found, ["truck", "car", "traffic sign"]) == phrase


def boxes(*found: tuple[str, float, tuple[float, float, float, float]]) -> list[Detection]:
    return [Detection(*item) for item in found]


def test_overlapping_boxes_of_one_phrase_are_one() -> None:
    low = np.array([0.0, 0, 10, 10])
    assert overlap(low, np.array([[0, 0, 10, 6.0], [5, 0, 15, 10]])) == pytest.approx([0.6, 1 / 3])
    found = boxes(
        ("car", 0.4, (0, 0, 10, 6)),
        ("car", 0.9, (0, 0, 10, 10)),
        ("car", 0.5, (5, 0, 15, 10)),
        ("van", 0.3, (0, 0, 10, 10)),
    )
    kept = best_boxes(found, (100, 100), nms=0.5, most=50)
    assert [(item.phrase, item.score) for item in kept] == [("car", 0.9), ("car", 0.5), ("van", 0.3)]
    assert best_boxes(found, (100, 100), nms=0.7, most=2) == kept[:2]


def test_boxes_are_clipped_and_slivers_dropped() -> None:
    found = boxes(("a", 0.5, (-5, 2, 30, 8)), ("b", 0.5, (18.5, 0, 40, 9)), ("c", 0.5, (30, 0, 40, 9)))
    assert best_boxes(found, (20, 10), 0.5, 50) == boxes(("a", 0.5, (0, 2, 20, 8)))
