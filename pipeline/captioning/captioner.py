"""The models together: from an image to its records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.captions.records import EntityCaption, ImageCaption
from ssl3d.data.captions.rle import area, encode
from ssl3d.pipeline.captioning.describe import Describer
from ssl3d.pipeline.captioning.detect import Detection, Detector, Mask, Segmenter
from ssl3d.pipeline.captioning.images import ImageRef
from ssl3d.pipeline.captioning.load import Loader
from ssl3d.pipeline.captioning.words import caption_phrases, class_phrases, clean_phrase
from ssl3d.pipeline.stages.caption_params import NONE, CaptionParams

Pixels = npt.NDArray[np.uint8]


class Answer(NamedTuple):
    images: list[ImageCaption]
    entities: list[EntityCaption]


class Captioner:
    """Whatever of the three models the parameters name."""

    def __init__(self, params: CaptionParams, classes: Sequence[str]) -> None:
        half = params.precision == "fp16" or (params.precision == "auto" and params.device.startswith("cuda"))
        loader = Loader(params.device, half, params.allow_download)
        self.params, self.classes = params, class_phrases(classes)
        self.words = [word for word in map(clean_phrase, params.words) if word]
        self.describer = self.detector = self.segmenter = None
        if params.captioner != NONE:
            self.describer = Describer(loader, params.captioner, params.prompts, params.tiles)
        if params.detector != NONE:
            thresholds = (params.box_threshold, params.text_threshold, params.nms, params.most)
            self.detector = Detector(loader, params.detector, *thresholds)
            if params.segmenter != NONE:
                self.segmenter = Segmenter(loader, params.segmenter)

    def caption(self, images: Sequence[ImageRef], pixels: Sequence[Pixels]) -> list[Answer]:
        """The records of each image. ``pixels``: (height, width, 3) uint8 RGB."""
        said: list[list[ImageCaption]] = [[] for _ in images]
        if self.describer is not None:
            said = self.describer.describe(images, pixels)
        entities: list[list[EntityCaption]] = [[] for _ in images]
        if self.detector is not None:
            found = self.detector.detect(pixels, [self.vocabulary(captions) for captions in said])
            entities = [self._entities(*item) for item in zip(images, pixels, found, strict=True)]
        return [Answer(*item) for item in zip(said, entities, strict=True)]

    def vocabulary(self, captions: Sequence[ImageCaption]) -> list[str]:
        """What is looked for in an image with these captions, each phrase once."""
        kind = self.params.vocabulary
        if kind == "file":
            return list(dict.fromkeys(self.words))
        spoken = caption_phrases(captions) if "kosmos" in kind else []
        return list(dict.fromkeys([*spoken, *(self.classes if "classes" in kind else [])]))

    def _entities(self, image: ImageRef, pixels: Pixels, found: Sequence[Detection]) -> list[EntityCaption]:
        masks: Sequence[Mask | None] = [None] * len(found)
        if self.segmenter is not None:
            masks = self.segmenter.segment(pixels, found)
        assert self.detector is not None
        records: list[EntityCaption] = []
        for item, mask in zip(found, masks, strict=True):
            counts = None if mask is None else encode(mask.pixels)
            if counts is not None and area(counts) < self.params.min_pixels:
                continue
            if mask is not None and mask.score < self.params.min_mask_score:
                continue
            records.append(
                EntityCaption(
                    image.image_id,
                    image.width,
                    image.height,
                    len(records),
                    item.phrase,
                    min(1.0, item.score),
                    item.box,
                    counts,
                    None if mask is None else min(1.0, max(0.0, mask.score)),  # an estimate: it may leave 0..1
                    self.detector.name,
                    "" if self.segmenter is None or mask is None else self.segmenter.name,
                )
            )
        return records


@lru_cache(maxsize=1)
def captioner_of(params: CaptionParams, classes: tuple[str, ...], threads: int) -> Captioner:
    """The models, loaded once for all units of a call."""
    import torch

    torch.set_num_threads(threads)
    return Captioner(params, classes)
