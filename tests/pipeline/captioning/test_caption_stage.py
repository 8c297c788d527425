"""The stage: who captions, what is taken, what is refused, and that a kill loses no finished image."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.captions.files import CaptionFiles
from ssl3d.data.captions.records import EntityCaption, ImageCaption
from ssl3d.data.errors import DataError, UsageError
from ssl3d.pipeline.captioning import captioner
from ssl3d.pipeline.captioning import choose as choosing
from ssl3d.pipeline.captioning.captioner import Answer
from ssl3d.pipeline.captioning.choose import caption_stage
from ssl3d.pipeline.captioning.images import ImageRef, dataset_images
from ssl3d.pipeline.captioning.journal import ImageJournal
from ssl3d.pipeline.captioning.picture import scan_captions_picture
from ssl3d.pipeline.captioning.summary import count_captions, export_captions
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.graph import dataset_status
from ssl3d.pipeline.stage_run import StageRun, run_stage
from ssl3d.pipeline.stages.prepare import prepare

Write = Callable[..., Path]
ONE, TWO = "00/image_2/000000", "01/image_2/000001"
TRAIN = {f"00/image_2/{k:06d}" for k in range(3)} | {f"01/image_2/{k:06d}" for k in range(2)}
GIVEN = ("caption.captioner=none", "caption.detector=none")


def run(prepared: PreparedDataset, heard: Any, *args: Any, **rest: Any) -> StageRun:
    stage = caption_stage(prepared, *args, progress=heard, **rest)
    return run_stage(prepared.handle, stage, progress=heard)


# ---------------------------------------------------------------- imported


def test_captions_of_ones_own(prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Write) -> None:
    source = write_captions(tmp_path / "mine", {ONE: ["A street.", "Cars."], TWO: ["A house."]}, {ONE: ["car", "car"]})
    done = run(prepared, heard, None, source)
    product = done.product
    assert product.complete and product.manifest.params["producer"] == "import"
    unit = next(scan.unit for scan in prepared.scans if scan.scan_id == "00/000000")
    files = CaptionFiles.of(product.folder, unit)
    assert [caption.text for caption in files.images(ONE)] == ["A street.", "Cars."]
    assert [entity.phrase for entity in files.entities(ONE)] == ["car", "car"] and files.ids() == [ONE]
    counts = count_captions(product)
    assert (counts.images, counts.captioned, counts.with_entities) == (5, 2, 1)
    assert (counts.captions, counts.entities, counts.membership) == (3, 2, "mask")
    assert {"images = 5", 'producer = "import"', 'membership = "mask"'} <= set(
        (product.folder / "manifest.toml").read_text().splitlines()
    )
    status = {item.name: item for item in dataset_status(prepared.handle)}["caption"]
    assert (status.state, status.units_done) == ("cached", 2)
    again = run(prepared, heard, None, source)
    assert again.product.key == product.key and again.fresh == []
    assert str(source) in product.manifest.about["command"]


def test_other_captions_are_another_product(
    prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Write
) -> None:
    first = run(prepared, heard, None, write_captions(tmp_path / "mine", {ONE: ["A street."]}))
    second = run(prepared, heard, None, write_captions(tmp_path / "mine", {ONE: ["A road."]}))
    assert first.product.key != second.product.key and len(second.fresh) == 2
    assert prepared.handle.record()["stages"]["caption"] == second.product.key


def test_export_and_import_again(prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Write) -> None:
    texts = {name: [f"Text of {name}."] for name in sorted(TRAIN)}
    product = run(prepared, heard, None, write_captions(tmp_path / "mine", texts, {TWO: ["car"]})).product
    paths = export_captions(product, tmp_path / "out")
    assert [path.name for path in paths] == ["image.jsonl", "entity.jsonl", "manifest.toml"]
    ids = [json.loads(line)["image_id"] for line in paths[0].read_text().splitlines()]
    assert ids == sorted(TRAIN)
    again = run(prepared, heard, None, tmp_path / "out").product
    for path in sorted(product.folder.glob("*.jsonl")):
        if path.name != "journal.jsonl":
            assert (again.folder / path.name).read_bytes() == path.read_bytes()


def test_what_came_with_the_data(
    prepared: PreparedDataset, pictured: Path, heard: Any, write_captions: Write, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has to be said who captions") as nobody:
        caption_stage(prepared)
    assert all(word in str(nobody.value.hint) for word in ("--producer transformers", "--from PATH", "generated"))
    with pytest.raises(UsageError, match="no captions come with this dataset"):
        caption_stage(prepared, "generated")
    write_captions(pictured / "captions", {name: ["A street."] for name in TRAIN}, dataset="semantickitti")
    product = run(prepared, heard).product
    assert product.manifest.params["producer"] == "generated" and count_captions(product).captioned == 5
    everything = run(prepared, heard, overrides=["caption.images=all"]).product
    assert count_captions(everything).images == 8 and everything.key != product.key
    mine = run(prepared, heard, None, write_captions(tmp_path / "mine", {ONE: ["Mine."]})).product
    assert mine.manifest.params["producer"] == "import"


def test_words_that_do_not_go_together(prepared: PreparedDataset, tmp_path: Path) -> None:
    for args, what in (
        (("transformers", tmp_path), "--from gives captions"),
        (("import", None), "needs captions"),
        ((None, tmp_path / "nowhere"), "no such file"),
        ((None, tmp_path), "holds no captions"),
    ):
        with pytest.raises(UsageError, match=what):
            caption_stage(prepared, *args)
    with pytest.raises(UsageError, match="did you mean"):
        caption_stage(prepared, "transformers", overrides=["caption.box_treshold=0.2"])


def test_bad_captions_are_refused_before_anything_is_made(
    prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Write
) -> None:
    source = write_captions(tmp_path / "mine", {ONE: ["A street."], TWO: ["x"]}, {ONE: ["car"]})
    good = {path: path.read_text() for path in source.glob("*.jsonl")}
    image, entity = source / "image.jsonl", source / "entity.jsonl"
    cases = [
        (image, good[image] + '{"schema": "ssl3d.image_c', "the file was cut", 3),
        (image, good[image].replace('"x"', '" "'), "'text' is empty", 2),
        (image, good[image].replace('"width": 24', '"width": 25', 1), "25 x 16 pixels, the image has 24 x 16", 1),
        (image, good[image] * 2, "two records with index 0", 3),
        (entity, good[entity].replace("[192, 192]", "[192, 191]"), "add up to 383 pixels", 1),
        (entity, good[entity].replace("[16, 24]", "[24, 16]"), "the image 16 x 24", 1),
    ]
    for path, content, what, line in cases:
        path.write_text(content)
        with pytest.raises(DataError, match=re.escape(what)) as error:
            run(prepared, heard, None, source)
        assert error.value.where["line"] == line and error.value.where["file"] == path
        path.write_text(good[path])
    assert prepared.handle.product("caption") is None
    with pytest.raises(DataError, match=r"captions of another one"):
        run(prepared, heard, None, write_captions(tmp_path / "other", {"samples/CAM_FRONT/n1": ["A street."]}))
    with pytest.raises(DataError, match=r"captions of 'nuscenes', the dataset is 'semantickitti'"):
        run(prepared, heard, None, write_captions(tmp_path / "other", {ONE: ["A street."]}, dataset="nuscenes"))
    run(prepared, heard, None, write_captions(source, {ONE: ["A street."], "07/image_2/000009": ["x"]}))
    assert "1 images are not in the dataset; their 1 records are left out" in heard.text


def test_many_problems_name_the_command_that_lists_them(
    prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Write
) -> None:
    source = write_captions(tmp_path / "mine", {ONE: [" ", " "]})
    with pytest.raises(DataError) as error:
        run(prepared, heard, None, source)
    assert f"ssl3d caption --from {source} --check" in str(error.value.hint)


def test_a_damaged_product_is_made_again(
    prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Write
) -> None:
    source = write_captions(tmp_path / "mine", {ONE: ["A street."], TWO: ["A house."]})
    product = run(prepared, heard, None, source).product
    path = next(path for path in product.folder.glob("*.image.jsonl") if path.stat().st_size)
    path.write_text(path.read_text()[:-5])
    with pytest.raises(DataError, match="damaged or missing"):
        product.trust(("image", "entity"))
    again = run(prepared, heard, None, source)
    assert len(again.rebuilt) == 1 and again.product.complete
    again.product.trust(("image", "entity"))


def test_without_images(make_kitti: Callable[..., Path], workspace: Any, tmp_path: Path, write_captions: Write) -> None:
    prepare(workspace, "semantickitti", make_kitti(tmp_path / "plain"))
    plain = PreparedDataset(workspace.dataset())
    for args in ((), ("transformers",), (None, write_captions(tmp_path / "mine", {ONE: ["A street."]}))):
        with pytest.raises(UsageError, match=r"the dataset has no images|has to be said who") as error:
            caption_stage(plain, *args)
        assert error.value.hint


# ---------------------------------------------------------------- models


class Clerk:
    """Captions images in place of the models; falls ill after some."""

    asked: ClassVar[list[str]] = []
    ill_after = 10**9

    def __init__(self, *args: object) -> None: ...

    def caption(self, images: Sequence[ImageRef], pixels: Sequence[Any]) -> list[Answer]:
        answers = []
        for image, picture in zip(images, pixels, strict=True):
            if len(Clerk.asked) >= Clerk.ill_after:
                raise KeyboardInterrupt
            assert picture.shape == (image.height, image.width, 3)
            Clerk.asked.append(image.image_id)
            value = int(picture[0, 0, 0])
            said = ImageCaption(image.image_id, image.width, image.height, 0, f"Brightness {value}.", "clerk")
            box = (0.0, 0.0, 4.0, 4.0)
            thing = EntityCaption(image.image_id, image.width, image.height, 0, "corner", 0.5, box)
            answers.append(Answer([said], [thing]))
        return answers


@pytest.fixture
def clerk(monkeypatch: pytest.MonkeyPatch) -> type[Clerk]:
    monkeypatch.setattr(captioner, "captioner_of", Clerk)
    monkeypatch.setattr(choosing, "_require_models", lambda params: None)
    Clerk.asked, Clerk.ill_after = [], 10**9
    return Clerk


def contents(product: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in product.folder.glob("*.jsonl") if path.name != "journal.jsonl"}


def test_only_train_images_are_asked_about(prepared: PreparedDataset, heard: Any, clerk: type[Clerk]) -> None:
    product = run(prepared, heard, "transformers").product
    assert set(clerk.asked) == TRAIN and len(clerk.asked) == 5
    assert not (product.folder / "partial").exists()
    assert 'captioner = "microsoft/kosmos-2-patch14-224"' in (product.folder / "manifest.toml").read_text()
    assert count_captions(product).membership == "box"
    assert heard.tasks[-1] == ("caption", 5, 5)  # images, counted once each


def test_a_kill_loses_no_finished_image(prepared: PreparedDataset, heard: Any, clerk: type[Clerk]) -> None:
    """Killed after every image in turn, and inside of a line: in the end every image was asked about once."""
    given = ["caption.batch=1"]
    interrupted = 0
    for _ in range(20):
        clerk.ill_after = len(clerk.asked) + 1
        try:
            product = run(prepared, heard, "transformers", overrides=given).product
            break
        except KeyboardInterrupt:
            interrupted += 1
            (folder,) = (prepared.handle.folder / "caption").iterdir()
            for path in (folder / "partial").glob("*.jsonl"):
                path.write_bytes(path.read_bytes() + b'{"image_id":"00/ima')  # the next line was under way
    assert interrupted == 4 and sorted(clerk.asked) == sorted(TRAIN)
    whole = contents(product)
    clerk.asked = []
    other = run(prepared, heard, "transformers", overrides=[*given, "caption.most=7"]).product  # another key, in one go
    assert other.key != product.key and contents(other) == whole


def test_batches_and_devices_do_not_change_the_key(prepared: PreparedDataset, heard: Any, clerk: type[Clerk]) -> None:
    first = run(prepared, heard, "transformers").product
    again = run(prepared, heard, "transformers", overrides=["caption.batch=3", "caption.allow_download=true"])
    assert again.product.key == first.key and again.fresh == []
    other = run(prepared, heard, "transformers", overrides=["caption.box_threshold=0.2"]).product
    assert other.key != first.key and "--set box_threshold=0.2" in other.manifest.about["command"]


def test_a_journal_of_other_sources_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "partial" / "u.jsonl"
    said = ImageCaption("a", 4, 3, 0, "Text.", "m")
    journal = ImageJournal(path, "one")
    journal.add("a", [said], [])
    journal.close()
    same = ImageJournal(path, "one")
    assert list(same.done) == ["a"] and same.done["a"][0][0].endswith("\n")
    same.close()
    other = ImageJournal(path, "two")
    assert other.done == {}
    other.close()


def test_images_that_changed_since(prepared: PreparedDataset, pictured: Path, heard: Any, clerk: type[Clerk]) -> None:
    path = pictured / "sequences" / "00" / "image_2" / "000001.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match="8 x 8 pixels, its calibration is for 24 x 16"):
        run(prepared, heard, "transformers")
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        run(prepared, heard, "transformers")
    path.unlink()
    with pytest.raises(DataError, match="an image is missing"):
        run(prepared, heard, "transformers")


def test_without_transformers(prepared: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match="needs transformers") as error:
        caption_stage(prepared, "transformers")
    assert "ssl3d[vlm]" in str(error.value.hint)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (GIVEN, "leave nothing to do"),
        (("caption.captioner=none", "caption.vocabulary=kosmos"), "needs the captioner"),
        (("caption.vocabulary=file",), "needs words"),
    ],
)
def test_models_that_make_no_sense(prepared: PreparedDataset, given: Sequence[str], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        caption_stage(prepared, "transformers", overrides=given)


def test_tiny_models_caption_a_dataset(
    prepared: PreparedDataset, heard: Any, kosmos: Path, dino: Path, sam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way with the real classes: local folders, batches over two units, files that read back."""
    from ssl3d.pipeline.captioning import describe

    monkeypatch.setattr(describe, "_SHORT", 4)
    monkeypatch.setattr(describe, "_LONG", 4)
    given = [f"caption.captioner={kosmos}", f"caption.detector={dino}", f"caption.segmenter={sam}"]
    given += [f"caption.{key}=0" for key in ("box_threshold", "text_threshold", "min_mask_score")]
    given += ["caption.min_pixels=1", "caption.most=2", "caption.batch=2"]
    product = run(prepared, heard, "transformers", overrides=given).product
    counts = count_captions(product)
    assert counts.images == 5 and counts.entities > 0 and counts.membership == "mask"
    classes = {"car", "traffic sign", "truck", "road"}
    assert set(counts.phrases) & classes and not any("other" in phrase for phrase in counts.phrases)
    for unit in product.done:
        files = CaptionFiles.of(product.folder, unit)
        for name in files.ids():
            assert len(files.entities(name)) <= 2 and all(entity.mask is not None for entity in files.entities(name))
    captioner.captioner_of.cache_clear()


# ---------------------------------------------------------------- looking at it


def test_images_of_a_dataset(prepared: PreparedDataset) -> None:
    images = dataset_images(prepared)
    assert {image.image_id for unit in images.values() for image in unit} >= TRAIN
    first = next(iter(images.values()))[0]
    assert (first.width, first.height) == (24, 16) and first.reference.endswith(".png")


def test_a_picture(prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Write) -> None:
    source = write_captions(tmp_path / "mine", {ONE: ["A street. " * 80]}, {ONE: ["car", "tree"]})
    product = run(prepared, heard, None, source).product
    scan = prepared.by_id["00/000000"]
    path = scan_captions_picture(prepared, product, scan, tmp_path / "x.png")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1600 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    with pytest.raises(UsageError, match="images of this scan are not captioned"):
        scan_captions_picture(prepared, product, prepared.by_id["08/000000"], tmp_path / "y.png")
