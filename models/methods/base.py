"""The contract of a method: one file, one class. ``supervised.py`` is the smallest example.

The trainer does the same for every method, in this order:

1. in loader workers, for step s and each item of its batch: ``Method.views`` builds named groups of views from raw
   scans; the backbone's ``InputSpec`` then turns each group into ``Inputs``. Both are pure functions of (run seed, s,
   item), which makes resume exact, and lets several processes share a batch;
2. ``step(batch, progress)`` yields dictionaries of losses; each yield is one backward and one optimizer step;
3. ``after_step`` once per iteration: teachers follow their students here.

A run is a list of ``phases``, each with an optimizer of its own. ``Phase.on_enter`` may stream predictions over the
training set to disk; they come back as ``View.extras``.

A method never sees a file, and never a label that is not visible. Where several processes train, each sees its share
of the batch, and the losses of all sum to the loss of the whole batch: divide by totals (``models.distributed``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ssl3d.data.augment import Augmentation
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import View
from ssl3d.data.spec import DatasetSpec
from ssl3d.models.backbones.base import Inputs, Segmenter
from ssl3d.models.config import Params as AnyParams
from ssl3d.models.ema import BufferPolicy, ema_update
from ssl3d.models.monitors import LiveConfusion, Measures, PseudoLabels
from ssl3d.models.prediction import Prediction

MakeSegmenter = Callable[[], Segmenter]
Batch = dict[str, Inputs]
Group = Literal["labelled", "unlabelled"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is: ``step`` of ``steps`` in this phase (0-based), ``phase`` index, and over all phases."""

    step: int
    steps: int
    phase: int = 0
    total_step: int = 0
    total_steps: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What is kept of the prediction of one scan.

    Attributes:
        points: name -> (n, ...) arrays over the scan's points; later batches have them in ``View.extras``.
        facts: name -> small arrays of any shape (statistics, candidate features); read back once, by ``on_enter``.
    """

    points: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


Writer = Callable[[View, Prediction], Stored]


class TrainContext(Protocol):
    """What ``Phase.on_enter`` may use.

    Attributes:
        partial: the split hides points of labelled scans on purpose: their points without a visible label are
            unlabelled. Else such a point belongs to no class.
    """

    progress: Progress
    partial: bool

    def predict_train(
        self,
        writer: Writer,
        *,
        segmenter: Segmenter | None = None,
        group: Group | None = None,
        scores: bool = False,
        features: bool = False,
    ) -> Iterable[tuple[View, Stored]]:
        """Predicts the scans of the training set, without augmentation, and keeps on disk what ``writer`` returns.

        Scans whose prediction is on disk already (a killed run goes on) are not predicted again, so ``writer`` must be
        a pure function: gather statistics from what this returns. From now on ``View.extras`` holds ``Stored.points``
        of the last call that kept any; a method that mixes groups of scans in one batch asks for both.

        Args:
            writer: called with the scan (visible labels only) and its prediction.
            segmenter: the network that predicts; None: ``Method.predictor()``.
            group: only the labelled, or only the unlabelled scans; None: both.
            scores, features: whether the prediction has class probabilities (n, C), finest features (n, D).

        Returns:
            (scan, what was kept), in order of the dataset, read from disk while it is iterated (any number of times).
        """
        ...


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with its own, fresh optimizer and its own learning-rate schedule.

    Attributes:
        name: shown in logs.
        steps: iterations; 0 is allowed: ``on_enter`` is called, and nothing is trained.
        trainable: modules whose parameters are optimized (None: all that require a gradient). The others get no
            gradient, no weight decay and no momentum.
        eval_modules: modules held in eval mode: their batch norm uses its running statistics and leaves them alone.
        lr_scale: factor on the configured learning rate.
        optimizer, schedule: keys of the run's ``optimizer`` and ``schedule`` that differ in this phase, e.g.
            ``{"name": "sgd", "lr": 0.01}``.
        on_enter: called once before the first step. Whatever it changes must be module state (parameters, buffers).
        restarts: the student begins anew (``on_enter`` has drawn its weights): ``train.ema`` forgets the earlier ones.
    """

    name: str
    steps: int
    trainable: Sequence[nn.Module] | None = None
    eval_modules: Sequence[nn.Module] = ()
    lr_scale: float = 1.0
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    on_enter: Callable[[TrainContext], None] | None = None
    restarts: bool = False


