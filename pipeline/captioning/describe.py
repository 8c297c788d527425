"""KOSMOS-2 (Peng et al., 2023) asked about images: captions, and the phrases in them with their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ssl3d.data.captions.records import Box, ImageCaption, Phrase
from ssl3d.pipeline.captioning.images import ImageRef
from ssl3d.pipeline.captioning.load import Loader, ModelName
from ssl3d.pipeline.captioning.words import is_clean, tidy_caption

Pixels = npt.NDArray[np.uint8]
_SHORT, _LONG = 64, 128
"""Most tokens of an answer: to a prompt that begins the sentence, to one that asks for a description."""


class Describer:
    """Captions images.

    Args:
        name: of the model, see ``ModelName``.
        prompts: one caption each.
        tiles: above 1, also of so many crops of equal width, whose captions get a region.
    """

    def __init__(self, loader: Loader, name: str, prompts: Sequence[str], tiles: int) -> None:
        self.name, self.prompts, self.tiles = ModelName.parse(name).shown, tuple(prompts), tiles
        self.processor = loader.part("AutoProcessor", name)
        self.model = loader.model("Kosmos2ForConditionalGeneration", name)
        self.revision = loader.revision(name)

    def describe(self, images: Sequence[ImageRef], pixels: Sequence[Pixels]) -> list[list[ImageCaption]]:
        """Of each image its captions: of the whole by every prompt, then of the crops from the left."""
        found: list[list[ImageCaption]] = [[] for _ in images]
        for region in range(self.tiles + 1 if self.tiles > 1 else 1):
            crops = [_crop(image, region, self.tiles) for image in images]
            parts = [np.ascontiguousarray(p[:, left:right]) for p, (left, right) in zip(pixels, crops, strict=True)]
            for prompt in self.prompts:
                for k, (text, phrases) in enumerate(self.ask(parts, prompt)):
                    if text:
                        found[k].append(self._record(images[k], len(found[k]), crops[k], text, phrases, prompt))
        return found

    @torch.inference_mode()
    def ask(self, parts: Sequence[Pixels], prompt: str) -> list[tuple[str, list[tuple[str, list[Box]]]]]:
        """Of each image the tidy caption ("" for none) and its phrases with boxes, shares of width and height."""
        inputs = self.processor(text=[prompt] * len(parts), images=list(parts), return_tensors="pt")
        inputs = inputs.to(self.model.device)
        ids = self.model.generate(
            pixel_values=inputs["pixel_values"].to(self.model.dtype),
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            image_embeds=None,
            image_embeds_position_mask=inputs["image_embeds_position_mask"],
            use_cache=True,
            do_sample=False,
            num_beams=1,
            max_new_tokens=_LONG if prompt.rstrip().endswith(":") else _SHORT,
        )
        answers = []
        for raw in self.processor.batch_decode(ids, skip_special_tokens=True):
            text, entities = self.processor.post_process_generation(raw)
            phrases = [(phrase, [tuple(box) for box in boxes]) for phrase, _, boxes in entities if is_clean(phrase)]
            answers.append((tidy_caption(text, prompt), phrases))
        return answers

    def _record(
        self,
        image: ImageRef,
        index: int,
        crop: tuple[int, int],
        text: str,
        phrases: Sequence[tuple[str, Sequence[Box]]],
        prompt: str,
    ) -> ImageCaption:
        whole = crop == (0, image.width)
        return ImageCaption(
            image.image_id,
            image.width,
            image.height,
            index,
            text,
            self.name,
            region=None if whole else (crop[0], 0, crop[1], image.height),
            phrases=tuple(Phrase(" ".join(words.split()), _scaled(boxes, crop, image)) for words, boxes in phrases),
            prompt=prompt,
            revision=self.revision,
        )


def _crop(image: ImageRef, region: int, tiles: int) -> tuple[int, int]:
    """First and last + 1 column: of the whole image for region 0, of the tiles from the left for 1, 2, ..."""
    if region == 0:
        return 0, image.width
    return image.width * (region - 1) // tiles, image.width * region // tiles


def _scaled(boxes: Sequence[Box], crop: tuple[int, int], image: ImageRef) -> tuple[Box, ...]:
    """Shares of a crop -> pixels of the image; boxes that are empty are left out."""
    left, width = crop[0], crop[1] - crop[0]
    scaled = (
        (left + b[0] * width, b[1] * image.height, left + b[2] * width, b[3] * image.height)
        for b in boxes
        if b[0] < b[2] and b[1] < b[3]
    )
    return tuple((round(a, 2), round(b, 2), round(c, 2), round(d, 2)) for a, b, c, d in scaled)
