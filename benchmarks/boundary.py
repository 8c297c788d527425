"""``ssl3d bench boundary``: finding the boundaries of labelled scans, and predicting those of others.

The quality is measured on all points of the validation scans of generated streets, of which the network has seen no
label. The rival looks at geometry alone: it calls a point a boundary point where the surface bends, and is as good as
the visible labels let it be (its threshold is the one with the best F1 on them).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.benchmarks.stages import row, seconds
from ssl3d.data.geometry.boundary import boundary_points
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.stages.boundary import BoundaryStage, network_params
from ssl3d.pipeline.stages.boundary_summary import Counts
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.workspace import Workspace

NEIGHBORS = 16
QUANTILES = np.linspace(0.5, 0.995, 100)
"""Of the bend of all points: the thresholds that the rival may choose from."""

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


def run(
    *,
    backbone: str,
    steps: int,
    ratio: str,
    seed: int,
    jobs: int,
    progress: Progress,
    streets: Path | None = None,
    preset: str = "small",
    device: str = "cpu",
    settings: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Rows of quality and of speed. ``streets``: generated ones; None: generates ``preset``."""
    from ssl3d.data.synthetic.street import generate_street

    with tempfile.TemporaryDirectory(prefix="ssl3d-bench-") as temporary:
        root, space = streets or Path(temporary) / "streets", Workspace.open(Path(temporary) / "workspace")
        if streets is None:
            generate_street(root, preset, 0, jobs=max(1, jobs))
        prepare(space, "semantickitti", root, PrepareParams(), jobs=max(1, jobs), progress=progress)
        split(space, SplitParams(ratio=ratio, seed=seed))
        stage = BoundaryStage.of(
            PreparedDataset(space.dataset()), list(settings), backbone=backbone, steps=steps, seed=seed, device=device
        )
        folder = Path(temporary) / "network"
        taken = seconds(lambda: stage.begin(folder, jobs, progress))
        return [*quality(stage, folder, ratio, taken, progress), speed(stage, repeats=5)]


# ---------------------------------------------------------------- quality


def quality(stage: BoundaryStage, folder: Path, ratio: str, taken: float, progress: Progress) -> list[dict[str, Any]]:
    """F1, precision and recall of boundary points on the validation scans, in percent."""
    from ssl3d.pipeline.evaluation.predictor import Predictor
    from ssl3d.pipeline.training.build import load_predictor
    from ssl3d.pipeline.training.run import RunDirectory

    data, radius = stage.dataset, network_params(stage.network).radius
    source, truth, scans = data.source(), data.truth(), [scan.index for scan in data.subset("val")]
    predictor = Predictor(
        load_predictor(RunDirectory(folder / stage.network.run_name), stage.device)[0], stage.device, progress=progress
    )
    limit = tuned_bend(stage, radius)
    ours, theirs, everything = Counts(), Counts(), Counts()
    with progress.task("evaluate", total=len(scans), unit="scan") as task:
        for index, found in predictor.predictions(scans, source.view, scores=True):
            assert found.scores is not None
            points = source.view(index).points
            wanted = boundary_points(points, truth.label(index), radius)
            ours.add(compared(wanted, found.scores[:, 1] > stage.params.threshold))
            theirs.add(compared(wanted, bend(points) > limit))
            everything.add(compared(wanted, np.ones(len(points), np.bool_)))
            task.advance()
    labelled = len(stage.roles.training)
    about = (
        f"{stage.network.backbone}, {stage.network.train.steps} steps in {taken:.0f} s on {labelled} scans ({ratio})"
    )
    rival = f"normals of {NEIGHBORS} neighbors that bend, threshold tuned on visible labels"
    rows = [
        row(
            f"boundary points of val, {name} ({about})", rival, 100 * (a or 0), 100 * (b or 1), "%", more_is_better=True
        )
        for name, a, b in (
            ("F1", ours.f1, theirs.f1),
            ("precision", ours.precision, theirs.precision),
            ("recall", ours.recall, theirs.recall),
        )
    ]
    trivial = 100 * (everything.f1 or 0)
    rows.append(
        row("boundary points of val, F1", "every point", 100 * (ours.f1 or 0), trivial, "%", more_is_better=True)
    )
    return rows


def compared(truth: U8, found: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Hits, false, missed, neither over the points whose truth is known."""
    known = truth != IGNORE
    real, said = truth[known] == 1, found[known]
    return int((real & said).sum()), int((~real & said).sum()), int((real & ~said).sum()), int((~real & ~said).sum())


def tuned_bend(stage: BoundaryStage, radius: float) -> float:
    """The threshold with the best F1 on the visible labels of all labelled scans, held out or not."""
    visible = stage.dataset.visible()
    views = [visible.view(int(index)) for index in visible.labelled]
    bends = [bend(view.points) for view in views]
    truths = [boundary_points(view.points, view.label, radius) for view in views]
    best, limit = -1.0, np.inf
    for candidate in np.quantile(np.concatenate(bends), QUANTILES):
        counts = Counts()
        for truth, values in zip(truths, bends, strict=True):
            counts.add(compared(truth, values > candidate))
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


# ---------------------------------------------------------------- speed


def speed(stage: BoundaryStage, repeats: int) -> dict[str, Any]:
    """The ground truth of a scan, one thread, against all pairs within the radius by a tree."""
    import scipy
    from scipy.spatial import cKDTree

    radius = network_params(stage.network).radius
    data = stage.dataset
    index = max(data.subset("train"), key=lambda scan: scan.num_points).index
    points, label = data.source().view(index).points, data.truth().label(index)

    def by_tree() -> U8:
        known = label != IGNORE
        kept, classes = points[known], label[known]
        pairs = cKDTree(kept).query_pairs(radius, output_type="ndarray")
        found = np.zeros(len(kept), np.uint8)
        found[pairs[classes[pairs[:, 0]] != classes[pairs[:, 1]]]] = 1
        out = np.full(len(points), IGNORE, np.uint8)
        out[known] = found
        return out

    different = int((boundary_points(points, label, radius) != by_tree()).sum())
    ours = min(seconds(lambda: boundary_points(points, label, radius)) for _ in range(repeats))
    theirs = min(seconds(by_tree) for _ in range(repeats))
    name = f"boundaries of the labels of {len(points):,} points, {radius:g} m ({different} points differ)"
    return row(name, f"scipy {scipy.__version__} cKDTree.query_pairs", 1e3 * ours, 1e3 * theirs, "ms")
