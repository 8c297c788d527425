"""Parameters of ``caption``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl3d.models.config import Params

NONE = "none"
PROMPTS = ("<grounding>An image of", "<grounding>Describe this image in detail:")


class CaptionParams(Params):
    """Where captions come from, and how the models of ``transformers`` are asked.

    Models are ids of the Hugging Face hub, ``id@revision``, or local folders. Thresholds are those of GroundedSAM's
    demo; prompts and models are choices where LASS3D is silent.
    """

    producer: Literal["transformers", "import", "generated"] = Field("transformers", description="who captions")
    images: Literal["train", "all"] = Field("train", description="of which scans; only training uses captions")
    captioner: str = Field("microsoft/kosmos-2-patch14-224", description="KOSMOS-2 for whole images, or none")
    prompts: tuple[str, ...] = Field(PROMPTS, min_length=1, description="one caption each; <grounding> asks for boxes")
    tiles: int = Field(1, ge=1, le=8, description="above 1: the image and so many crops of it side by side")
    detector: str = Field("IDEA-Research/grounding-dino-base", description="Grounding DINO for entities, or none")
    segmenter: str = Field("facebook/sam-vit-huge", description="SAM for masks; none: boxes stand for masks")
    vocabulary: Literal["kosmos+classes", "kosmos", "classes", "file"] = Field(
        "kosmos+classes", description="what is looked for: phrases of the captioner, names of classes, both, or words"
    )
    words: tuple[str, ...] = Field((), description="the phrases of vocabulary=file (ssl3d caption --words FILE)")
    box_threshold: float = Field(0.3, ge=0, le=1, description="least score of a box")
    text_threshold: float = Field(0.25, ge=0, le=1, description="least score of a word of its phrase")
    nms: float = Field(0.5, ge=0, le=1, description="boxes of one phrase that overlap more (IoU) are one")
    most: int = Field(50, ge=1, description="entities kept of an image, the best")
    min_pixels: int = Field(20, ge=1, description="least size of a mask")
    min_mask_score: float = Field(0.5, ge=0, le=1, description="least IoU that the segmenter expects of its mask")
    precision: Literal["auto", "fp32", "fp16"] = Field(
        "auto", description="auto: fp16 on CUDA, else fp32; the detector: fp32"
    )
    batch: int = Field(8, ge=1, exclude=True, description="images at a time (not in the key)")
    device: str = Field("cpu", exclude=True, description="set by --device (not in the key)")
    allow_download: bool = Field(False, exclude=True, description="set by --allow-download (not in the key)")
