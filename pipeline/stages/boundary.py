"""``boundary``: where semantic classes meet, by a network that has seen the labelled scans (WS3D, ECCV 2022).

The network is a run of the ordinary trainer that lies in the product: it is checkpointed, and a killed command goes on
with it. It learns from visible labels only. Then every scan is predicted, unit after unit.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.data.errors import DataError
from ssl3d.pipeline.files import digest_value, write_json
from ssl3d.pipeline.product import Product, unit_digest
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.stage import TrainedStage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stages.boundary_params import BoundaryParams, Choice, choose, usual_steps
from ssl3d.pipeline.stages.boundary_summary import BINS, HELD, TRAINED, summarize_boundary
from ssl3d.pipeline.stages.per_scan import ScanStage, write_lists, write_points

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self

    from ssl3d.models.boundary.method import NetworkParams
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.stages.boundary_network import Predicted
    from ssl3d.pipeline.training.build import TrainingData
    from ssl3d.pipeline.training.config import RunConfig

    U8 = npt.NDArray[np.uint8]
    I32 = npt.NDArray[np.int32]

REGIONS, PAIRS = ("regions", "region_id"), ("adjacency", "region_adj")
"""(kind of file, array) of the product of ``oversegment``."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What a unit knows besides its files.

    Attributes:
        network: name of the run in the product's folder.
        training, held: positions of the unit's labelled scans; ``part``: see ``Roles``.
    """

    network: str
    device: str
    radius: float
    training: frozenset[int]
    held: frozenset[int]
    part: float


class BoundaryStage(ScanStage, TrainedStage):
    """``<unit>.boundary.h5`` holds, per point, ``boundary_prob`` float16 (0 throughout a scan of which the network sees
    no point); ``<unit>.boundary_pairs.h5``, per pair of adjacent regions in the order of ``oversegment``,
    ``boundary_label`` uint8 (w_ij, Eq. 2). Attributes: the parameters, and ``network``, the run in the same folder.
    """

    name = "boundary"
    version = 1
    needs = ("prepare", "split", "oversegment")
    command = "ssl3d boundary"
    summary = "boundary.json"
    extras = ("boundary",)
    kind = "boundary"
    Params = BoundaryParams
    bytes_per_point = 3
    worker_bytes = 4 << 20  # a worker starts in five seconds, which is a handful of scans
    params: BoundaryParams

    def __init__(self, dataset: PreparedDataset, choice: Choice, device: str = "auto") -> None:
        from ssl3d.pipeline.splits import find_split
        from ssl3d.pipeline.stages.boundary_network import check_backbone
        from ssl3d.pipeline.training.build import open_data
        from ssl3d.pipeline.training.device import select_device

        super().__init__(choice.params, dataset)
        self.reads = {"prepare": ("points",), "split": ("visible",), "oversegment": (REGIONS[0], PAIRS[0])}
        self.choice, self.device = choice, select_device(device)
        self.one_process = self.device.type != "cpu"
        check_backbone(choice.network, dataset.spec.num_classes)
        self.split = find_split(dataset.handle)
        self.data, self.network = self._bound(open_data(dataset.handle.workspace, dataset.name, None))
        self.seed = self.network.seed

    @classmethod
    def of(
        cls,
        dataset: PreparedDataset,
        overrides: Sequence[str] = (),
        *,
        backbone: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> Self:
        choice = choose(dataset.spec, overrides, backbone=backbone, steps=steps, seed=seed)
        return cls(dataset, choice, device)

    def _bound(self, data: TrainingData) -> tuple[TrainingData, RunConfig]:
        """What the network learns from, and its configuration, whose hash says all that decides its weights."""
        from ssl3d.pipeline.stages.boundary_data import BoundarySource, choose_roles

        config, params = self.choice.network, network_params(self.choice.network)
        self.roles = roles = choose_roles(data.labelled, params.holdout, config.seed)
        if self.choice.steps is None:
            steps = usual_steps(len(roles.training), config.train.batch)
            config = self.choice.again(self.dataset.spec, steps).network
        done = self.dataset.product.done
        units = sorted({self._scan(data, index).unit for index in data.labelled})
        points = digest_value([unit_digest(done[unit], ("points",)) for unit in units])[:12]
        data = replace(
            data,
            dataset=data.dataset.model_copy(update={"key": f"{data.dataset.key}-{points}"}),
            source=BoundarySource(data.source, params.radius, roles.part),
            labelled=roles.training,
            unlabelled=(),
        )
        return data, config.bound(data.dataset, data.split)

    def _scan(self, data: TrainingData, index: int) -> ScanRef:
        """The scan with this index, or the one that the part with this index was cut from."""
        scans = self.dataset.scans
        return scans[index] if index < len(scans) else self.dataset.by_id[self.split.scan_of(data.scan_ids[index])]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        return {**TrainedStage.identity(self, upstream), "network": self.network.hash}

    def about(self) -> Mapping[str, Any]:
        named = self.dataset.name != self.dataset.spec.name
        return {"command": self.choice.command + (f" --dataset {shlex.quote(self.dataset.name)}" if named else "")}

    def work(self, unit: str) -> _Work:
        training, held = (
            frozenset(scan.position for scan in (self._scan(self.data, index) for index in rows) if scan.unit == unit)
            for rows in (self.roles.training, self.roles.held)
        )
        radius = network_params(self.network).radius
        return _Work(self.network.run_name, str(self.device), radius, training, held, self.roles.part)

    def begin(self, folder: Path, jobs: int, progress: Progress) -> None:
        from ssl3d.pipeline.stages.boundary_network import make_network

        path, command = folder / self.network.run_name, self.about()["command"]
        make_network(path, self.network, self.data, self.device, jobs, progress, command)

    @staticmethod
    def run(unit: Unit, params: BoundaryParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        import numpy as np

        from ssl3d.pipeline.stages.boundary_network import predict_unit

        work: _Work = unit.work
        regions, pairs = inputs.shard("oversegment", REGIONS[0]), inputs.shard("oversegment", PAIRS[0])
        visible = _visible_labels(inputs, work.training | work.held)
        probabilities, labels, facts, unseen = [], [], [], 0
        for position, found in enumerate(predict_unit(inputs, inputs.product / work.network, work.device)):
            boundary = found.probability.astype(np.float32) > params.threshold  # not the threshold in half precision
            region, adjacent = regions.read(REGIONS[1], position), pairs.read(PAIRS[1], position)
            label = _pair_labels(params, found, boundary, region, adjacent)
            probabilities.append({"boundary_prob": found.probability})
            labels.append({"boundary_label": label})
            unseen += not found.seen
            fact = {"points": len(boundary), "boundary": boundary.sum(), "pairs": len(label), "across": label.sum()}
            compared = _compared(work, position, found, boundary, visible[position]) if position in visible else {}
            facts.append({**{name: int(value) for name, value in fact.items()}, **compared})
        attrs = {**params.model_dump(), "radius": work.radius, "network": work.network}
        write_points(out / f"{unit.id}.boundary.h5", inputs.shard("prepare", "points"), probabilities, attrs)
        write_lists(out / f"{unit.id}.boundary_pairs.h5", labels, attrs)
        return {"scans": facts, "unseen": unseen}

    def finish(self, product: Product) -> None:
        subsets = {scan.unit: scan.subset for scan in self.dataset.scans}
        value = summarize_boundary(product, subsets).to_json()
        about = {"network": self.network.run_name, "steps": self.network.train.steps}
        write_json(product.folder / "boundary.json", {**about, **value})


def network_params(config: RunConfig) -> NetworkParams:
    from ssl3d.models.boundary.method import NetworkParams

    assert isinstance(config.method_params, NetworkParams)
    return config.method_params


def _visible_labels(inputs: UnitInputs, wanted: frozenset[int]) -> dict[int, U8]:
    """Position -> visible labels of the scans of a unit that the network was trained or is measured on."""
    if not wanted:
        return {}
    reader = inputs.shard("split", "visible")
    positions = reader.array("scan_index").tolist()
    return {position: reader.read("label", row) for row, position in enumerate(positions) if position in wanted}


def _pair_labels(
    params: BoundaryParams, found: Predicted, boundary: npt.NDArray[np.bool_], region: I32, pairs: I32
) -> U8:
    from ssl3d.data.geometry.boundary import interface_labels, pair_labels

    if len(region) != len(boundary):
        raise DataError(
            f"the scan has {len(boundary)} points, and {len(region)} are in regions",
            where={"scan": found.view.scan["scan_id"]},
            hint="run your `ssl3d oversegment` command again",
        )
    if params.rule == "region":
        return pair_labels(boundary, region, pairs, params.min_points)
    points = found.view.points
    return interface_labels(points, boundary, region, pairs, params.interface_radius, params.min_points)


def _compared(
    work: _Work, position: int, found: Predicted, boundary: npt.NDArray[np.bool_], label: U8
) -> dict[str, list[Any]]:
    """Hits, false, missed and neither, of the points that were trained on and of those that were held out; and how many
    points of both kinds have which probability."""
    import numpy as np

    from ssl3d.data.geometry.boundary import boundary_points
    from ssl3d.data.scan import IGNORE
    from ssl3d.pipeline.stages.boundary_data import held_part

    truth = boundary_points(found.view.points, label, work.radius)
    held = np.ones(len(truth), np.bool_)
    if position in work.training:
        held = held_part(found.view.points, label, work.part)
    out: dict[str, list[Any]] = {}
    for name, part in ((HELD, held), (TRAINED, ~held)):
        known = part & (truth != IGNORE)
        if known.any():
            cells = 2 * (truth[known] != 1) + (~boundary[known])  # 0 hit, 1 missed, 2 false, 3 neither
            hit, missed, false, neither = np.bincount(cells, minlength=4).tolist()
            out[name] = [hit, false, missed, neither]
    # half precision, in steps of bins: a probability of just an edge is not above it
    bins = (np.ceil(found.probability.astype(np.float32) * BINS).astype(np.int64) - 1).clip(0, BINS - 1)
    out["curve"] = [np.bincount(bins[truth == kind], minlength=BINS).tolist() for kind in (1, 0)]
    return out
