from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, InputSpec, Segmenter
from ssl3d.pipeline.evaluation.passes import Passes
from ssl3d.pipeline.evaluation.predictor import Predictor
from ssl3d.pipeline.evaluation.result import display_name

MakeSegmenter = Callable[..., Segmenter]
MakeView = Callable[..., View]


def test_words_are_checked_and_sorted() -> None:
    assert Passes.parse("none") == Passes() == Passes.parse("")
    assert Passes.parse("rotate, flip").augment == ("flip", "rotate")
    assert Passes.parse("rotate,flip").name == "tta-flip-rotate"
    with pytest.raises(UsageError, match="there is no test-time augmentation 'rotat'") as error:
        Passes.parse("rotat")
    assert "did you mean rotate" in str(error.value.hint)
    assert display_name("a", "ema", ("flip",)) == "a (ema, tta flip)"


@pytest.mark.parametrize(("words", "count"), [("none", 1), ("flip", 2), ("rotate", 4), ("flip,rotate,scale", 24)])
def test_copies_are_rigid_and_differ(words: str, count: int, make_view: MakeView) -> None:
    view = make_view(50)
    view.features["normal"] = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (50, 1))
    copies = list(Passes.parse(words).variants(view))
    assert len(copies) == count
    assert copies[0] is view
    seen = {tuple(np.round(copy.points[0], 4)) for copy in copies}
    assert len(seen) == count
    apart = np.linalg.norm(view.points[1:] - view.points[:-1], axis=1)
    for copy in copies:
        ratio = np.linalg.norm(copy.points[1:] - copy.points[:-1], axis=1) / apart
        assert np.ptp(ratio) < 1e-4
        assert round(float(ratio.mean()), 3) in (0.95, 1.0, 1.05)
        assert np.allclose(np.linalg.norm(copy.features["normal"], axis=1), 1)
        assert np.array_equal(copy.rows, view.rows)


def test_blocks_cover_every_point_overlap_and_stay_small() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (5000, 3)).astype(np.float32)
    view = View(points, {}, np.stack([np.zeros(5000, np.int64), np.arange(5000)], 1), np.zeros(5000, np.uint8))
    passes = Passes(block_points=700, overlap=3.0)
    blocks = list(passes.blocks(view))
    assert len(blocks) == 8
    times = np.bincount(np.concatenate([block.rows[:, 1] for block in blocks]), minlength=5000)
    assert times.min() == 1
    assert 1.1 < times.mean() < 2  # 3 m around blocks of 25 x 50 m
    # a point less than the overlap inside of a border is in the neighbor's block too
    assert max(len(block) for block in blocks) < 2 * 700


def test_blocks_of_points_on_one_spot() -> None:
    view = View(np.zeros((100, 3), np.float32), {}, np.zeros((100, 2), np.int64), np.zeros(100, np.uint8))
    assert sum(len(block) for block in Passes(block_points=30).blocks(view)) >= 100


def test_blocks_predict_what_the_whole_scan_does(make_segmenter: MakeSegmenter, make_view: MakeView) -> None:
    view = make_view(600)
    whole = Predictor(make_segmenter(), "cpu").label(view)
    cut = Predictor(make_segmenter(), "cpu", passes=Passes(block_points=100, overlap=1.0)).label(view)
    assert np.array_equal(whole, cut)


def test_the_mean_over_the_copies_decides(make_segmenter: MakeSegmenter, make_view: MakeView) -> None:
    """A network that says 2 for the scan as it is, and 1 for its copies."""
    view = make_view(40)

    class Sided(torch.nn.Module):
        calls = 0

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            Sided.calls += 1
            logits = torch.zeros(len(features), 4)
            logits[:, 2 if Sided.calls == 1 else 1] = 1.0
            return logits

    segmenter = make_segmenter()
    segmenter.head = Sided()
    assert (Predictor(segmenter, "cpu", passes=Passes.parse("flip,rotate")).label(view) == 1).all()
    assert Sided.calls == 8


class Watched(InputSpec):
    """Notes how many points every block has, and how many inputs are in memory at a time."""

    def __init__(self, inner: InputSpec) -> None:
        self.inner = inner
        self.points: list[int] = []
        self.alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
        self.most = 0

    def prepare(self, views: Sequence[View]) -> Inputs:
        inputs = self.inner.prepare(views)
        self.points.append(sum(map(len, views)))
        self.alive.add(inputs.rows)
        self.most = max(self.most, len(self.alive))
        return inputs

    def labels(self, inputs: Inputs, y: torch.Tensor) -> torch.Tensor:
        return self.inner.labels(inputs, y)


def spread(n: int) -> View:
    """``n`` points, one a square meter: a larger cloud is a wider one."""
    rng = np.random.default_rng(n)
    points = np.c_[rng.uniform(0, n**0.5, (n, 2)), rng.uniform(0, 1, n)].astype(np.float32)
    rows = np.stack([np.zeros(n, np.int64), np.arange(n)], 1)
    return View(points, {}, rows, np.full(n, IGNORE, np.uint8), scan={"scan_id": str(n)})


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("words", ["none", "flip"])
def test_what_is_looked_at_does_not_grow_with_the_cloud(
    make_segmenter: MakeSegmenter, words: str, prefetch: bool
) -> None:
    """Eight and thirty-two times the points: blocks are as large, and as few of them are in memory."""
    largest, most = {}, {}
    for n in (2_000, 16_000, 64_000):
        network = make_segmenter()
        watched = Watched(network.backbone.input_spec)
        network.backbone.input_spec = watched
        passes = replace(Passes.parse(words), block_points=2_000, overlap=3.0)
        label = Predictor(network, "cpu", passes=passes, prefetch=prefetch).label(spread(n))
        assert len(label) == n and (label != IGNORE).all()
        assert len(watched.points) >= passes.copies * n / 2_000
        largest[n], most[n] = max(watched.points), watched.most
    assert largest[64_000] <= 1.7 * 2_000  # 3 m around a block of 32 x 62 m
    assert largest[64_000] <= 1.2 * largest[16_000]
    assert max(most.values()) <= 4


def test_blocks_vote_where_they_overlap(make_segmenter: MakeSegmenter) -> None:
    """Each block is told apart by a class of its own: in the overlap, the mean of their probabilities counts."""
    view = spread(400)
    passes = Passes(block_points=200, overlap=4.0)
    low, high = passes.blocks(view)
    both = np.intersect1d(low.rows[:, 1], high.rows[:, 1])
    assert 20 < len(both) < 300

    class Told(torch.nn.Module):
        """0.6 for class 1 in the first block; 0.9 for class 2 in the second."""

        calls = 0

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            share = torch.tensor([[0.3, 0.6, 0.1], [0.05, 0.05, 0.9]][Told.calls]).log()
            Told.calls += 1
            return share.expand(len(features), 3)

    network = make_segmenter(classes=3)
    network.head = Told()
    predictor = Predictor(network, "cpu", passes=passes, prefetch=False)
    ((_, found),) = predictor.predictions([0], lambda _: view, scores=True)
    assert found.scores is not None
    alone = np.setdiff1d(low.rows[:, 1], both), np.setdiff1d(high.rows[:, 1], both)
    np.testing.assert_allclose(found.scores[both], np.tile([0.175, 0.325, 0.5], (len(both), 1)), atol=1e-6)
    np.testing.assert_allclose(found.scores[alone[0]], np.tile([0.3, 0.6, 0.1], (len(alone[0]), 1)), atol=1e-6)
    assert set(found.label[alone[0]]) == {1} and set(found.label[alone[1]]) == {2} == set(found.label[both])
