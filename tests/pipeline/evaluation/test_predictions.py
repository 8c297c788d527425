"""Every kind of network through ``Predictor``: pixels, crops of points with overlaps, voxels with instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from ssl3d_test_kinds import (
    CropParams,
    Crops,
    Means,
    MeansParams,
    PixelInputs,
    PixelParams,
    Pixels,
    TwoHalves,
)
from torch import Tensor, nn

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.range_image import RangeProjection
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import Backbone, Inputs, Output, Segmenter
from ssl3d.models.prediction import Instances, Prediction
from ssl3d.pipeline.evaluation.predictor import Predictor
from ssl3d.pipeline.progress import Silent

CLASSES = 3


def scan(n: int, seed: int = 0) -> View:
    """Points within 20 m of the sensor."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (n, 3)).astype(np.float32) * np.array([20, 20, 2], np.float32)
    rows = np.stack([np.full(n, seed), np.arange(n)], axis=1)
    intensity = rng.random((n, 1)).astype(np.float32)
    return View(points, {"intensity": intensity}, rows, np.full(n, IGNORE, np.uint8), scan={"scan_id": f"00/{seed}"})


def segmenter(backbone: Backbone, kind: Callable[[Backbone, int], Segmenter] = Segmenter) -> Segmenter:
    torch.manual_seed(0)
    made = kind(backbone, CLASSES)
    nn.init.normal_(made.head.weight)  # type: ignore[arg-type]
    return made.eval()


def predict(network: Segmenter, view: View, prefetch: bool = False) -> Prediction:
    predictor = Predictor(network, "cpu", prefetch=prefetch)
    ((key, found),) = predictor.predictions(["this one"], lambda _: view, scores=True, features=True)
    assert key == "this one"
    assert np.array_equal(found.label, predictor.label(view))
    return found


def kinds() -> Iterator[Segmenter]:
    yield segmenter(Pixels(PixelParams()))
    yield segmenter(Crops(CropParams()))
    yield segmenter(Crops(CropParams(smoothing=0.9)))
    yield segmenter(Means(MeansParams()), TwoHalves)


@torch.inference_mode()
def by_hand(network: Segmenter, view: View) -> tuple[Inputs, np.ndarray, np.ndarray]:
    """Inputs, class probabilities and features of one pass, per point; NaN where a point has no element."""
    inputs = network.backbone.prepare([view])
    output = network(inputs)
    gathered = (
        inputs.elements.gather(values, fill=float("nan")).numpy()
        for values in (output.logits.softmax(dim=1), output.levels.finest)
    )
    return inputs, *gathered  # type: ignore[return-value]


# ---------------------------------------------------------------- pixels


def test_points_of_a_pixel_share_its_prediction_and_one_without_a_direction_takes_the_nearest() -> None:
    view = scan(600)
    view.points[[3, 4]] = 0
    view.points[5] = 2 * view.points[6]  # the same ray
    network = segmenter(Pixels(PixelParams(height=16, width=64)))
    found = predict(network, view)
    kept = np.delete(np.arange(600), [3, 4])
    place = RangeProjection.of(view.points[kept], load_spec("semantickitti").sensor, height=16, width=64)
    inputs = network.backbone.prepare([view])
    assert isinstance(inputs, PixelInputs)
    with torch.inference_mode():
        image = network(inputs).logits.softmax(dim=1).reshape(16, 64, CLASSES).numpy()
    np.testing.assert_allclose(found.scores[kept], place.at_points(image), rtol=1e-6)  # type: ignore[index]
    assert len(np.unique(place.row.astype(int) * 64 + place.col)) < 500  # many are behind others
    assert np.array_equal(found.scores[5], found.scores[6])  # type: ignore[index]
    nearest = kept[np.linalg.norm(view.points[kept], axis=1).argmin()]
    assert found.label[3] == found.label[4] == found.label[nearest]
    assert np.array_equal(found.features[3], found.features[nearest])  # type: ignore[index]


