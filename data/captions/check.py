"""Whether captions are sound and belong to a dataset, before anything is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from ssl3d.data.captions.foreign import Size
from ssl3d.data.captions.records import AnyRecord, EntityCaption
from ssl3d.data.captions.source import CaptionSource
from ssl3d.data.datasets.source import Problem
from ssl3d.data.text import nearest

_SHOWN = 20
"""Errors of one kind that are told one by one; the others are counted."""


@dataclass
class CaptionReport:
    """What was found.

    Attributes:
        captions, entities: records that are sound and of images of the dataset.
        images: of the dataset, with any record; ``captioned``, ``with_entities``: with one of the kind.
        expected: images that should have captions; ``covered``: those of them with any record.
        phrases: different phrases; ``texts``: different texts, phrases included.
        boxes: entities without a mask.
    """

    problems: list[Problem] = field(default_factory=list)
    captions: int = 0
    entities: int = 0
    images: int = 0
    captioned: int = 0
    with_entities: int = 0
    expected: int = 0
    covered: int = 0
    phrases: int = 0
    texts: int = 0
    boxes: int = 0

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def membership(self) -> str:
        """How pixels belong to entities: ``mask``, ``box`` or ``mask and box``."""
        if not self.boxes:
            return "mask"
        return "box" if self.boxes == self.entities else "mask and box"


class _Check:
    def __init__(self, sizes: Mapping[str, Size]) -> None:
        self.sizes = sizes
        self.report = CaptionReport()
        self.told: Counter[str] = Counter()
        self.seen: dict[tuple[str, str], set[int]] = {}
        self.unknown: Counter[str] = Counter()
        self.last: dict[str, tuple[str, int]] = {}
        self.texts: set[str] = set()
        self.phrases: set[str] = set()
        self.unsorted: Mapping[str, object] | None = None

    def tell(self, kind: str, problem: Problem) -> None:
        self.told[kind] += 1
        if self.told[kind] <= _SHOWN:
            self.report.problems.append(problem)

    def add(self, where: Mapping[str, object], record: AnyRecord) -> None:
        place, name = {**where, "image": record.image_id}, record.image_id
        order = (name, record.index)
        if order < self.last.get(record.KIND, ("", -1)) and self.unsorted is None:
            self.unsorted = place
        self.last[record.KIND] = order
        taken = self.seen.setdefault((record.KIND, name), set())
        if record.index in taken:
            hint = "number the records of an image from 0"
            self.tell("twice", Problem("error", f"the image has two records with index {record.index}", place, hint))
        taken.add(record.index)
        if name not in self.sizes:
            self.unknown[name] += 1
            return
        size = self.sizes[name]
        if size != (record.width, record.height):
            what = f"the record speaks of {record.width} x {record.height} pixels, the image has {size[0]} x {size[1]}"
            hint = "coordinates refer to the image as it is in the dataset: scale boxes and masks"
            self.tell("size", Problem("error", what, place, hint))
        if isinstance(record, EntityCaption):
            self.report.entities += 1
            self.report.boxes += record.mask is None
            self.phrases.add(record.phrase)
        else:
            self.report.captions += 1
            self.texts.add(record.text)


def check_captions(
    source: CaptionSource,
    expected: Collection[str],
    dataset: str,
    on_record: Callable[[], None] = lambda: None,
) -> CaptionReport:
    """Reads every record: schema, sizes, runs of masks, duplicates, order, images, coverage.

    Args:
        source: with the sizes of all images of the dataset.
        expected: ids of the images that should have captions.
        dataset: name of the dataset's specification, which a manifest beside the captions may contradict.
    """
    check, sizes = _Check(source.sizes), source.sizes
    stated = source.manifest().get("dataset")
    if stated is not None and stated != dataset:
        what = f"these are captions of '{stated}', the dataset is '{dataset}'"
        check.tell("dataset", Problem("error", what, {"file": source.path}, "name the captions of this dataset"))
    for found in source.records():
        on_record()
        if found.record is not None:
            check.add(found.where, found.record)
        elif found.error is not None:
            check.tell("line", Problem("error", found.error.what, found.error.where, found.error.hint))
    check.unknown.update(source.unknown())
    report = check.report
    known = {kind: {name for k, name in check.seen if k == kind and name in sizes} for kind in ("image", "entity")}
    either = known["image"] | known["entity"]
    report.captioned, report.with_entities, report.images = *map(len, known.values()), len(either)
    report.expected, report.covered = len(expected), len(either.intersection(expected))
    report.phrases, report.texts = len(check.phrases), len(check.texts | check.phrases)
    report.problems += [*_about_unknown(check, source, either), *_closing(check, source)]
    return report


def _about_unknown(check: _Check, source: CaptionSource, known: Collection[str]) -> Iterator[Problem]:
    if not check.unknown:
        return
    first = min(check.unknown)
    where = {"file": source.path, "first": first}
    if known:
        images, records = len(check.unknown), check.unknown.total()
        what = f"{images:,} images are not in the dataset; their {records:,} records are left out"
        yield Problem("warning", what, where)
        return
    like = nearest(first, list(source.sizes)[:5000], cutoff=0.0) or "none: the dataset has no images"
    what = f"none of the {len(check.unknown):,} images is in the dataset: these are captions of another one"
    yield Problem("error", what, {**where, "in the dataset": like}, "image ids are written as shown")


def _closing(check: _Check, source: CaptionSource) -> Iterator[Problem]:
    for kind, count in check.told.items():
        if count > _SHOWN:
            what = f"{count - _SHOWN:,} more errors of this kind: {kind}"
            yield Problem("error", what, {"file": source.path})
    if check.unsorted is not None:
        yield Problem(
            "warning", "records are not sorted by image and index; they are sorted when taken", check.unsorted
        )
    if not check.seen and not check.unknown and not check.told:
        yield Problem("error", "there is no record at all", {"file": source.path})