class Method(nn.Module):
    """A way to learn from labelled and unlabelled scans.

    Class attributes:
        name: as typed after ``ssl3d train``.
        Params: its typed parameters.
        uses_unlabelled: whether batches carry unlabelled scans. A split that labels some points of every scan has none:
            the group is absent then, and the points without a label take its place.
        needs: names of the stages whose products it reads from ``View.extras``.
        elements: kinds of ``Backbone.elements`` that it works on; none = any kind.
        needs_sensor: it makes sense only for scans of a spinning sensor that stands at their origin.
        class_measures, mean_measures: names of what it counts in ``measures``: shares by class, and plain means.
        ema_buffers: what becomes of the buffers of averaged networks (``ema_pairs``).

    All state that a later step depends on lives in parameters, buffers or ``get_extra_state``: it is in the checkpoint.
    """

    name: ClassVar[str]
    Params: ClassVar[type[AnyParams]]
    uses_unlabelled: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    elements: ClassVar[tuple[str, ...]] = ()
    needs_sensor: ClassVar[bool] = False
    class_measures: ClassVar[tuple[str, ...]] = ()
    mean_measures: ClassVar[tuple[str, ...]] = ()
    ema_buffers: BufferPolicy = "ema"

    def __init__(self, params: AnyParams, make_segmenter: MakeSegmenter, num_classes: int) -> None:
        super().__init__()
        self.params = params
        self.num_classes = num_classes
        self.live = LiveConfusion(num_classes)
        self.pseudo = PseudoLabels(num_classes)
        self.measures = Measures(num_classes, self.class_measures, self.mean_measures)

    @classmethod
    def check(cls, params: AnyParams, spec: DatasetSpec) -> None:
        """Raises ``UsageError`` when the method makes no sense on a dataset; called before anything is trained."""
        if cls.needs_sensor and spec.sensor is None:
            raise UsageError(
                f"{cls.name} needs scans of a spinning sensor, and {spec.title} has none",
                hint="`ssl3d train --list` says which methods suit any dataset",
            )

    @classmethod
    def item_scans(cls, params: AnyParams, unlabelled: bool) -> int:
        """The fewest scans of one kind that ``views`` wants together: unlabelled ones, or (``unlabelled`` is False:
        there are none) labelled ones. For a method that mixes scans of one kind.

        An item has fewer where the whole batch has, or where a scan has no point.
        """
        return 1

    @classmethod
    def views(
        cls,
        params: AnyParams,
        labelled: Sequence[View],
        unlabelled: Sequence[View],
        augment: Augmentation,
        rng: np.random.Generator,
        phase: int = 0,
    ) -> dict[str, list[View]]:
        """Groups of views of one item of a batch; groups of the same name are put together over the items.

        The default: ``labelled`` and (if any) ``unlabelled``, each augmented once. ``phase`` is the index of the phase
        that the step belongs to. The views of one group have to have the same ``extras``.
        """
        groups = {"labelled": [augment(view, rng) for view in labelled]}
        if unlabelled:
            groups["unlabelled"] = [augment(view, rng) for view in unlabelled]
        return groups

    def phases(self, steps: int) -> list[Phase]:
        """How the ``steps`` of a run are spent. The sum of their steps is at most ``steps`` (equal budgets)."""
        return [Phase("train", steps)]

    def step(self, batch: Batch, progress: Progress) -> Iterator[dict[str, Tensor]]:
        """Yields named losses; their sum is minimized. Each yield is one backward and one optimizer step.

        A batch of which no label is visible is a step like any other: its supervised loss is an exact zero with zero
        gradients, so that only momentum and weight decay move weights, and batch norm gathers its statistics.
        """
        raise NotImplementedError(f"{type(self).__name__} has to implement step()")

    def after_step(self, progress: Progress) -> None:
        """Called once per iteration, after the last optimizer step. The default: averages follow their sources."""
        pairs = self.ema_pairs()
        if pairs:
            keep = self.ema_keep(progress)
            for average, source in pairs:
                ema_update(average, source, keep, self.ema_buffers)

    def ema_pairs(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """(average, source) modules: a teacher, or parts of one, and what it follows."""
        return ()

    def ema_keep(self, progress: Progress) -> float:
        """The keep rate of ``ema_pairs`` after this iteration."""
        raise NotImplementedError(f"{type(self).__name__} averages networks: it has to implement ema_keep()")

    def predictor(self) -> Segmenter:
        """The network that is evaluated."""
        raise NotImplementedError(f"{type(self).__name__} has to implement predictor()")

    def student(self) -> Segmenter:
        """The network that learns: ``train.ema`` averages it, so that all methods can be evaluated with the same EMA.

        The default: ``predictor()``. A method whose predictor is an average itself returns what that follows.
        """
        return self.predictor()


__all__ = [
    "Batch",
    "Group",
    "MakeSegmenter",
    "Method",
    "Phase",
    "Progress",
    "Stored",
    "TrainContext",
    "Writer",
]