def test_the_label_of_a_pixel_is_that_of_its_nearest_point() -> None:
    view = scan(2)
    view.points[:] = [[10, 0, 0], [5, 0, 0]]
    spec = Pixels(PixelParams(height=4, width=8)).input_spec
    inputs = spec.prepare([view, view.select(np.array([0]))])
    label = spec.labels(inputs, torch.tensor([0, 1, 2]))
    assert label[label != IGNORE].tolist() == [1, 2]
    assert len(label) == 2 * 4 * 8


# ---------------------------------------------------------------- points, overlapping passes


def test_votes_over_overlapping_crops_are_their_mean() -> None:
    view, network = scan(100), segmenter(Crops(CropParams(points=24)))
    total, features, count = np.zeros((100, CLASSES)), np.zeros((100, 3)), np.zeros((100, 1))
    passes = list(network.backbone.chunks(view))
    for one in passes:
        assert len(one) == 24
        _, probabilities, finest = by_hand(network, one)
        for place, row in enumerate(one.rows[:, 1]):
            total[row] += probabilities[place]
            features[row] += finest[place]
            count[row] += 1
    assert len(passes) > 5 and count.min() == 1 and count.max() > 3  # overlapping, until every point is seen
    found = predict(network, view, prefetch=True)
    np.testing.assert_allclose(found.scores, total / count, rtol=1e-4)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.features, features / count, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
    assert np.array_equal(found.label, total.argmax(axis=1))


def test_the_backbone_chooses_how_passes_vote() -> None:
    view, network = scan(100), segmenter(Crops(CropParams(points=24, smoothing=0.6)))
    smooth, weight = np.zeros((100, CLASSES)), np.zeros((100, 1))
    for one in network.backbone.chunks(view):
        probabilities = by_hand(network, one)[1]
        for place, row in enumerate(one.rows[:, 1]):
            smooth[row] = 0.6 * smooth[row] + 0.4 * probabilities[place]
            weight[row] = 0.6 * weight[row] + 0.4
    found = predict(network, view)
    np.testing.assert_allclose(found.scores, smooth / weight, rtol=1e-4)  # type: ignore[arg-type]
    mean = predict(segmenter(Crops(CropParams(points=24))), view)
    assert not np.allclose(found.scores, mean.scores, atol=1e-3)  # type: ignore[arg-type]


def test_three_passes_counted_by_hand() -> None:
    class Cuts(Crops):
        def chunks(self, view: View) -> Iterator[View]:
            for rows in ([0, 1], [1, 2], [1]):
                yield view.select(np.array(rows))

    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_pass = iter([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.3, 0.7]], [[0.1, 0.9]]])

        def forward(self, features: Tensor) -> Tensor:
            return torch.tensor(next(self.of_pass)).log()

    view = scan(4)
    view.points[3] = view.points[2] + 0.01  # no pass covers it
    network = Segmenter(Cuts(CropParams()), 2)
    network.head = Answers()
    ((_, found),) = Predictor(network, "cpu").predictions([0], lambda _: view, scores=True)
    np.testing.assert_allclose(found.scores, [[0.9, 0.1], [0.3, 0.7], [0.3, 0.7], [0.3, 0.7]], atol=1e-6)  # type: ignore[arg-type]
    assert found.label.tolist() == [0, 1, 1, 1]
    assert found.features is None and found.instances is None


def test_the_state_of_a_scan_touches_no_other_scan() -> None:
    network = segmenter(Crops(CropParams(points=16, smoothing=0.5)))
    views = [scan(n, seed=n) for n in (90, 5, 60)]  # 5 points are filled up to 16
    alone = [predict(network, view) for view in views]
    for order in ([0, 1, 2], [2, 1, 0, 0]):
        predictor = Predictor(network, "cpu", prefetch=True)
        for index, found in predictor.predictions(order, views.__getitem__, scores=True):
            assert np.array_equal(found.scores, alone[index].scores)  # type: ignore[arg-type]


# ---------------------------------------------------------------- instances


