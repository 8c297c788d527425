"""``ssl3d eval --predictions``: what other programs wrote, scored on the generated layouts of the datasets."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.cli import app
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.evaluation.instance_ap import MIN_POINTS, SCANNET_CLASSES

KINDS = {"scannet": "rooms", "s3dis": "rooms", "nuscenes": "street", "semantic3d": "street", "semanticposs": "street"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Layout -> (root, workspace) of a tiny generated dataset, prepared once."""
    place = tmp_path_factory.mktemp("layouts")

    def make(layout: str) -> tuple[Path, Path]:
        root, space = place / layout, place / f"{layout}-ws"
        if not root.exists():
            words = ["--layout", layout, "--preset", "tiny", "--out", str(root), "--jobs", "1"]
            assert app.run(["synth", KINDS[layout], *words]) == 0
            assert app.run(["prepare", layout, "--root", str(root), "--workspace", str(space), "--jobs", "1"]) == 0
        return root, space

    return make


def plain(panel: str) -> str:
    """What an error panel says, without its frame and blanks."""
    return "".join(panel.replace("│", "").split())


# ---------------------------------------------------------------- ScanNet


def annotated(root: Path, scan: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n,) NYU40 ids and (n,) objects (from 1) of a scan, read from its JSON files."""
    folder = root / "scans" / scan
    segment = np.array(json.loads((folder / f"{scan}_vh_clean_2.0.010000.segs.json").read_text())["segIndices"])
    table = {}
    with (root / "scannetv2-labels.combined.tsv").open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            table[row["raw_category"]] = int(row["nyu40id"])
    nyu40, number = np.zeros(len(segment), np.int64), np.zeros(len(segment), np.int64)
    for group in json.loads((folder / f"{scan}.aggregation.json").read_text())["segGroups"]:
        mine = np.isin(segment, group["segments"])
        nyu40[mine], number[mine] = table[group["label"]], group["objectId"] + 1
    return nyu40, number


def validation(root: Path) -> list[str]:
    return (root / "scannetv2_val.txt").read_text().split()


def write_instances(root: Path, out: Path) -> tuple[set[int], int]:
    """The truth of the validation scans as predicted instances; the classes with a large enough one, how many."""
    (out / "predicted_masks").mkdir(parents=True)
    classes, count = set(), 0
    for scan in validation(root):
        nyu40, number = annotated(root, scan)
        lines = []
        for instance in np.unique(number[number > 0]):
            mine = number == instance
            (label,) = set(nyu40[mine].tolist())
            mask = f"predicted_masks/{scan}_{instance:03d}.txt"
            np.savetxt(out / mask, mine, fmt="%d")
            lines.append(f"{mask} {label} {0.5 + instance / 1000:.4f}\n")
            if mine.sum() >= MIN_POINTS and label in NYU40_OF_INSTANCES:
                classes.add(label)
                count += 1
        (out / f"{scan}.txt").write_text("".join(lines))
    return classes, count


SCANNET = load_spec("scannet")
NYU40_OF_INSTANCES = [SCANNET.learning_map_inv[c] for c in SCANNET_CLASSES]


def test_the_truth_as_predicted_instances_scores_one(made, tmp_path: Path, ssl3d) -> None:
    root, space = made("scannet")
    classes, count = write_instances(root, tmp_path / "theirs")
    assert len(classes) > 5
    answer = ssl3d("eval", "--predictions", tmp_path / "theirs", "--report", "json", "--workspace", space)
    assert answer.code == 0, answer.err
    (run,) = json.loads(answer.out)["runs"]
    assert (run["run"], run["method"], run["protocol"]) == ("theirs", "predictions", "scannet-instance")
    assert (run["miou"], run["iou"]) == (None, {})
    found = run["instances"]
    assert (found["ap"], found["ap50"], found["ap25"]) == pytest.approx((100, 100, 100))
    names = {SCANNET.classes[c]: SCANNET.learning_map_inv[c] for c in SCANNET_CLASSES}
    assert set(found["classes"]) == set(names)
    for name, scores in found["classes"].items():
        if names[name] in classes:
            assert (scores["ap"], scores["ap50"], scores["ap25"]) == pytest.approx((100, 100, 100))
        else:
            assert (scores["ap"], scores["targets"]) == (None, 0)
    assert sum(scores["targets"] for scores in found["classes"].values()) == count


def test_a_table_of_instances_names_the_arithmetic_and_every_class(made, tmp_path: Path, ssl3d) -> None:
    root, space = made("scannet")
    write_instances(root, tmp_path / "theirs")
    scan = validation(root)[0]
    (tmp_path / "theirs" / f"{scan}.txt").write_text("")  # a scan without any instance
    where = ("--workspace", space)
    answer = ssl3d("eval", "--predictions", tmp_path / "theirs", *where)
    assert answer.code == 0, answer.err
    for word in ("scannet-instance", "AP50", "AP25", "bookshelf", "evaluate_semantic_instance.py", "files (scannet"):
        assert word in answer.out
    markdown = ssl3d("eval", "--predictions", tmp_path / "theirs", "--report", "markdown", *where).out
    rows = {
        metric: line for line in markdown.splitlines() for metric in ("AP", "AP50", "AP25") if f" {metric} |" in line
    }
    assert len(rows) == 3 and all(line.count("|") == 3 + 1 + 18 + 1 for line in rows.values())
    text = ssl3d("eval", "--predictions", tmp_path / "theirs", "--report", "csv", *where).out
    (line,) = csv.DictReader(text.splitlines())
    assert 0 < float(line["ap"]) <= float(line["ap50"]) <= float(line["ap25"]) < 100  # what is missed lowers the recall
    assert line["miou"] == "" and line["ap:bookshelf"] and "ap:wall" not in line


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("short", ("lines", "vertices", "predicted_masks/", "line 1")),
        ("float", ("not one whole number", "predicted_masks/", "'1.0'")),
        ("missing", ("a mask that is listed is not there", "predicted_masks/", "line 1")),
        ("fields", ("single blanks", "line 2")),
        ("outside", ("single blanks", "line 2")),
        ("twice", ("listed twice", "line 2")),
        ("nan", ("single blanks", "line 2")),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_instances_name_file_and_line(
    damage: str, told: tuple[str, ...], packed: bool, made, tmp_path: Path, ssl3d
) -> None:
    root, space = made("scannet")
    out = tmp_path / "theirs"
    write_instances(root, out)
    scan = validation(root)[-1]
    lines = (out / f"{scan}.txt").read_text().splitlines()
    mask, label, _ = lines[0].split(" ")
    if damage == "short":
        text = (out / mask).read_text().splitlines()
        (out / mask).write_text("\n".join(text[:-1]))
    elif damage == "float":
        (out / mask).write_text((out / mask).read_text().replace("1\n", "1.0\n", 1))
    elif damage == "missing":
        (out / mask).unlink()
    else:
        other = {
            "fields": f"{mask} {label}",
            "outside": f"../{mask} {label} 0.5",
            "twice": f"{mask} {label} 0.5",
            "nan": f"{lines[1].split(' ')[0]} {label} nan",
        }[damage]
        (out / f"{scan}.txt").write_text("\n".join([lines[0], other]) + "\n")
    place = tmp_path / "theirs.zip" if packed else out
    if packed:
        with zipfile.ZipFile(place, "w") as archive:
            for path in sorted(out.rglob("*.txt")):
                archive.write(path, path.relative_to(out).as_posix())
    answer = ssl3d("eval", "--predictions", place, "--workspace", space, "--debug")
    assert answer.code == 1
    said = plain(answer.err)
    assert all(word.replace(" ", "") in said for word in (*told, scan, place.name)), said


def test_classes_of_vertices_score_as_scannet_counts_them(made, tmp_path: Path, ssl3d) -> None:
    """Every third vertex is told to be an id that the benchmark does not have: a miss, and false for nobody."""
    root, space = made("scannet")
    out = tmp_path / "theirs"
    out.mkdir()
    hits, seen = np.zeros(41), np.zeros(41)
    for scan in validation(root):
        nyu40, _ = annotated(root, scan)
        told = nyu40.copy()
        told[::3] = 40
        np.savetxt(out / f"{scan}.txt", told, fmt="%d")
        seen += np.bincount(nyu40, minlength=41)
        hits += np.bincount(nyu40[told == nyu40], minlength=41)
    answer = ssl3d("eval", "--predictions", out, "--report", "json", "--workspace", space)
    assert answer.code == 0, answer.err
    (run,) = json.loads(answer.out)["runs"]
    assert run["protocol"] == "scannet" and "instances" not in run
    for c, name in enumerate(SCANNET.classes):
        raw = SCANNET.learning_map_inv[c]
        expected = 100 * hits[raw] / seen[raw] if seen[raw] else None
        assert run["iou"][name] == (None if expected is None else pytest.approx(expected))


# ---------------------------------------------------------------- the other layouts


def raw_truth(layout: str, root: Path) -> dict[str, npt.NDArray[np.integer]]:
    """File of a submission -> the true ids of all points, as the dataset's own files have them."""
    found: dict[str, npt.NDArray[np.integer]] = {}
    if layout == "semanticposs":
        for path in sorted((root / "sequences/02/labels").glob("*.label")):
            found[f"sequences/02/predictions/{path.name}"] = np.fromfile(path, "<u4") & 0xFFFF
    elif layout == "nuscenes":
        table = load_spec("nuscenes").lut()[0].astype(np.int64) + 1
        for path in sorted((root / "lidarseg/v1.0-mini").glob("*.bin")):
            found[f"lidarseg/val/{path.name}"] = table[np.fromfile(path, np.uint8)]
    else:
        for path in sorted(root.rglob("*.labels")):
            found[path.name] = np.loadtxt(path, dtype=np.int64)
    return found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["semanticposs", "nuscenes", "semantic3d"])
