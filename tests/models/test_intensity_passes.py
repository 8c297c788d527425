"""A segmenter that is asked with three intensities gives the mean of the three softmaxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.minkunet import MinkUNetMicroParams
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.intensity_passes import IntensityPasses
from ssl3d.pipeline.evaluation.predictor import Predictor


def scan(features: dict[str, np.ndarray]) -> View:
    points = np.random.default_rng(0).uniform(-4, 4, (200, 3)).astype(np.float32)
    rows = np.stack([np.zeros(200, np.int64), np.arange(200)], 1)
    return View(points, features, rows, np.full(200, IGNORE, np.uint8))


def scores(segmenter: Segmenter, view: View) -> np.ndarray:
    predictor = Predictor(segmenter, "cpu", prefetch=False)
    ((_, prediction),) = predictor.predictions([view], lambda whole: whole, scores=True)
    assert prediction.scores is not None
    return prediction.scores


def test_mean_of_the_softmax_over_three_intensities() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(make_backbone("minkunet-micro"), 4)
    intensity = np.random.default_rng(1).random((200, 1)).astype(np.float32)
    view = scan({"intensity": intensity})
    each = [scores(segmenter, replace(view, features={"intensity": intensity * np.float32(f)})) for f in (0.9, 1, 1.1)]
    found = scores(IntensityPasses(segmenter), view)
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-5, atol=1e-7)
    assert np.abs(found - each[1]).max() > 1e-5
    assert np.array_equal(view.features["intensity"], intensity)


def test_without_intensities_there_is_one_pass() -> None:
    segmenter = Segmenter(make_backbone("minkunet-micro", MinkUNetMicroParams(features=("xyz",))), 4)
    view = scan({})
    np.testing.assert_array_equal(scores(IntensityPasses(segmenter), view), scores(segmenter, view))
