"""Cylinder3D through the pipeline: its classifier looks at neighbors, its inputs are points, none is dropped."""

from __future__ import annotations

import numpy as np

from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.trainer import load_predictor, train
from ssl3d.pipeline.workspace import Workspace

GRID = ["backbone.grid=[30,36,13]", "backbone.rho=[0,30]", "backbone.z=[-1,11]"]
NARROW = ["backbone.base_channels=4", "backbone.point_widths=[16,16,16,16]"]
STILL = ["augment.rotate=0", "augment.flip_x=0", "augment.flip_y=0", "augment.translate=0"]


def small(method: str, steps: int, *overrides: str) -> RunConfig:
    chosen = ["train.workers=0", "train.batch=1", "train.lr=0.02", *GRID, *NARROW, *STILL, *overrides]
    return resolve(method, backbone="cylinder3d-micro", steps=steps, overrides=chosen)


def test_supervised_learns_and_sees_every_point(space: Workspace) -> None:
    run = train(space, small("supervised", 20, "supervised.lambda_lov=1", "train.log_every=2"), device="cpu", jobs=1)
    losses = [line["losses"] for line in run.metrics()]
    assert losses[-1]["ce"] < 0.7 * losses[0]["ce"]
    assert losses[-1]["lovasz"] < losses[0]["lovasz"]
    segmenter, _ = load_predictor(run)
    data = PreparedDataset(space.dataset())
    view = data.source().view(data.subset("val")[0].index)
    far = view.moved(view.points * np.float32(3))  # up to 60 m, in a grid that ends at 30 m
    inputs = segmenter.backbone.prepare([far])
    assert int(inputs.elements.point_to_element.min()) == 0


def test_mean_teacher(space: Workspace) -> None:
    run = train(space, small("mean_teacher", 3, "train.batch=2", "train.log_every=1"), device="cpu", jobs=1)
    assert {"ce", "consistency"} <= set(run.metrics()[-1]["losses"])
    data = PreparedDataset(space.dataset())
    result = evaluate(data, subject_of(run))
    assert result.confusion.points == sum(scan.num_points for scan in data.subset("val"))
    assert result.confusion.ignored == 0  # every point got a class
