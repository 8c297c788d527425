"""Texts as vectors: the encoders, and the stage that runs them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.captions.embeddings import TextEmbeddings
from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.captioning import encode
from ssl3d.pipeline.captioning.choose import caption_stage
from ssl3d.pipeline.captioning.encode import ClipEncoder, HashEncoder, MiniLmEncoder, model_name
from ssl3d.pipeline.captioning.load import Loader
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.graph import dataset_status
from ssl3d.pipeline.stage_run import StageRun, run_stage
from ssl3d.pipeline.stages.embed import embed_stage

ONE, TWO = "00/image_2/000000", "01/image_2/000001"


# ---------------------------------------------------------------- encoders


def test_hashed_words() -> None:
    encoder = HashEncoder(512)
    texts = ["a car", "the car", "car", "a truck", "a red car", "", "?!"]
    found = encoder.encode(texts)
    assert found.shape == (7, 512) and found.dtype == np.float32 and np.isfinite(found).all()
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    alike = unit @ unit.T
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()  # small words do not count
    assert alike[0, 4] > 0.5 and abs(alike[0, 3]) < 0.2
    assert (encoder.encode(["street", "car"])[1] == found[2]).all()  # whatever else is in the batch
    assert encoder.encode([]).shape == (0, 512)
    assert HashEncoder(100).encode(["car"]).shape == (1, 100)
    assert np.flatnonzero(found[2] > 0)[:6].tolist() == [0, 4, 5, 6, 7, 8]  # the same on every machine


def test_clip(clip: Path, transformers: Any) -> None:
    encoder = ClipEncoder(Loader(), str(clip))
    texts = ["a cat", "a car. a car, a cat", "a cat " * 100]
    found = encoder.encode(texts)
    assert found.shape == (3, 24) and np.isfinite(found).all() and encoder.model == f"local:{clip.name}"
    assert found[0] == pytest.approx(encoder.encode(texts[:1])[0], abs=1e-5)  # padding changes nothing
    import torch

    tokens = encoder.tokenizer(["a cat"], return_tensors="pt")
    with torch.no_grad():
        expected = encoder.network(**tokens).text_embeds[0]
    assert found[0] == pytest.approx(expected.numpy(), abs=1e-5) and not np.allclose(found[0], found[1])


def test_minilm(minilm: Path) -> None:
    encoder = MiniLmEncoder(Loader(), str(minilm))
    found = encoder.encode(["a car", "a tree of a traffic sign"])
    assert found.shape == (2, 16) and found[0] == pytest.approx(encoder.encode(["a car"])[0], abs=1e-5)
    import torch

    tokens = encoder.tokenizer(["a car"], return_tensors="pt")
    with torch.no_grad():
        states = encoder.network(**tokens).last_hidden_state[0]
    assert found[0] == pytest.approx(states.mean(dim=0).numpy(), abs=1e-5)


def test_a_folder_without_its_tokenizer(clip: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    with pytest.raises(Ssl3dError, match=r"cannot be opened|its files are missing"):
        ClipEncoder(Loader(), str(tmp_path))


def test_the_usual_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_name("clip", "") == "openai/clip-vit-base-patch16" and model_name("clip", "x/y") == "x/y"
    monkeypatch.setattr(encode, "MINILM_PACKAGE", "stands_in_for_minilm")
    with pytest.raises(UsageError, match="MiniLM needs its weights") as error:
        model_name("minilm", "")
    assert "someone else than its authors" in str(error.value.hint)
    package = tmp_path / "stands_in_for_minilm"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('nobody imports this')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert model_name("minilm", "") == str(package / "model") and "stands_in_for_minilm" not in sys.modules


# ---------------------------------------------------------------- the stage


def run(prepared: PreparedDataset, heard: Any, encoder: str | None, overrides: Sequence[str] = ()) -> StageRun:
    return run_stage(prepared.handle, embed_stage(prepared, encoder, overrides), progress=heard)


def table_of(done: StageRun) -> TextEmbeddings:
    return TextEmbeddings.load(done.product.folder / "text_emb.npz")


@pytest.fixture
def captioned(
    prepared: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Callable[..., Path]
) -> PreparedDataset:
    texts = {ONE: ["A street.", "Cars."], TWO: ["A street.", "Ein Haus, 街道."]}
    source = write_captions(tmp_path / "mine", texts, {ONE: ["car", "traffic sign"], TWO: ["car"]})
    run_stage(prepared.handle, caption_stage(prepared, None, source, progress=heard), progress=heard)
    return prepared


def test_every_text_once(captioned: PreparedDataset, heard: Any) -> None:
    done = run(captioned, heard, "hash")
    table = table_of(done)
    assert table.texts == ("A street.", "Cars.", "Ein Haus, 街道.", "car", "traffic sign")
    assert table.model == "hash-512" and table.template == "{phrase}" and table.emb.shape == (5, 512)
    assert (table.emb == HashEncoder(512).encode(table.texts).astype(np.float16)).all()
    assert table.phrase_rows(["A Car."]).tolist() == [3]
    (entry,) = done.product.done.values()
    assert (entry.info["texts"], entry.info["captions"], entry.info["phrases"]) == (5, 3, 2)
    assert run(captioned, heard, "hash").fresh == []
    done.product.trust(done.product.kinds)
    assert {item.name: item.state for item in dataset_status(captioned.handle)}["embed"] == "cached"


def test_another_encoder_or_other_captions(
    captioned: PreparedDataset, heard: Any, tmp_path: Path, write_captions: Callable[..., Path]
) -> None:
    first = run(captioned, heard, "hash").product
    narrow = run(captioned, heard, "hash", ["embed.width=64", "embed.template=this is a {phrase}"])
    assert narrow.product.key != first.key and table_of(narrow).emb.shape == (5, 64)
    assert "this is a car" in table_of(narrow).texts
    assert captioned.handle.product("caption").done  # type: ignore[union-attr]  captions are as they were
    source = write_captions(tmp_path / "others", {ONE: ["A road."]})
    run_stage(captioned.handle, caption_stage(captioned, None, source, progress=heard), progress=heard)
    assert {item.name: item.state for item in dataset_status(captioned.handle)}["embed"] == "stale"
    assert table_of(run(captioned, heard, "hash")).texts == ("A road.",)


def test_a_kill_loses_no_finished_batch(
    captioned: PreparedDataset, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = HashEncoder.encode, list[str]()

    def ill(self: HashEncoder, texts: Sequence[str]) -> Any:
        if len(asked) in stops:
            stops.remove(len(asked))
            raise KeyboardInterrupt
        asked.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(HashEncoder, "encode", ill)
    stops, interrupted, done = {2, 4}, 0, None
    while done is None:
        try:
            done = run(captioned, heard, "hash", ["embed.batch=2"])
        except KeyboardInterrupt:
            interrupted += 1
            (folder,) = (captioned.handle.folder / "embed").iterdir()
            (path,) = (folder / "partial").iterdir()
            path.write_bytes(path.read_bytes() + b"\x02\0\0\0\0\x02\0\0half a batch")
    assert interrupted == 2 and sorted(asked) == sorted(table_of(done).texts) and len(asked) == 5
    assert (table_of(done).emb == real(HashEncoder(512), table_of(done).texts).astype(np.float16)).all()
    assert not (done.product.folder / "partial").exists()


def test_clip_embeds_a_dataset(captioned: PreparedDataset, heard: Any, clip: Path, tmp_path: Path) -> None:
    done = run(captioned, heard, "clip", [f"embed.model={clip}"])
    table = table_of(done)
    assert table.emb.shape == (5, 24) and table.template == "a photo of a {phrase}."
    assert "a photo of a traffic sign." in table.texts and table.model == f"local:{clip.name}"
    moved = tmp_path / clip.name
    moved.symlink_to(clip)
    assert run(captioned, heard, "clip", [f"embed.model={moved}"]).fresh == []  # the same model elsewhere


def test_nothing_begins_without_the_model(
    captioned: PreparedDataset, heard: Any, transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="nothing is downloaded unasked"):
        run(captioned, heard, "clip", ["embed.model=openai/no-such-model"])
    assert captioned.handle.product("embed") is None


def test_what_cannot_be_embedded(
    captioned: PreparedDataset, prepared: PreparedDataset, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"no \{phrase\}"):
        run(captioned, heard, "hash", ["embed.template=a photo"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="needs transformers"):
        run(captioned, heard, "clip")


def test_captions_come_first(prepared: PreparedDataset, heard: Any) -> None:
    with pytest.raises(Ssl3dError, match="needs the product of 'caption'"):
        run(prepared, heard, "hash")


def test_generated_captions_are_hashed_unless_told_otherwise(
    prepared: PreparedDataset, pictured: Path, heard: Any, write_captions: Callable[..., Path]
) -> None:
    write_captions(pictured / "captions", {ONE: ["A street."]})
    run_stage(prepared.handle, caption_stage(prepared, progress=heard), progress=heard)
    assert embed_stage(prepared, None).params.encoder == "hash"
