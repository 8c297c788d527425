"""From a trained network to what it says about every original point: classes, scores, features, instances."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, NoElementsError, Output, Segmenter
from ssl3d.models.prediction import Instances, Prediction, Votes
from ssl3d.pipeline.evaluation.passes import Passes
from ssl3d.pipeline.progress import Progress, Silent

T = TypeVar("T")
K = TypeVar("K")
SAID_AT_MOST = 3
"""So many scans of which nothing is seen are named."""


@dataclass(slots=True)
class _Pass:
    """One forward pass of one scan (``inputs`` None: the scan has nothing to look at)."""

    view: View
    inputs: Inputs | None
    last: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for beside the labels."""

    scores: bool = False
    features: bool = False
    instances: bool = False


class Predictor:
    """Predicts whole scans with a segmenter.

    Every original row gets a class: points that no pass covers (cropped, clipped) take what is predicted for the
    nearest predicted point, points whose coordinates are not finite what the nearest row of the file has. A scan of
    which no pass sees a point (all of it cropped or not finite) is predicted as ignored, and named to ``progress``:
    one such scan in a benchmark is no reason to hand in nothing.

    Args:
        segmenter: moved to ``device`` and put in eval mode.
        passes: augmented copies that vote too, and the blocks of scans larger than memory.
        prefetch: reads and prepares the next pass in a thread while the network computes the present one. At most
            three passes are in memory then.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        device: torch.device | str,
        *,
        passes: Passes | None = None,
        prefetch: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.segmenter = segmenter.to(device).eval()
        self.device = torch.device(device)
        self.passes = passes or Passes()
        self.prefetch = prefetch
        self.progress = progress or Silent()
        self.unseen = 0

    def label(self, view: View) -> npt.NDArray[np.uint8]:
        """(n,) uint8 classes for the n points of a whole scan; all ``IGNORE`` when the network sees none of them."""
        return next(self.labels([view], lambda whole: whole))[1]

    def labels(self, keys: Iterable[K], load: Callable[[K], View]) -> Iterator[tuple[K, npt.NDArray[np.uint8]]]:
        """Labels scan after scan.

        Args:
            keys: what to give back beside the labels, one per scan.
            load: key -> the view of the whole scan, rows 0..n-1 in order.

        Yields:
            (key, (n,) uint8 classes), in order.
        """
        return ((key, prediction.label) for key, prediction in self._predict(keys, load, _Wanted()))

    def predictions(
        self, keys: Iterable[K], load: Callable[[K], View], *, scores: bool = False, features: bool = False
    ) -> Iterator[tuple[K, Prediction]]:
        """Predicts scan after scan: labels, the instances of segmenters that predict any, and what is asked for.

        Args:
            keys, load: see ``labels``.
            scores: also the class probabilities (what the votes of the passes make of them).
            features: also the features of the finest level, the mean over the passes.

        Yields:
            (key, prediction), in order.

        Raises:
            Ssl3dError: scores that are not numbers, or instances of a scan that is cut into several passes.
        """
        return self._predict(keys, load, _Wanted(scores, features, instances=True))

    def _predict(self, keys: Iterable[K], load: Callable[[K], View], wanted: _Wanted) -> Iterator[tuple[K, Prediction]]:
        passes = self._passes(keys, load)
        if self.prefetch:
            passes = prefetched(passes, depth=1)
        found: _Scan | None = None
        for key, one in passes:
            found = found or _Scan(one.view, self.segmenter, self.device, wanted)
            if one.inputs is not None:
                with torch.inference_mode():
                    inputs = one.inputs.to(self.device, non_blocking=True)
                    found.add(inputs, self.segmenter(inputs))
            if one.last:
                prediction = found.prediction()
                if len(prediction) and (prediction.label == IGNORE).all():
                    self._say_unseen(one.view)
                yield key, prediction
                found = None

    def _passes(self, keys: Iterable[K], load: Callable[[K], View]) -> Iterator[tuple[K, _Pass]]:
        for key in keys:
            view = self.segmenter.backbone.input_spec.derive(load(key))
            finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(view.points).all(axis=1))
            visible = view if finite.all() else view.select(finite)
            before: _Pass | None = None
            for chunk in self._chunks(visible) if len(visible) else ():
                if before is not None:
                    yield key, before
                before = _Pass(view, self._prepare(chunk), last=False)
            before = before or _Pass(view, None, last=True)
            before.last = True
            yield key, before

    def _chunks(self, view: View) -> Iterator[View]:
        """All that the network is to look at, one after the other."""
        for block in self.passes.blocks(view):
            for chunk in self.segmenter.backbone.chunks(block):
                yield from self.passes.variants(chunk)

    def _prepare(self, chunk: View) -> Inputs | None:
        try:
            return self.segmenter.backbone.prepare([chunk])
        except NoElementsError:
            return None

    def _say_unseen(self, view: View) -> None:
        self.unseen += 1
        if self.unseen <= SAID_AT_MOST:
            more = "; further ones are not named" if self.unseen == SAID_AT_MOST else ""
            self.progress.say(
                f"{_name(view)}: the network sees none of the {len(view)} points (cropped, or not finite): "
                f"predicted as ignored{more}"
            )


class _Scan:
    """Puts the passes over one scan together."""

    def __init__(self, view: View, segmenter: Segmenter, device: torch.device, wanted: _Wanted) -> None:
        self.view = view
        self.segmenter = segmenter
        self.wanted = wanted
        backbone = segmenter.backbone
        self.votes = backbone.votes(len(view), segmenter.num_classes, device)
        self.features = Votes(len(view), backbone.out_channels, device) if wanted.features else None
        self.instances: Instances | None = None
        self.passes = 0

    def add(self, inputs: Inputs, output: Output) -> None:
        """Takes the output of one pass in."""
        self.passes += 1
        probabilities = output.logits.float().softmax(dim=1)
        if not bool(torch.isfinite(probabilities).all()):
            raise Ssl3dError(
                "the network returns scores that are not numbers",
                where={"scan": _name(self.view)},
                hint="its weights are damaged or its training diverged: train again with a smaller learning rate",
            )
        element = inputs.elements.point_to_element
        covered = element >= 0
        rows, element = inputs.rows[:, 1][covered], element[covered]
        self.votes.add(rows, probabilities[element])
        if self.features is not None:
            self.features.add(rows, output.levels.finest.float()[element])
        if self.wanted.instances:
            self._add_instances(inputs, output)

    def _add_instances(self, inputs: Inputs, output: Output) -> None:
        found = self.segmenter.instances(inputs, output)
        if self.passes > 1 and (found is not None or self.instances is not None):
            raise Ssl3dError(
                "the network predicts instances, and the scan is cut into several passes: instances of different "
                "passes cannot be put together",
                where={"scan": _name(self.view)},
                hint="leave out --tta, and predict instances with a backbone that looks at a whole scan in one pass",
            )
        self.instances = None if found is None else found.moved(inputs.rows[:, 1].cpu().numpy())

    def prediction(self) -> Prediction:
        seen = self.votes.seen.cpu().numpy()
        label = self.votes.labels().cpu().numpy()
        scores = self.votes.scores().cpu().numpy() if self.wanted.scores else None
        features = self.features.scores().cpu().numpy() if self.features is not None else None
        if not seen.any():
            label = np.full(len(seen), IGNORE, np.uint8)
        elif not seen.all():
            source = nearest_seen(seen, self.view.points)
            label = label[source]
            scores = None if scores is None else scores[source]
            features = None if features is None else features[source]
        return Prediction(label, scores, features, self.instances)


def nearest_seen(seen: npt.NDArray[np.bool_], points: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """(n,) int64: the seen point that each point takes its prediction from; itself where it is seen.

    The nearest in space, or for a point whose coordinates are not finite, that of the nearest row of the file.

    Args:
        seen: (n,) bool, at least one; all of them have finite coordinates.
        points: (n, 3) float32.
    """
    from pykdtree.kdtree import KDTree

    source = np.arange(len(seen))
    finite = np.isfinite(points).all(axis=1)
    wanted = finite & ~seen
    if wanted.any():
        nearest = KDTree(np.ascontiguousarray(points[seen])).query(np.ascontiguousarray(points[wanted]), k=1)[1]
        source[wanted] = np.flatnonzero(seen)[nearest]
    if not finite.all():  # no place in space: neighbors in the file were measured next to each other
        known, unknown = np.flatnonzero(finite), np.flatnonzero(~finite)
        place = np.searchsorted(known, unknown)
        before, after = known[(place - 1).clip(min=0)], known[place.clip(max=len(known) - 1)]
        source[unknown] = source[np.where(abs(unknown - before) <= abs(after - unknown), before, after)]
    return source


def _name(view: View) -> str:
    return str(view.scan.get("scan_id", "?"))


def prefetched(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Iterates in a thread, at most ``depth`` finished items ahead; errors of the thread are raised here."""
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item,)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="ssl3d-prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stopped.set()
        thread.join()
