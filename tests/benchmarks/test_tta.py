"""Gains of test-time augmentation: which runs are put together, and what is said about them."""

from __future__ import annotations

from typing import Any

import pytest

from ssl3d.benchmarks import tta
from ssl3d.pipeline.evaluation.passes import Passes

MACHINE = {"command": "ssl3d bench tta", "date": "2026-01-01", "processor": "p", "versions": {"torch": "2"}}


def run(seed: int, flip: float, **changes: Any) -> tta.Record:
    plain = 20.0 + seed
    miou = {"none": plain, "flip": plain + flip, "rotate": plain - 1, "scale": plain, "flip,rotate,scale": plain + 2}
    facts: dict[str, Any] = {
        "run": f"r{seed}", "method": "supervised", "backbone": "b", "dataset": "d", "split": f"scan-1pct-seed{seed}",
        "seed": seed, "recipe": "x", "steps": 700, "weights": "own", "subset": "val", "scans": 3, "device": "cpu",
        "protocol": "nanmean", "miou": miou,
    }  # fmt: skip
    return {**facts, **changes}


def test_words_are_all_of_eval_and_all_together() -> None:
    assert tta.WORDS == ("flip", "rotate", "scale", "flip,rotate,scale")
    for words in ("none", *tta.WORDS):
        passes = Passes.parse(words)
        assert passes.copies == {"none": 1, "flip": 2, "rotate": 4, "scale": 3}.get(words, 24)


def test_runs_that_differ_in_their_seed_are_put_together() -> None:
    records = [run(0, 1.0), run(1, 1.2), run(2, 0.8), run(3, -9, method="other")]
    together, other = tta.gains(records)
    assert [gain.words for gain in together] == ["none", *tta.WORDS]
    flip = together[1]
    assert (flip.miou, flip.difference.mean) == (pytest.approx(22.0), pytest.approx(1.0))
    assert flip.verdict == "gains" and together[2].verdict == "loses" and together[3].verdict == "undecided"
    assert (len(other[0].runs), other[1].verdict) == (1, "one run")
    assert "seeds 0, 1, 2" in tta.title(together) and "labels scan-1pct," in tta.title(together)
    assert "700 steps" in tta.title(together)
    assert tta.cells(flip)[:4] == ("flip", "2", "22.00", "+1.00") and "gains" in tta.cells(flip)[4]
    assert tta.cells(together[0]) == ("none", "1", "21.00", "", "", "20.00 21.00 22.00")


def test_a_loss_is_printed_as_a_loss() -> None:
    text = tta.markdown([run(0, -1.0), run(1, -1.1), run(2, -0.9)], MACHINE)
    line = next(line for line in text.splitlines() if line.startswith("| flip |"))
    assert "-1.00" in line and "loses" in line
    assert "trained on cpu" in text and "torch 2" in text
    value = tta.figures([run(0, -1.0), run(1, -1.1)], MACHINE)
    assert [row["tta"] for row in value["gains"]] == list(tta.WORDS)
    assert value["gains"][0]["gain"] == pytest.approx(-1.05)
