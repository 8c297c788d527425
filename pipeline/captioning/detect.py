"""GroundedSAM: Grounding DINO (Liu et al., 2023) finds phrases in images, SAM (Kirillov et al., 2023) their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ssl3d.pipeline.captioning.boxes import Detection, best_boxes
from ssl3d.pipeline.captioning.load import Loader, ModelName
from ssl3d.pipeline.captioning.words import in_chunks, match_phrase

Pixels = npt.NDArray[np.uint8]
_BOXES_AT_ONCE = 64


class Mask(NamedTuple):
    """``pixels`` (height, width) bool; ``score``: the IoU that SAM expects of it."""

    pixels: npt.NDArray[np.bool_]
    score: float


class Detector:
    """Finds phrases.

    Args:
        box_threshold, text_threshold: least score of a box, of a word of its phrase.
        nms, most: see ``best_boxes``.
    """

    def __init__(
        self, loader: Loader, name: str, box_threshold: float, text_threshold: float, nms: float, most: int
    ) -> None:
        self.name = ModelName.parse(name).shown
        self.box_threshold, self.text_threshold, self.nms, self.most = box_threshold, text_threshold, nms, most
        self.processor = loader.part("AutoProcessor", name)
        # in float16 it fails under transformers 4.57, and finds nothing where float32 finds boxes
        self.model = loader.model("AutoModelForZeroShotObjectDetection", name, exact=True)

    def detect(self, pixels: Sequence[Pixels], vocabularies: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """What is found in each image of its own phrases, in order of falling score."""
        chunks = [in_chunks(vocabulary) for vocabulary in vocabularies]
        found: list[list[Detection]] = [[] for _ in pixels]
        for number in range(max(map(len, chunks), default=0)):
            have = [k for k in range(len(pixels)) if number < len(chunks[k])]
            answers = self.look([pixels[k] for k in have], [chunks[k][number] for k in have])
            for k, answer in zip(have, answers, strict=True):
                found[k] += answer
        sizes = [(p.shape[1], p.shape[0]) for p in pixels]
        return [best_boxes(items, size, self.nms, self.most) for items, size in zip(found, sizes, strict=True)]

    @torch.inference_mode()
    def look(self, pixels: Sequence[Pixels], phrases: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """One pass over a batch; boxes as the model gives them, whose phrase could be told."""
        texts = [". ".join(words) + "." for words in phrases]  # what the processor makes of lists, in any version
        inputs = self.processor(images=list(pixels), text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        outputs = self.model(**inputs)
        results = self.processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            target_sizes=[p.shape[:2] for p in pixels],
        )
        found: list[list[Detection]] = []
        for result, words in zip(results, phrases, strict=True):
            boxes, scores = result["boxes"].float().cpu().tolist(), result["scores"].float().cpu().tolist()
            rows = zip(result["text_labels"], scores, boxes, strict=True)
            named = [(match_phrase(label, words), score, box) for label, score, box in rows]
            found.append([Detection(name, score, tuple(box)) for name, score, box in named if name is not None])
        return found


class Segmenter:
    """Turns boxes into masks, one mask a box."""

    def __init__(self, loader: Loader, name: str) -> None:
        self.name = ModelName.parse(name).shown
        self.processor = loader.part("SamProcessor", name)
        self.model = loader.model("SamModel", name)

    @torch.inference_mode()
    def segment(self, pixels: Pixels, found: Sequence[Detection]) -> list[Mask]:
        """A mask for each box, of the size of the image. The image is encoded once, however many boxes there are."""
        if not found:
            return []
        boxes = [[list(item.box) for item in found]]
        inputs = self.processor(images=pixels, input_boxes=boxes, return_tensors="pt")
        device, dtype = self.model.device, self.model.dtype
        embedding = self.model.get_image_embeddings(inputs["pixel_values"].to(device, dtype))
        masks: list[Mask] = []
        for begin in range(0, len(found), _BOXES_AT_ONCE):
            part = inputs["input_boxes"][:, begin : begin + _BOXES_AT_ONCE].to(device, dtype)
            outputs = self.model(image_embeddings=embedding, input_boxes=part, multimask_output=False)
            planes = self.processor.post_process_masks(
                outputs.pred_masks.float().cpu(),
                inputs["original_sizes"].cpu(),
                inputs["reshaped_input_sizes"].cpu(),
            )[0]
            scores = outputs.iou_scores.float().cpu()[0, :, 0].tolist()
            masks += [Mask(plane[0].numpy(), score) for plane, score in zip(planes, scores, strict=True)]
        return masks