def test_the_truth_in_the_official_format_scores_one(layout: str, packed: bool, made, tmp_path: Path, ssl3d) -> None:
    root, space = made(layout)
    out = tmp_path / "theirs"
    for name, ids in raw_truth(layout, root).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if layout == "semantic3d":
            np.savetxt(out / name, ids, fmt="%d")
        else:
            told = np.where(ids == 256, 1, ids) if layout == "nuscenes" else ids  # points without a truth: anything
            told.astype(np.uint8 if layout == "nuscenes" else "<u4").tofile(out / name)
    place = tmp_path / "theirs.zip" if packed else out
    if packed:
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(path for path in out.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(out).as_posix())
    answer = ssl3d("eval", "--predictions", place, "--report", "json", "--workspace", space)
    assert answer.code == 0, answer.err
    (run,) = json.loads(answer.out)["runs"]
    occurring = [value for value in run["iou"].values() if value]
    assert len(occurring) > 3 and occurring == pytest.approx([100] * len(occurring))
    assert run["accuracy"] == pytest.approx(100)


@pytest.mark.parametrize("layout", ["semanticposs", "nuscenes", "semantic3d", "scannet", "s3dis"])
def test_written_predictions_score_as_their_run(layout: str, made, tmp_path: Path, ssl3d) -> None:
    """The way out (predict) and the way in (eval --predictions) agree to the last point, in every format."""
    _, space = made(layout)
    where = ("--workspace", space, "--jobs", "1")
    assert ssl3d("split", "--ratio", "40%", *where).code == 0
    train = ("train", "supervised", "--backbone", "minkunet-micro", "--steps", "1", "--set", "train.batch=1")
    assert ssl3d(*train, "--device", "cpu", *where).code == 0
    run = next((space / "runs").iterdir()).name
    forms = ["npz"] if layout == "s3dis" else [layout if layout != "semanticposs" else "semantickitti", "ply"]
    for form in forms:
        words = ("--out", tmp_path / form, "--subset", "val", "--format", form)
        assert ssl3d("predict", run, *words, *where).code == 0
    paths = [word for form in forms for word in ("--predictions", tmp_path / form)]
    answer = ssl3d("eval", run, *paths, "--report", "json", *where)
    assert answer.code == 0, answer.err
    *theirs, ours = json.loads(answer.out)["runs"]
    assert [run["run"] for run in theirs] == forms
    for found in theirs:
        assert {key: found[key] for key in ("protocol", "miou", "accuracy", "iou")} == {
            key: ours[key] for key in ("protocol", "miou", "accuracy", "iou")
        }


