from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.drawing import from_above, range_colors
from ssl3d.pipeline.evaluation.curves import class_bars, learning_curves, running_mean
from ssl3d.pipeline.evaluation.gallery import draw_scans, spread
from ssl3d.pipeline.evaluation.pictures import class_colors, error_colors, scan_picture
from ssl3d.pipeline.evaluation.result import EvalResult
from ssl3d.pipeline.evaluation.subject import Subject

SPEC = load_spec("semantickitti")
RED, GREEN = (255, 75, 75), (46, 140, 105)


def u8(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def has(path: Path, color: tuple[int, int, int], size: int = 30) -> bool:
    """Whether the picture has many pixels of exactly this color, above the legend."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return int((pixels[: int(0.88 * len(pixels))] == np.array(color)).all(axis=2).sum()) >= size


def test_colors_of_classes_and_errors() -> None:
    assert class_colors(u8(0, 18, IGNORE), SPEC).tolist() == [
        SPEC.colors[0].tolist(),
        SPEC.colors[18].tolist(),
        [72, 79, 88],
    ]
    colors = error_colors(u8(0, 0, IGNORE), u8(0, 1, 0))
    assert [tuple(color) for color in colors.tolist()] == [GREEN, RED, (72, 79, 88)]


def test_from_above_forward_is_up_left_is_left_and_later_points_cover() -> None:
    points = np.array([[9, 0, 0], [0, 9, 0], [-9, -9, 0], [-9, -9, 1], [0, 99, 0], [np.nan, 0, 0]], np.float32)
    colors = np.arange(1, 7, dtype=np.uint8).repeat(3).reshape(-1, 3)
    image = from_above(points, colors, reach=10, pixels=20)[..., 0]
    assert image[1, 10] == 1  # ahead: top middle
    assert image[10, 1] == 2  # left: left middle
    assert image[19, 19] == 4  # behind right, the later of two
    assert not np.isin([3, 5, 6], image).any()


def test_range_image_ahead_is_in_the_middle_left_is_left_and_the_nearest_wins() -> None:
    points = np.array([[20, 0, -1], [10, 0, -0.5], [0, 10, 0], [np.inf, 0, 0]], np.float32)
    colors = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]], np.uint8)
    image = range_colors(points, colors, SPEC.sensor)
    height, width = image.shape[:2]
    found = {value: np.argwhere(image[..., 0] == value) for value in (1, 2, 3, 4)}
    assert [len(found[value]) for value in (1, 2, 3, 4)] == [0, 1, 1, 0]
    assert abs(found[2][0][1] - width / 2) <= 1
    assert abs(found[3][0][1] - width / 4) <= 1
    assert found[2][0][0] > found[3][0][0]  # lower
    assert height == 64


def test_a_picture_shows_truth_prediction_and_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(-30, 30, (4000, 2)), rng.uniform(-1.5, 0, 4000)].astype(np.float32)
    truth = np.where(points[:, 0] > 0, 8, 12).astype(np.uint8)  # road, building
    road, building, car = (tuple(SPEC.colors[i].tolist()) for i in (8, 12, 0))
    right = scan_picture(points, truth, truth, SPEC, tmp_path / "a" / "right.png", title="08/000000")
    assert has(right, road) and has(right, building) and has(right, GREEN)
    assert not has(right, RED) and not has(right, car)
    wrong = scan_picture(points, truth, np.zeros_like(truth), SPEC, tmp_path / "wrong.png", title="08/000000")
    assert has(wrong, RED) and has(wrong, car) and not has(wrong, GREEN)
    width, height = Image.open(wrong).size
    assert width >= 1500 and height >= 1000


def test_without_a_sensor_there_is_no_range_image_and_the_scan_is_in_the_middle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((200, 300, 0), (206, 304, 2), (4000, 3)).astype(np.float32)
    truth = np.where(points[:, 0] > 203, 8, 12).astype(np.uint8)
    room = scan_picture(points, truth, truth, replace(SPEC, sensor=None), tmp_path / "room.png", title="room")
    width, height = Image.open(room).size
    assert width >= 1500 and height < 900
    assert has(room, tuple(SPEC.colors[8].tolist()), 3000) and has(room, GREEN, 3000)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_scans_without_points_labels_or_places_can_be_drawn(tmp_path: Path, count: int) -> None:
    points = np.full((count, 3), np.nan, np.float32)
    points[: count // 2] = 1
    path = scan_picture(
        points, np.full(count, IGNORE, np.uint8), np.zeros(count, np.uint8), SPEC, tmp_path / "x.png", title="x"
    )
    assert path.stat().st_size > 0
    assert not has(path, RED) and not has(path, GREEN)


def metrics(steps: int, offset: float = 0.0, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "step": 10 * i,
            "losses": {"ce": 2 + offset - i / steps},
            "lr": 0.01,
            "visible_miou": None if i % 2 else 50.0 * i / steps,
            **more,
        }
        for i in range(1, steps + 1)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every matplotlib figure that is saved during the test."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    original = Figure.savefig

    def savefig(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    yield figures


def test_learning_curves_hold_every_loss_of_every_run(tmp_path: Path, drawn: list[Any]) -> None:
    both = metrics(100, losses={"ce": 1.0, "lovasz": 0.5})
    path = learning_curves({"a": metrics(100), "b": both, "new": []}, tmp_path / "curves.png")
    losses, visible, rate = drawn[0].axes
    assert [len(axes.get_lines()) for axes in (visible, rate)] == [4, 2]  # faint and smooth; as it is
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["ce", "lovasz"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b"]
    assert rate.get_lines()[0].get_ydata().tolist() == [0.01] * 100
    assert Image.open(path).size[0] == 1500


def test_what_methods_measure_has_panels_of_its_own(tmp_path: Path, drawn: list[Any]) -> None:
    pseudo = {"share": 0.25, "classes": [1.0, 0.0], "visible": [0.5, 0.5]}
    measures = {"classes": {"sure": [0.2, None, 0.4], "right": [None, None, None]}, "means": {"density": -0.5}}
    runs = {"a": metrics(4, pseudo_labels=pseudo, measures=measures), "plain": metrics(4)}
    learning_curves(runs, tmp_path / "curves.png")
    *_, used, shares, mean = drawn[0].axes
    assert [axes.get_title(loc="left").partition("  ")[0] for axes in (used, shares, mean)] == [
        "unlabelled elements that are used, %", "shares, mean over the classes, %", "density",
    ]  # fmt: skip
    assert used.get_lines()[0].get_ydata().tolist() == [25.0] * 4
    assert shares.get_lines()[0].get_ydata().tolist() == pytest.approx([30.0] * 4)
    assert [text.get_text() for text in shares.get_legend().get_texts()] == ["sure", "right"]
    assert mean.get_lines()[0].get_ydata().tolist() == [-0.5] * 4 and mean.get_ylim()[0] < -0.5


def test_curves_of_one_line_or_none(tmp_path: Path) -> None:
    assert learning_curves({"a": metrics(1)}, tmp_path / "one.png").exists()
    with pytest.raises(UsageError, match="ssl3d train"):
        learning_curves({"a": []}, tmp_path / "none.png")


def test_running_mean() -> None:
    assert running_mean([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    assert running_mean([1, 2, 3], 10) == [1, 1.5, 2]


def test_class_bars_are_the_iou(tmp_path: Path, drawn: list[Any], make_result: Callable[..., EvalResult]) -> None:
    results = [make_result("a"), make_result("b", (1000, 1000, 1000))]
    class_bars(results, "nanmean", tmp_path / "bars.png")
    heights = [bar.get_height() for bar in drawn[0].axes[0].patches]
    scores = [result.scores("nanmean") for result in results]
    assert heights == pytest.approx([100 * value for score in scores for value in (score.miou, *score.iou)])
    with pytest.raises(UsageError, match="one dataset"):
        class_bars([results[0], make_result("c", subset="train")], "nanmean", tmp_path / "no.png")


def test_a_gallery_spreads_over_the_subset_and_keeps_what_is_drawn(
    prepared: PreparedDataset, make_subject: Callable[..., Subject], tmp_path: Path
) -> None:
    calls: list[str] = []
    paths = draw_scans(prepared, make_subject(calls), 2, jobs=2)
    assert [path.name.rsplit("-", 1)[0] for path in paths] == ["val-08-000016", "val-08-000049"]
    assert all(path.parent == make_subject().folder / "pictures" and has(path, GREEN) for path in paths)
    assert draw_scans(prepared, make_subject(calls), 2) == paths
    assert len(calls) == 1
    other = draw_scans(prepared, make_subject(calls, digest="5678"), 2)
    assert len(calls) == 2 and not set(other) & set(paths)
    (one,) = draw_scans(prepared, make_subject(), 1, subset="train", folder=tmp_path / "mine")
    assert one.parent == tmp_path / "mine" and one.name.startswith("train-00-000001")
    assert [scan.scan_id for scan in spread(prepared.subset("train"), 99)] == ["00/000000", "00/000001"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.real
def test_a_real_scan_fills_its_picture(real_kitti: Path, tmp_path: Path) -> None:
    folder = real_kitti / "dataset" / "sequences" / "00"
    points = np.fromfile(folder / "velodyne" / "000000.bin", "<f4").reshape(-1, 4)[:, :3]
    truth = SPEC.lut()[0][np.fromfile(folder / "labels" / "000000.label", "<u4") & 0xFFFF]
    prediction = np.where(truth == IGNORE, 0, truth).astype(np.uint8)
    prediction[points[:, 0] > 5] = 13
    path = scan_picture(points, truth, prediction, SPEC, tmp_path / "real.png", title="00/000000")
    assert has(path, GREEN, 20_000) and has(path, RED, 20_000) and has(path, tuple(SPEC.colors[8].tolist()), 20_000)
    sides = range_colors(points, class_colors(truth, SPEC), SPEC.sensor)
    assert (sides != np.array([13, 17, 23])).any(axis=2).mean() > 0.7
