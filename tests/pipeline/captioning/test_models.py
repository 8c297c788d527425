"""The real code on tiny models of the real classes, of whatever version of transformers is installed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.captioning import describe
from ssl3d.pipeline.captioning.captioner import Captioner
from ssl3d.pipeline.captioning.describe import Describer
from ssl3d.pipeline.captioning.detect import Detection, Detector, Segmenter
from ssl3d.pipeline.captioning.encode import ClipEncoder
from ssl3d.pipeline.captioning.images import ImageRef
from ssl3d.pipeline.captioning.load import Loader, ModelName, fingerprint, require_model
from ssl3d.pipeline.stages.caption_params import CaptionParams

SHORT, LONG = "<grounding>An image of", "<grounding>Describe this image in detail:"


def pictures(count: int, width: int = 121, height: int = 37) -> tuple[list[ImageRef], list[Any]]:
    pixels = [np.random.default_rng(k).integers(0, 255, (height, width, 3), np.uint8) for k in range(count)]
    return [ImageRef(f"a/{k}", f"a/{k}.png", width, height) for k in range(count)], pixels


class Scripted:
    """Stands in for KOSMOS-2's weights: it always writes the given text, in the processor's own tokens."""

    def __init__(self, describer: Describer, text: str) -> None:
        self.ids = describer.processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.shown: list[Any] = []

    def generate(self, **inputs: Any) -> torch.Tensor:
        self.shown.append(inputs)
        return self.ids.repeat(len(inputs["input_ids"]), 1)


def test_a_caption_with_its_phrases(kosmos: Path) -> None:
    """Patch indices 44 and 863 of a 32 x 32 grid on an image of 1241 x 376."""
    describer = Describer(Loader(), str(kosmos), [SHORT], 1)
    marks = "<patch_index_0044><patch_index_0863>"
    nameless = "<object><patch_index_0000><patch_index_0000></object>"
    text = f"{SHORT}<phrase> a car</phrase><object>{marks}</object> in a{nameless} road"
    model = describer.model = Scripted(describer, text)
    images, pixels = pictures(2, 1241, 376)
    first, second = describer.describe(images, pixels)
    assert len(first) == 1 and first[0].text == second[0].text == "An image of a car in a road"
    (phrase,) = first[0].phrases
    assert phrase.text == "a car" and phrase.boxes == ((484.77, 17.62, 1221.61, 311.38),)
    assert first[0].prompt == SHORT and first[0].model == f"local:{kosmos.name}" and first[0].region is None
    (shown,) = model.shown  # both images in one batch
    assert shown["pixel_values"].shape == (2, 3, 28, 28) and shown["image_embeds"] is None
    assert int(shown["image_embeds_position_mask"][0].sum()) == 64 and shown["do_sample"] is False
    assert shown["max_new_tokens"] == 64 and shown["attention_mask"].shape == shown["input_ids"].shape


def test_prompts_and_tiles(kosmos: Path) -> None:
    """Every prompt, then the same of each crop; regions tile the image, and boxes are where the crop is."""
    describer = Describer(Loader(), str(kosmos), [SHORT, LONG], 3)
    box = "<object><patch_index_0000><patch_index_0000></object>"
    describer.model = Scripted(describer, f"{SHORT}<phrase> a car</phrase>{box}")
    images, pixels = pictures(2)
    found, _ = describer.describe(images, pixels)
    assert [caption.index for caption in found] == list(range(8))
    regions = [caption.region for caption in found if caption.prompt == SHORT]
    assert regions == [None, (0, 0, 40, 37), (40, 0, 80, 37), (80, 0, 121, 37)]
    corners = [caption.phrases[0].boxes[0] for caption in found if caption.prompt == SHORT]
    assert corners == [(0, 0, 3.78, 1.16), (0, 0, 1.25, 1.16), (40, 0, 41.25, 1.16), (80, 0, 81.28, 1.16)]
    widths = [shown["pixel_values"].shape for shown in describer.model.shown]
    assert widths == [(2, 3, 28, 28)] * 8


def test_the_true_weights_write_something(kosmos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are random: what counts is that generation runs, in batches as for one image alone."""
    monkeypatch.setattr(describe, "_SHORT", 6)
    describer = Describer(Loader(), str(kosmos), [SHORT], 1)
    _, pixels = pictures(3)
    together = describer.ask(pixels, SHORT)
    assert len(together) == 3 and together[:1] == describer.ask(pixels[:1], SHORT)


def test_a_detector_finds_phrases_of_each_image_only(dino: Path) -> None:
    detector = Detector(Loader(), str(dino), box_threshold=0.0, text_threshold=0.0, nms=0.9, most=4)
    _, pixels = pictures(3)
    vocabularies = [["car", "traffic sign"], [], ["road", "car", *(f"tree {k}" for k in range(40))]]
    found = detector.detect(pixels, vocabularies)
    assert found[1] == []
    for detections, words in zip(found, vocabularies, strict=True):
        assert len(detections) <= 4 and all(item.phrase in words for item in detections)
        assert [item.score for item in detections] == sorted((item.score for item in detections), reverse=True)
        for item in detections:
            assert 0 <= item.box[0] < item.box[2] <= 121 and 0 <= item.box[1] < item.box[3] <= 37