def test_what_is_missing_or_wrong_names_scan_and_file(made, tmp_path: Path, ssl3d) -> None:
    root, space = made("nuscenes")
    truth = raw_truth("nuscenes", root)
    out, where = tmp_path / "theirs", ("--workspace", space)
    (out / "lidarseg/val").mkdir(parents=True)
    for name, ids in truth.items():
        np.where(ids == 256, 1, ids).astype(np.uint8).tofile(out / name)
    wrong = {"deeper": tmp_path, "nothing": tmp_path / "nothing", "no zip": tmp_path / "a.txt"}
    (tmp_path / "a.txt").write_text("")
    for place, said in (("deeper", f"--predictions {out}"), ("nothing", "no predictions here"), ("no zip", ".zip")):
        answer = ssl3d("eval", "--predictions", wrong[place], *where)
        assert answer.code == 2 and said.replace(" ", "") in plain(answer.err), answer.err
    files = json.loads((root / "v1.0-mini/sample_data.json").read_text())
    scenes = {row["token"]: row["name"] for row in json.loads((root / "v1.0-mini/scene.json").read_text())}
    sample = {row["token"]: row for row in json.loads((root / "v1.0-mini/sample.json").read_text())}
    val = [
        row
        for row in files
        if row["is_key_frame"]
        and "LIDAR" in row["filename"]
        and scenes[sample[row["sample_token"]]["scene_token"]] in ("scene-0103", "scene-0916")
    ]
    name = out / f"lidarseg/val/{val[0]['token']}_lidarseg.bin"
    content = name.read_bytes()
    for damage, said in (
        (b"\0" + content[1:], "takes 1..16 only"),
        (content[:-1], f"{len(content) - 1} labels for {len(content)} points"),
        (None, "predictions are missing: 1 of"),
    ):
        name.unlink() if damage is None else name.write_bytes(damage)
        answer = ssl3d("eval", "--predictions", out, *where)
        told = plain(answer.err)
        assert answer.code == 1 and said.replace(" ", "") in told, answer.err
        assert val[0]["token"] in told and val[0]["sample_token"] in told
    for words in (
        ("--subset", "holdout"),
        ("--subset", "unlabelled"),
        ("--tta", "flip"),
        ("--pictures", "1"),
        ("--format", "kitti"),
    ):
        assert ssl3d("eval", "--predictions", out, *words, *where).code == 2
    assert ssl3d("eval", "--format", "nuscenes", *where).code == 2


