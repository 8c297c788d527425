"""``caption``: what the images of a dataset are said to show, as files that later stages and training read.

``<unit>.image.jsonl`` and ``<unit>.entity.jsonl`` hold the records of ``ssl3d.data.captions`` for the images of each
prepared unit, sorted; ``CaptionFiles.of(folder, unit)`` reads them. ``manifest.toml`` says how they were made.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.captioning.images import CAMERAS, ImageRef, dataset_images, images_of
from ssl3d.pipeline.captioning.summary import manifest_text
from ssl3d.pipeline.files import remove_tree
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.progress import step_inside
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stages.caption_params import CaptionParams
from ssl3d.pipeline.stages.per_scan import stage_params

if TYPE_CHECKING:
    from ssl3d.data.captions.source import CaptionSource
    from ssl3d.pipeline.dataset import PreparedDataset

PARTIAL = "partial"
"""Folder of the product where units that are under way remember their finished images."""
_BYTES_PER_IMAGE = 20_000


@dataclass(frozen=True, slots=True)
class _Work:
    """What a unit needs: the folder of the images; imported captions, or the classes that are looked for."""

    root: str
    source: CaptionSource | None
    classes: tuple[str, ...]
    signature: str


class CaptionStage(Stage):
    """One unit: the images of a prepared unit; of a unit under way, finished images survive a kill.

    Args:
        source: of the producers ``import`` and ``generated``.
    """

    name = "caption"
    version = 1
    needs = ("prepare",)
    counts = "image"
    command = "ssl3d caption"
    summary = "manifest.toml"
    worker_bytes = 1 << 60  # one process: a model is loaded once, a source is read once
    Params = CaptionParams
    params: CaptionParams

    def __init__(self, params: CaptionParams, dataset: PreparedDataset, source: CaptionSource | None = None) -> None:
        super().__init__(params)
        self.dataset, self.source = dataset, source
        self.digest = source.digest() if source is not None else ""
        self.reads = {"prepare": (CAMERAS,)}
        self.root = str(dataset.product.manifest.identity["root"])

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        done = self.dataset.product.done
        images = dataset_images(self.dataset, captioned_units(self.dataset, self.params.images))
        classes = () if self.params.producer != "transformers" else self.dataset.spec.classes
        return [
            Unit(
                id=unit,
                work=_Work(self.root, self.source, classes, str(done[unit].info["digest"])),
                size=len(listed) * _BYTES_PER_IMAGE,
                weight=len(listed),
            )
            for unit, listed in images.items()
        ]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        if self.source is not None:
            return {"source": self.digest}
        from ssl3d.pipeline.captioning.load import fingerprint

        params = self.params
        models = {name: getattr(params, name) for name in ("captioner", "detector", "segmenter")}
        return {"models": {role: fingerprint(name) for role, name in models.items()}}

    def about(self) -> Mapping[str, Any]:
        words = ["--producer", self.params.producer] if self.params.producer == "transformers" else []
        words += ["--from", str(self.source.path)] if self.source and self.params.producer == "import" else []
        usual = stage_params(self.name, CaptionParams, self.dataset.spec).model_dump(mode="json")
        for key, value in self.params.model_dump(mode="json").items():
            if key != "producer" and value != usual[key]:
                shown = ",".join(map(str, value)) if isinstance(value, list) else value
                words += ["--set", f"{key}={shown}"]
        words += ["--dataset", self.dataset.name] if self.dataset.name != self.dataset.spec.name else []
        return {"command": shlex.join(["ssl3d", "caption", *words]), "dataset": self.dataset.spec.name}

    @staticmethod
    def run(unit: Unit, params: CaptionParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        images = images_of(inputs.shard("prepare", CAMERAS))
        if unit.work.source is not None:
            said = _taken(images, unit.work.source)
        else:
            said = _asked(unit, images, params, inputs.threads, out.parent / PARTIAL)
        tally = _Tally()
        for kind, place in (("image", 0), ("entity", 1)):
            with (out / f"{unit.id}.{kind}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                for image in images:
                    file.writelines(said[image.image_id][place])
        for image in images:
            tally.add(*said[image.image_id])
        return tally.info()

    def finish(self, product: Product) -> None:
        from ssl3d.data.atomic import write_whole

        remove_tree(product.folder / PARTIAL)
        write_whole(product.folder / "manifest.toml", manifest_text(product).encode(), durable=True)

    def finished(self, product: Product) -> bool:
        return (product.folder / "manifest.toml").is_file() and not (product.folder / PARTIAL).exists()


def captioned_units(dataset: PreparedDataset, which: str) -> list[str]:
    """The units with images whose scans get captions. UsageError when there are none."""
    done = dataset.product.done
    with_images = [unit for unit, entry in sorted(done.items()) if f"{unit}.{CAMERAS}.h5" in entry.files]
    found = [unit for unit in with_images if which == "all" or done[unit].info["subset"] == "train"]
    if not found:
        what = "no scan of the train subset has images" if with_images else "the dataset has no images"
        raise UsageError(
            f"{what}, so there is nothing to caption",
            where={"dataset": dataset.name},
            hint="--set images=all captions all scans"
            if with_images
            else "put its images and their calibration where the dataset's own archives put them, and prepare again "
            "(own scans: [[images]] in their .toml)",
        )
    return found


def _taken(images: Sequence[ImageRef], source: CaptionSource) -> dict[str, tuple[list[str], list[str]]]:
    from ssl3d.data.captions.records import to_line

    return {
        image.image_id: (
            [to_line(record) for record in source.images(image.image_id)],
            [to_line(record) for record in source.entities(image.image_id)],
        )
        for image in images
    }


def _asked(
    unit: Unit, images: Sequence[ImageRef], params: CaptionParams, threads: int, partial: Path
) -> dict[str, tuple[list[str], list[str]]]:
    """Asks the models about the images that no earlier, killed call has finished."""
    from ssl3d.data.images import ImageFiles
    from ssl3d.pipeline.captioning.captioner import captioner_of
    from ssl3d.pipeline.captioning.journal import ImageJournal

    files = ImageFiles(unit.work.root)
    with closing(ImageJournal(partial / f"{unit.id}.jsonl", unit.work.signature)) as journal:
        todo = [image for image in images if image.image_id not in journal.done]
        step_inside(len(images) - len(todo))
        if todo:
            captioner = captioner_of(params, unit.work.classes, threads)
            for begin in range(0, len(todo), params.batch):
                batch = todo[begin : begin + params.batch]
                pixels = [_checked(image, files.color(image.reference)) for image in batch]
                for image, answer in zip(batch, captioner.caption(batch, pixels), strict=True):
                    journal.add(image.image_id, answer.images, answer.entities)
                    step_inside()
        return {image.image_id: journal.done[image.image_id] for image in images}


def _checked(image: ImageRef, pixels: Any) -> Any:
    from ssl3d.data.errors import DataError

    if pixels.shape[:2] != (image.height, image.width):
        raise DataError(
            f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels, its calibration is for "
            f"{image.width} x {image.height}",
            where={"image": image.reference},
            hint="prepare the dataset again: the images were changed since",
        )
    return pixels


class _Tally:
    """Counts for the journal and the summary."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.phrases: Counter[str] = Counter()

    def add(self, images: Sequence[str], entities: Sequence[str]) -> None:
        import json

        records = [json.loads(line) for line in entities]
        self.phrases.update(record["phrase"] for record in records)
        self.counts.update(
            images=1,
            captioned=bool(images),
            with_entities=bool(entities),
            captions=len(images),
            entities=len(entities),
            boxes=sum("mask" not in record for record in records),
        )

    def info(self) -> dict[str, Any]:
        names = ("images", "captioned", "with_entities", "captions", "entities", "boxes")
        return {**{name: int(self.counts[name]) for name in names}, "phrases": dict(sorted(self.phrases.items()))}
