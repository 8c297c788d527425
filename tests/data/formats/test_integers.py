"""One whole number a line, against Python's own ``int`` line by line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError
from ssl3d.data.formats.integers import whole_numbers

NUMBERS = st.lists(st.integers(-(10**18) + 1, 10**18 - 1), max_size=30)
ENDINGS = st.sampled_from(["\n", "\r\n", " \n", "\t\n"])


def read(text: bytes, size: int = 1 << 20) -> list[int]:
    blocks = [text[k : k + size] for k in range(0, len(text), size)]
    return [int(value) for block in whole_numbers(blocks, {"file": "f"}) for value in block]


@given(NUMBERS, ENDINGS, st.integers(1, 40), st.booleans(), st.integers(0, 3))
def test_numbers_are_those_of_python_however_the_text_is_cut(
    numbers: list[int], ending: str, size: int, last: bool, blank: int
) -> None:
    text = ending.join(map(str, numbers)) + (ending if last else "") + "\n" * blank
    assert read(text.encode(), size) == numbers


@given(NUMBERS.filter(bool), st.data())
def test_the_first_line_that_is_no_number_is_named(numbers: list[int], data: st.DataObject) -> None:
    wrong = data.draw(st.sampled_from(["", "1.0", "1e3", "x", "- 1", "1 2", "-", "1234567890123456789", "٣"]))
    place = data.draw(st.integers(0, len(numbers) - 1))
    lines = [*map(str, numbers[:place]), wrong, *map(str, numbers[place:])]
    for size in (3, 1 << 20):
        with pytest.raises(DataError, match="not one whole number") as caught:
            read("\n".join(lines).encode(), size)
        assert caught.value.where["line"] == place + 1
        assert caught.value.where["file"] == "f"


def test_a_file_without_any_line_feed_is_not_read_into_memory() -> None:
    seen = []

    def endless():  # type: ignore[no-untyped-def]
        while True:
            seen.append(1)
            yield b"1" * (1 << 19)

    with pytest.raises(DataError, match="not one whole number"):
        list(whole_numbers(endless(), {"file": "f"}))
    assert len(seen) < 6


def test_blocks_are_not_collected() -> None:
    """A text of any length passes through in the memory of its blocks."""
    largest = 0
    for block in whole_numbers((b"7\n" * 1000 for _ in range(100)), {}):
        largest = max(largest, len(block))
        assert block.dtype == np.int64
    assert largest <= 1000