def test_two_instances_overlap_and_follow_their_points_to_original_rows() -> None:
    view = scan(200)
    view.points[7] = (0, 0, 99)  # beyond the clip range: no voxel, no instance, and yet a label
    view.points[8] = np.nan  # points of the batch are no longer rows from here on
    network = segmenter(Means(MeansParams(size=0.01)), TwoHalves)  # a voxel per point
    found = predict(network, view)
    x = view.points[:, 0]
    seen = np.isin(np.arange(200), [7, 8], invert=True)
    assert found.instances is not None
    assert np.array_equal(found.instances.masks(200), [seen & (x < 5), seen & (x > -5)])
    assert (found.instances.masks(200).all(axis=0)).sum() > 20
    np.testing.assert_allclose(found.instances.score, [(x < 5)[seen].mean(), (x > -5)[seen].mean()], rtol=1e-5)
    members = found.label[found.instances.points_of(0)]
    assert found.instances.label[0] == np.bincount(members).argmax()
    assert found.label[7] == found.label[np.where(seen, np.linalg.norm(view.points - [0, 0, 99], axis=1), 1e9).argmin()]


def test_a_padded_pass_gives_an_instance_each_point_once() -> None:
    class One(Segmenter):
        def instances(self, inputs: Inputs, output: Output) -> Instances:
            everything = np.ones((1, len(inputs.rows)), np.bool_)
            return Instances.from_masks(everything, np.zeros(1, np.uint8), np.ones(1, np.float32))

    view = scan(5)
    view.points[:] = 1  # all in the middle of the first crop, which is enough
    found = predict(segmenter(Crops(CropParams(points=16)), One), view)
    assert found.instances is not None
    assert found.instances.point.tolist() == [0, 1, 2, 3, 4]


def test_instances_of_several_passes_are_refused_labels_are_not() -> None:
    class Cuts(Means):
        def chunks(self, view: View) -> Iterator[View]:
            yield view.select(view.points[:, 0] < 0)
            yield view.select(view.points[:, 0] >= 0)

    network = segmenter(Cuts(MeansParams()), TwoHalves)
    with pytest.raises(Ssl3dError, match=r"several passes[\s\S]*00/0"):
        predict(network, scan(50))
    assert len(Predictor(network, "cpu").label(scan(50))) == 50


# ---------------------------------------------------------------- all of them


def test_points_that_are_not_numbers_take_all_from_their_neighbor_in_the_file() -> None:
    view = scan(60)
    whole = scan(60)
    view.points[[0, 7, 59]] = (np.nan, np.inf, -np.inf)
    source = np.arange(60)
    source[[0, 7, 59]] = (1, 6, 58)
    for network in kinds():
        found = predict(network, view)
        assert found.scores is not None and found.features is not None
        for values in (found.label, found.scores, found.features):
            assert np.array_equal(values, values[source])
        assert np.isfinite(found.scores).all() and np.isfinite(found.features).all()
        np.testing.assert_allclose(found.scores.sum(axis=1), 1, rtol=1e-4)
        assert predict(network, whole).label.max() < CLASSES


def test_a_scan_of_which_nothing_is_seen_and_an_empty_one() -> None:
    class Told(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    blind = scan(5)
    blind.points[:] = np.nan
    origin, far = scan(4), scan(3)
    origin.points[:] = 0
    far.points[:] += 1000
    pixels, *_, voxels = kinds()
    for network, views in ((pixels, [blind, origin]), (voxels, [blind, far]), *((one, [blind]) for one in kinds())):
        predictor = Predictor(network, "cpu", progress=Told())
        for view in (*views, scan(0)):
            said.clear()
            ((_, found),) = predictor.predictions([0], lambda _, view=view: view, scores=True, features=True)
            assert found.label.tolist() == [IGNORE] * len(view)
            assert found.scores is not None and found.features is not None
            assert found.scores.shape == (len(view), CLASSES) and not found.scores.any()
            assert found.features.shape == (len(view), network.backbone.out_channels) and not found.features.any()
            assert found.instances is None
            assert len(said) == (len(view) > 0)


def test_what_is_not_asked_for_is_not_made() -> None:
    for network in kinds():
        ((_, found),) = Predictor(network, "cpu").predictions([0], lambda _: scan(40))
        assert found.scores is None and found.features is None
        assert (found.instances is None) == (not isinstance(network, TwoHalves))
