"""From a trained network to one class per original point."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, NoElementsError, Segmenter
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


class Predictor:
    """Labels whole scans with a segmenter.

    Every original row gets a class: points that no pass covers (cropped, clipped) take the label of the nearest
    predicted point, points whose coordinates are not finite that of the nearest predicted row of the file. A scan of
    which no pass sees a point (all of it cropped or not finite) is predicted as ignored, and named to ``progress``: one
    such scan in a benchmark is no reason to hand in nothing.

    Args:
        segmenter: moved to ``device`` and put in eval mode.
        prefetch: reads and prepares the next pass in a thread while the network computes the present one. At most
            three passes are in memory then.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        device: torch.device | str,
        *,
        prefetch: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.segmenter = segmenter.to(device).eval()
        self.device = torch.device(device)
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
        passes = self._passes(keys, load)
        if self.prefetch:
            passes = prefetched(passes, depth=1)
        votes: _Votes | None = None
        for key, one in passes:
            votes = votes or _Votes(one.view, self.segmenter.num_classes, self.device)
            if one.inputs is not None:
                inputs = one.inputs.to(self.device, non_blocking=True)
                votes.add(inputs, self._probabilities(inputs, one.view))
            if one.last:
                label = votes.label()
                if len(label) and (label == IGNORE).all():
                    self._say_unseen(one.view)
                yield key, label
                votes = None

    def _passes(self, keys: Iterable[K], load: Callable[[K], View]) -> Iterator[tuple[K, _Pass]]:
        for key in keys:
            view = load(key)
            finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(view.points).all(axis=1))
            visible = view if finite.all() else view.select(finite)
            before: _Pass | None = None
            for chunk in self.segmenter.backbone.chunks(visible) if len(visible) else ():
                if before is not None:
                    yield key, before
                before = _Pass(view, self._prepare(chunk), last=False)
            before = before or _Pass(view, None, last=True)
            before.last = True
            yield key, before

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

    def _probabilities(self, inputs: Inputs, view: View) -> Tensor:
        with torch.inference_mode():
            probabilities = self.segmenter(inputs).logits.float().softmax(dim=1)
            if not bool(torch.isfinite(probabilities).all()):
                raise Ssl3dError(
                    "the network returns scores that are not numbers",
                    where={"scan": _name(view)},
                    hint="its weights are damaged or its training diverged: train again with a smaller learning rate",
                )
            return probabilities


class _Votes:
    """Sums the class probabilities of the passes of one scan; their mean has the same argmax for every point."""

    def __init__(self, view: View, num_classes: int, device: torch.device) -> None:
        self.view = view
        self.total = torch.zeros(len(view), num_classes, device=device)
        self.seen = torch.zeros(len(view), dtype=torch.bool, device=device)

    def add(self, inputs: Inputs, probabilities: Tensor) -> None:
        """``probabilities``: (M, C) per element of ``inputs``."""
        element = inputs.elements.point_to_element
        covered = element >= 0
        rows = inputs.rows[:, 1][covered]
        self.total.index_add_(0, rows, probabilities[element[covered]])
        self.seen[rows] = True

    def label(self) -> npt.NDArray[np.uint8]:
        label = self.total.argmax(dim=1).to(torch.uint8).cpu().numpy()
        seen = self.seen.cpu().numpy()
        if seen.all():
            return label
        if not seen.any():
            return np.full(len(seen), IGNORE, np.uint8)
        return fill_unseen(label, seen, self.view.points)


def fill_unseen(
    label: npt.NDArray[np.uint8], seen: npt.NDArray[np.bool_], points: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Gives the points that are not ``seen`` the label of the nearest seen point (lists of n; at least one seen)."""
    from pykdtree.kdtree import KDTree

    label = label.copy()
    finite = np.isfinite(points).all(axis=1)
    wanted = finite & ~seen
    if wanted.any():
        nearest = KDTree(np.ascontiguousarray(points[seen])).query(np.ascontiguousarray(points[wanted]), k=1)[1]
        label[wanted] = label[seen][nearest]
    if not finite.all():  # no place in space: neighbors in the file were measured next to each other
        known, unknown = np.flatnonzero(finite), np.flatnonzero(~finite)
        place = np.searchsorted(known, unknown)
        before, after = known[(place - 1).clip(min=0)], known[place.clip(max=len(known) - 1)]
        label[unknown] = label[np.where(abs(unknown - before) <= abs(after - unknown), before, after)]
    return label


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