def test_train_ids_in_the_place_of_original_ones_are_remarked(made, tmp_path: Path, ssl3d) -> None:
    root, space = made("semanticposs")
    lut = load_spec("semanticposs").lut()[0]
    for name, ids in raw_truth("semanticposs", root).items():
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (lut[ids].astype("<u4") + 100).tofile(tmp_path / "theirs" / name)
    answer = ssl3d("eval", "--predictions", tmp_path / "theirs", "--report", "json", "--workspace", space)
    assert answer.code == 0
    assert json.loads(answer.out)["runs"][0]["miou"] < 1
    assert "idsthatSemanticPOSSdoesnothave" in plain(answer.err)


def test_several_formats_in_one_folder_have_to_be_chosen_from(made, tmp_path: Path, ssl3d) -> None:
    root, space = made("scannet")
    write_instances(root, tmp_path / "theirs")
    for scan in validation(root):
        nyu40, _ = annotated(root, scan)
        np.savez(tmp_path / "theirs" / f"{scan}.npz", points=np.zeros((len(nyu40), 3)), label=nyu40)
    answer = ssl3d("eval", "--predictions", tmp_path / "theirs", "--workspace", space)
    assert answer.code == 2 and "--format scannet" in answer.err
    for form, key in (("npz", "miou"), ("scannet-instance", "instances")):
        words = ("--format", form, "--report", "json", "--workspace", space)
        answer = ssl3d("eval", "--predictions", tmp_path / "theirs", *words)
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["runs"][0][key]
    np.savetxt(tmp_path / "theirs" / f"{validation(root)[0]}.txt", [1, 2, 3], fmt="%d")
    for words in ((), ("--format", "scannet-instance"), ("--format", "scannet")):
        for path in (tmp_path / "theirs").glob("*.npz"):
            path.unlink()
        assert ssl3d("eval", "--predictions", tmp_path / "theirs", *words, "--workspace", space).code == 1
