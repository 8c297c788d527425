from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.rooms import captions
from ssl3d.data.synthetic.rooms.captions import Frame, moved, spoken, worn
from ssl3d.data.synthetic.rooms.room import Room


def test_masks_move_and_wear() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1, 2] = True
    assert np.argwhere(moved(mask, 2, -1, False)).tolist() == [[3, 1]]
    assert not moved(mask, 4, 0, False).any() and moved(mask, 4, 0, True)[:4].all()
    square = np.zeros((100, 100), bool)
    square[20:60, 30:80] = True
    found = worn(square, Rng(3))
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (len(rows), len(columns)) == (38, 48)  # one pixel of every border is gone
    assert abs(int(rows[0]) - 21) <= 2 and abs(int(columns[0]) - 31) <= 2


def test_the_noise_is_what_is_documented() -> None:
    room = Room(1, "office", 4.0, 3.0, 2.6)
    room.names += ["chair", "table", "couch", "picture"] * 6
    who = np.zeros((60, 240), np.int32)
    who[:, :] = np.repeat(np.arange(24), 10) + 1
    told = spurious = usual = other = 0
    for key in range(150):
        for record in captions._entities(room, Frame("a/color/000000", who, key)):
            column = (record["box"][0] + record["box"][2]) / 2
            is_column = record["box"][3] - record["box"][1] > 50 and record["box"][2] - record["box"][0] <= 9
            if not is_column:
                spurious += 1
                continue
            told += 1
            name = room.names[int(column // 10) + 1]
            usual += record["phrase"] == {"couch": "couch"}.get(name, name)
            other += record["phrase"] in {"couch": ["sofa"], "chair": ["seat"], "table": ["tabletop"]}.get(
                name, ["framed picture"]
            )
    assert told / (150 * 24) == pytest.approx(captions.RECALL, abs=0.03)
    assert told / (told + spurious) == pytest.approx(captions.PRECISION, abs=0.03)
    assert usual / told == pytest.approx(1 - captions.WRONG - captions.SYNONYM, abs=0.04)
    assert other / told == pytest.approx(captions.SYNONYM, abs=0.03)


def test_phrases_depend_on_their_key_alone() -> None:
    assert [spoken("couch", Rng(k)) for k in range(30)] == [spoken("couch", Rng(k)) for k in range(30)]
    said = Counter(spoken("couch", Rng(k)) for k in range(400))
    assert said["couch"] > 240 and 30 < said["sofa"] < 95