def test_a_detector_is_understood(dino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the weights would say, through the processor's own reading: boxes in pixels, tokens back to phrases."""
    detector = Detector(Loader(), str(dino), box_threshold=0.3, text_threshold=0.25, nms=0.5, most=50)
    logits = torch.full((1, 3, 256), -10.0)
    logits[0, 0, [3, 4]] = 2.0  # [CLS] car . traffic sign . [SEP]: both words of "traffic sign"
    logits[0, 1, 1] = 1.0  # "car"
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.1, 0.1]]])
    answer = SimpleNamespace(logits=logits, pred_boxes=boxes)
    asked: list[Any] = []

    class Model:
        device, dtype = torch.device("cpu"), torch.float32

        def __call__(self, **inputs: Any) -> Any:
            asked.append(inputs)
            return answer

    monkeypatch.setattr(detector, "model", Model())
    _, pixels = pictures(1, 100, 50)
    (found,) = detector.detect(pixels, [["car", "traffic sign"]])
    assert [(item.phrase, round(item.score, 3)) for item in found] == [("traffic sign", 0.881), ("car", 0.731)]
    assert found[0].box == pytest.approx((40, 15, 60, 35)) and found[1].box == pytest.approx((0, 0, 50, 50))
    text = detector.processor.tokenizer.decode(asked[0]["input_ids"][0])
    assert text == "[CLS] car. traffic sign. [SEP]"


def test_a_mask_for_every_box(sam: Path) -> None:
    segmenter = Segmenter(Loader(), str(sam))
    _, (pixels,) = pictures(1)
    boxes = [Detection("car", 0.5, (3.0 + k % 40, 4.0, 60.0, 30.0)) for k in range(70)]  # more than fit in one pass
    masks = segmenter.segment(pixels, boxes)
    assert len(masks) == 70 and segmenter.segment(pixels, []) == []
    assert all(mask.pixels.shape == (37, 121) and mask.pixels.dtype == np.bool_ for mask in masks)
    assert masks[0].score == pytest.approx(masks[40].score) and (masks[0].pixels == masks[40].pixels).all()
    again = segmenter.segment(pixels, boxes[:3])
    assert all((a.pixels == b.pixels).all() for a, b in zip(again, masks, strict=False))


def test_all_three_together(kosmos: Path, dino: Path, sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "_SHORT", 6)
    params = CaptionParams(
        captioner=str(kosmos), detector=str(dino), segmenter=str(sam), prompts=(SHORT,), box_threshold=0.0,
        text_threshold=0.0, nms=0.9, most=3, min_pixels=1, min_mask_score=0.0,
    )  # fmt: skip
    captioner = Captioner(params, ["car", "traffic-sign", "other-object"])
    images, pixels = pictures(2)
    answers = captioner.caption(images, pixels)
    assert any(answer.entities for answer in answers)
    for answer in answers:
        for k, entity in enumerate(answer.entities):
            assert entity.index == k and entity.phrase in ("car", "traffic sign") and entity.mask is not None
            assert entity.detector == f"local:{dino.name}" and entity.segmenter == f"local:{sam.name}"
    boxes_only = Captioner(params.model_copy(update={"segmenter": "none", "captioner": "none"}), ["car"])
    answers = boxes_only.caption(images, pixels)
    assert all(answer.images == [] for answer in answers)
    assert all(entity.mask is None and entity.box for answer in answers for entity in answer.entities)
    strict = Captioner(params.model_copy(update={"min_pixels": 10_000}), ["car"])
    assert all(answer.entities == [] for answer in strict.caption(images, pixels))


def test_in_half_precision(kosmos: Path, dino: Path, sam: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; the detector stays in float32."""
    monkeypatch.setattr(describe, "_SHORT", 3)
    half, _ = Loader(half=True), torch.manual_seed(0)
    _, pixels = pictures(2)
    describer = Describer(half, str(kosmos), [SHORT], 1)
    assert describer.model.dtype == torch.float16 and len(describer.ask(pixels, SHORT)) == 2
    thresholds = {"box_threshold": 0.0, "text_threshold": 0.0, "nms": 0.9, "most": 50}
    words = [["car", "traffic sign"]] * 2
    found = Detector(half, str(dino), **thresholds).detect(pixels, words)
    assert found == Detector(Loader(), str(dino), **thresholds).detect(pixels, words)
    boxes = [Detection("car", 0.5, (3.0, 4.0, 60.0, 30.0))]
    (mask,), (whole,) = (Segmenter(loader, str(sam)).segment(pixels[0], boxes) for loader in (half, Loader()))
    assert mask.score == pytest.approx(whole.score, abs=0.01) and (mask.pixels == whole.pixels).mean() > 0.95
    exact = ClipEncoder(Loader(), str(clip)).encode(["a cat"])
    assert ClipEncoder(half, str(clip)).encode(["a cat"]) == pytest.approx(exact, abs=0.02)


def test_models_that_are_not_here(transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="nothing is downloaded unasked") as error:
        require_model("openai/no-such-model@v1", allow_download=False)
    assert "--allow-download" in str(error.value.hint) and error.value.where["revision"] == "v1"
    with pytest.raises(UsageError, match="nothing is downloaded unasked"):
        Loader().part("CLIPTextModelWithProjection", "openai/no-such-model")
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match=r"without config.json"):
        require_model(str(tmp_path / "model"), allow_download=False)
    with pytest.raises(UsageError, match="no such folder"):
        require_model(str(tmp_path / "nowhere"), allow_download=False)
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(Ssl3dError, match="cannot be opened") as opened:
        Loader().part("CLIPTextModelWithProjection", str(tmp_path / "model"))
    assert opened.value.where["model"] == str(tmp_path / "model")


def test_names_of_models(tmp_path: Path) -> None:
    assert ModelName.parse("facebook/sam-vit-huge@abc") == ModelName("facebook/sam-vit-huge", "abc", False)
    assert ModelName.parse("facebook/sam-vit-huge").revision is None
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "weights").write_bytes(b"12")
    first = fingerprint(str(folder))
    (folder / "weights").write_bytes(b"123")
    assert fingerprint(str(folder)) != first and fingerprint("a/b") == "a/b"
    assert ModelName.parse(str(folder)).shown == "local:mine"
