"""What is said about images of generated rooms; how, and how wrong: ``ssl3d.data.synthetic.captions``."""

from __future__ import annotations

from collections.abc import Sequence

from ssl3d.data.synthetic.captions import Noise, Speaker
from ssl3d.data.synthetic.rooms.categories import CATEGORIES, INDEX
from ssl3d.data.synthetic.rooms.room import Room

NOISE = Noise(smallest=0.002, eroded=0.008, shifted=0.015)


def speaker_of(room: Room) -> Speaker:
    """Things are the instances of the room."""

    def category(instance: int) -> int:
        return INDEX[room.names[instance]]

    def others(instance: int) -> Sequence[Sequence[str]]:
        own = CATEGORIES[category(instance)].nyu40
        return [c.words for c in CATEGORIES if c.nyu40 != own]

    every = [c.words for c in CATEGORIES]
    return Speaker(room.kind, lambda instance: CATEGORIES[category(instance)].words, others, every, NOISE)
