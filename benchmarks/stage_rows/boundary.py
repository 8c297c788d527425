"""Boundaries of labels against a k-d tree, and how well those of other scans are predicted.

The quality is measured on all points of the validation scans of generated streets, of which the network has seen no
label. The rival looks at geometry alone: it calls a point a boundary point where the surface bends. The thresholds of
both are those with the best F1 on the visible labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.benchmarks.stage_rows._scans import in_turns
from ssl3d.benchmarks.stages import row
from ssl3d.data.geometry.boundary import ROUNDING, boundary_points
from ssl3d.data.scan import IGNORE, View
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.stages.boundary import BoundaryStage, network_params
from ssl3d.pipeline.stages.boundary_summary import Counts
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.workspace import Workspace

BACKBONE, STEPS = "spunet-micro", 500
SETTINGS = ("train.batch=1", "backbone.voxel_size=0.15", "optimizer.lr=0.005", "schedule.name=onecycle")
"""A larger rate than the stage's own: a few hundred steps take the place of 100 epochs."""
NEIGHBORS = 16
QUANTILES = np.linspace(0.5, 0.995, 100)
"""Of the values of all points: the thresholds to choose from."""

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


def rows(folder: Path, *, jobs: int, quick: bool) -> list[dict[str, Any]]:
    """The ground truth of a street with so many threads; F1, precision and recall after a short training."""
    stage = trained(folder, jobs, quick)
    return [speed(stage, jobs, quick), *quality(stage, folder)]


def speed(stage: BoundaryStage, jobs: int, quick: bool) -> dict[str, Any]:
    """The boundaries of the labels of a scan."""
    import scipy
    from scipy.spatial import cKDTree

    data, radius = stage.dataset, network_params(stage.network).radius
    index = max(data.scans, key=lambda scan: scan.num_points).index
    points, label = data.source().view(index).points, data.truth().label(index)

    def by_tree() -> U8:
        known = label != IGNORE
        kept, classes = points[known], label[known]
        pairs = cKDTree(kept).query_pairs(radius * (1 + ROUNDING), output_type="ndarray")
        found = np.zeros(len(kept), np.uint8)
        found[pairs[classes[pairs[:, 0]] != classes[pairs[:, 1]]]] = 1
        out = np.full(len(points), IGNORE, np.uint8)
        out[known] = found
        return out

    ours = partial(boundary_points, points, label, radius, jobs)
    if not np.array_equal(ours(), by_tree()):
        raise RuntimeError("the boundaries of a street differ from scipy's")
    mine, other = in_turns(ours, by_tree, 3 if quick else 7)
    rival = f"scipy {scipy.__version__} cKDTree.query_pairs, its tree included"
    return row(
        f"boundaries of the labels of {len(points):,} points, {radius:g} m", rival, mine * 1e3, other * 1e3, "ms"
    )


# ---------------------------------------------------------------- quality


def trained(folder: Path, jobs: int, quick: bool) -> BoundaryStage:
    """The stage on generated streets of which 10% of the scans are labelled, with its network in ``folder``."""
    from ssl3d.data.synthetic.street import generate_street

    root, space = folder / "boundary-streets", Workspace.open(folder / "boundary")
    generate_street(root, "tiny" if quick else "small", 0, jobs=max(1, jobs))
    prepare(space, "semantickitti", root, PrepareParams(), jobs=1)
    split(space, SplitParams(ratio="10%"))
    data = PreparedDataset(space.dataset())
    stage = BoundaryStage.of(data, SETTINGS, backbone=BACKBONE, steps=20 if quick else STEPS, device="cpu")
    stage.begin(folder, jobs, Silent())
    return stage


