from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.registry import get_backbone, make_backbone
from ssl3d.pipeline.evaluation.predictor import Predictor, nearest_seen, prefetched
from ssl3d.pipeline.progress import Silent

MakeSegmenter = Callable[..., Segmenter]
MakeView = Callable[..., View]
Nearest = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize("prefetch", [False, True])
def test_every_point_gets_the_class_of_its_voxel(
    make_segmenter: MakeSegmenter, make_view: MakeView, nearest_anchor: Nearest, prefetch: bool
) -> None:
    views = [make_view(n, seed=n) for n in (500, 1, 0, 30)]
    predictor = Predictor(make_segmenter(), "cpu", prefetch=prefetch)
    found = dict(predictor.labels(range(len(views)), views.__getitem__))
    assert list(found) == [0, 1, 2, 3]
    for index, label in found.items():
        assert label.dtype == np.uint8
        assert np.array_equal(label, nearest_anchor(views[index].points))


def test_passes_are_averaged_and_rows_bring_them_back(make_segmenter: MakeSegmenter, make_view: MakeView) -> None:
    view = make_view(400)
    whole = Predictor(make_segmenter(), "cpu").label(view)
    # an empty pass, two that overlap, and one that repeats everything
    cuts = ((90.0, 99.0), (-99.0, 7.0), (3.0, 99.0), (-99.0, 99.0))
    shuffled = view.select(np.random.default_rng(1).permutation(400))
    for cut in (cuts, cuts[::-1]):
        predictor = Predictor(make_segmenter(cuts=cut), "cpu")
        assert np.array_equal(predictor.label(view), whole)
        assert np.array_equal(predictor.label(shuffled), whole)  # labels are by original row


def test_the_mean_of_the_passes_decides(make_segmenter: MakeSegmenter, make_view: MakeView) -> None:
    """Coarse voxels of one pass against finer ones of others would differ; here: two passes outvote one."""

    class Voting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            winner = 2 if self.calls == 1 else 1
            logits = features.new_zeros(len(features), 4)
            logits[:, winner] = 3.0
            return logits

    view = make_view(50)
    segmenter = make_segmenter(cuts=((-99.0, 99.0),) * 3)
    segmenter.head = Voting()
    assert set(Predictor(segmenter, "cpu").label(view)) == {1}
    segmenter.head = Voting()
    segmenter.backbone.cuts = ((-99.0, 99.0),)  # type: ignore[assignment]
    assert set(Predictor(segmenter, "cpu").label(view)) == {2}


def test_points_without_an_element_take_the_nearest_label(make_segmenter: MakeSegmenter, make_view: MakeView) -> None:
    view = make_view(300)
    reach = 9.0
    label = Predictor(make_segmenter(reach=reach), "cpu").label(view)
    whole = Predictor(make_segmenter(), "cpu").label(view)
    seen = np.linalg.norm(view.points, axis=1) <= reach
    assert 0 < seen.sum() < 300
    assert np.array_equal(label[seen], whole[seen])
    for row in np.flatnonzero(~seen):
        distance = np.linalg.norm(view.points[seen] - view.points[row], axis=1)
        assert label[row] == whole[seen][distance.argmin()]


def test_points_that_are_not_numbers_take_the_label_of_their_neighbor_in_the_file(
    make_segmenter: MakeSegmenter, make_view: MakeView
) -> None:
    view = make_view(20)
    whole = Predictor(make_segmenter(), "cpu").label(view)
    view.points[[0, 7, 8, 9, 19], 1] = (np.nan, np.inf, np.nan, -np.inf, np.nan)
    label = Predictor(make_segmenter(), "cpu").label(view)
    source = np.arange(20)
    source[[0, 7, 8, 9, 19]] = (1, 6, 6, 10, 18)
    assert np.array_equal(label, whole[source])


def test_a_scan_of_which_nothing_is_seen_is_ignored_and_named(
    make_segmenter: MakeSegmenter, make_view: MakeView
) -> None:
    class Told(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    blind = make_view(5)
    blind.points[:] = np.nan
    views = [make_view(5, scan_id="08/000007"), make_view(4), blind]
    for segmenter, view in zip((make_segmenter(reach=1e-6), make_segmenter(cuts=((90.0, 91.0),)), make_segmenter()),
                               views, strict=True):  # fmt: skip
        predictor = Predictor(segmenter, "cpu", progress=Told())
        assert predictor.label(view).tolist() == [IGNORE] * len(view)
    assert len(said) == 3
    assert "08/000007" in said[0]
    many = Predictor(make_segmenter(reach=1e-6), "cpu", progress=Told())
    assert len(list(many.labels(range(9), lambda index: make_view(3)))) == 9
    assert len(said) == 6
    assert "not named" in said[-1]


def test_a_scan_beyond_the_clip_range_is_predicted(make_view: MakeView) -> None:
    backbone = make_backbone("minkunet-micro", get_backbone("minkunet-micro").Params(features=("xyz",)))
    far = make_view(6)
    far.points[:] += 1000
    assert Predictor(Segmenter(backbone, 3), "cpu").label(far).tolist() == [IGNORE] * 6
    assert Predictor(Segmenter(backbone, 3), "cpu").label(far.select(np.zeros(6, bool))).shape == (0,)


def test_diverged_weights_are_an_error_not_class_zero(make_segmenter: MakeSegmenter, make_view: MakeView) -> None:
    segmenter = make_segmenter()
    segmenter.head.weight.data.fill_(float("nan"))  # type: ignore[operator, union-attr]
    with pytest.raises(Ssl3dError, match="not numbers"):
        Predictor(segmenter, "cpu").label(make_view(5))


def test_the_network_is_put_in_eval_mode_and_keeps_no_graph(make_segmenter: MakeSegmenter, make_view: MakeView) -> None:
    segmenter = make_segmenter().train()
    Predictor(segmenter, "cpu").label(make_view(5))
    assert not segmenter.training
    assert all(parameter.grad is None for parameter in segmenter.parameters())


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_nearest_seen_is_the_brute_force_search(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3)).astype(np.float32)
    seen = rng.random(n) < 0.5
    seen[rng.integers(n)] = True
    source = nearest_seen(seen, points)
    for row in range(n):
        distance = np.where(seen, np.linalg.norm(points - points[row], axis=1), np.inf)
        assert source[row] == (row if seen[row] else distance.argmin())


def test_prefetched_keeps_the_order_and_raises_errors_of_the_thread() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise KeyError("the sixth")

    found = []
    with pytest.raises(KeyError, match="the sixth"):
        for item in prefetched(items()):
            found.append(item)  # noqa: PERF402 - what came before the error is the point
    assert found == [0, 1, 2, 3, 4]


def test_prefetched_runs_at_most_one_item_ahead_and_stops_when_left() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    iterator = prefetched(items(), depth=1)
    assert next(iterator) == 0
    time.sleep(0.3)
    assert len(made) <= 3  # one handed over, one waiting, one in the hands of the thread
    iterator.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "ssl3d-prefetch"]