def quality(stage: BoundaryStage, folder: Path) -> list[dict[str, Any]]:
    """F1, precision and recall of boundary points on the validation scans, in percent."""
    from ssl3d.pipeline.evaluation.predictor import Predictor
    from ssl3d.pipeline.training.build import load_predictor
    from ssl3d.pipeline.training.run import RunDirectory

    run = RunDirectory(folder / stage.network.run_name)
    data, radius = stage.dataset, network_params(stage.network).radius
    source, truth, scans = data.source(), data.truth(), [scan.index for scan in data.subset("val")]
    predictor = Predictor(load_predictor(run, stage.device)[0], stage.device)

    def predicted(view: View) -> F32:
        ((_, found),) = predictor.predictions([0], lambda _: view, scores=True)
        assert found.scores is not None
        return found.scores[:, 1]

    ways = {"ours": predicted, "bend": lambda view: bend(view.points)}
    limits = {name: tuned(stage, values, radius) for name, values in ways.items()}
    counts = {name: Counts() for name in ("ours", "tuned", "bend", "all")}
    for index in scans:
        view = source.view(index)
        wanted, scores = boundary_points(view.points, truth.label(index), radius), predicted(view)
        counts["ours"].add(compared(wanted, scores > stage.params.threshold))
        counts["tuned"].add(compared(wanted, scores > limits["ours"]))
        counts["bend"].add(compared(wanted, bend(view.points) > limits["bend"]))
        counts["all"].add(compared(wanted, np.ones(len(view), np.bool_)))
    taken, labelled = run.status()["seconds"], len(stage.roles.training)
    about = f"{stage.network.backbone}, {stage.network.train.steps} steps in {taken:.0f} s on {labelled} scans"
    bent = f"normals of {NEIGHBORS} neighbors that bend, both thresholds tuned on visible labels"
    half = f"the same, ours above {stage.params.threshold:g}"
    lines = [
        ("F1", bent, counts["tuned"].f1, counts["bend"].f1),
        ("precision", bent, counts["tuned"].precision, counts["bend"].precision),
        ("recall", bent, counts["tuned"].recall, counts["bend"].recall),
        ("F1", half, counts["ours"].f1, counts["bend"].f1),
        ("F1", "every point is one", counts["tuned"].f1, counts["all"].f1),
    ]
    return [
        row(
            f"boundary points of val, {name} ({about})", other, 100 * (a or 0), 100 * (b or 1), "%", more_is_better=True
        )
        for name, other, a, b in lines
    ]


def compared(truth: U8, found: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Hits, false, missed, neither over the points whose truth is known."""
    known = truth != IGNORE
    real, said = truth[known] == 1, found[known]
    return int((real & said).sum()), int((~real & said).sum()), int((real & ~said).sum()), int((~real & ~said).sum())


def tuned(stage: BoundaryStage, values_of: Callable[[View], F32], radius: float) -> float:
    """The threshold with the best F1 on the visible labels of all labelled scans, held out or not."""
    visible = stage.dataset.visible()
    views = [visible.view(int(index)) for index in visible.labelled]
    truths = [boundary_points(view.points, view.label, radius) for view in views]
    values = [values_of(view) for view in views]
    best, limit = -1.0, np.inf
    for candidate in np.quantile(np.concatenate(values), QUANTILES):
        counts = Counts()
        for truth, each in zip(truths, values, strict=True):
            counts.add(compared(truth, each > candidate))
        if (counts.f1 or 0) > best:
            best, limit = counts.f1 or 0.0, float(candidate)
    return limit


def bend(points: F32) -> F32:
    """(n,) one minus the least |cosine| between the normal of a point and those of its nearest neighbors."""
    from pykdtree.kdtree import KDTree

    near = KDTree(points).query(points, k=min(NEIGHBORS, len(points)))[1].astype(np.int64)
    around = points[near] - points[near].mean(axis=1, keepdims=True)
    normal = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))[1][:, :, 0]
    cosine = np.abs(np.einsum("ni,nki->nk", normal, normal[near[:, :8]]))
    return np.asarray(1 - cosine.min(axis=1), np.float32)
