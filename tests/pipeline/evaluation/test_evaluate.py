from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import Segmenter
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation import evaluate as module
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.evaluate import cached_result, evaluate, result_path
from ssl3d.pipeline.evaluation.predictor import Predictor
from ssl3d.pipeline.evaluation.protocols import semantickitti
from ssl3d.pipeline.evaluation.subject import Subject
from ssl3d.pipeline.evaluation.write import predict
from ssl3d.pipeline.progress import Silent

MakeSubject = Callable[..., Subject]
Official = Callable[[list[Path], list[Path]], tuple[float, float, list[float]]]


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("reach", [1e6, 25.0])
def test_scores_are_those_of_the_official_evaluator_on_the_written_files(
    prepared: PreparedDataset,
    make_subject: MakeSubject,
    kitti_root: Path,
    tmp_path: Path,
    official_scores: Official,
    reach: float,
) -> None:
    subject = make_subject(reach=reach)
    result = evaluate(prepared, subject, jobs=2)
    written = predict(prepared, subject, tmp_path / "out", subsets=["val"])
    truth = sorted((kitti_root / "dataset/sequences/08/labels").glob("*.label"))
    files = sorted((tmp_path / "out/sequences/08/predictions").glob("*.label"))
    assert [file.name for file in files] == [file.name for file in truth]
    miou, accuracy, iou = official_scores(truth, files)
    scores = result.scores("semantickitti")
    assert (scores.miou, scores.accuracy) == pytest.approx((miou, accuracy))
    assert scores.iou == pytest.approx(iou)
    assert result.points == written.points == sum(file.stat().st_size // 4 for file in truth)
    assert (result.scans, result.step, result.split, result.subset) == (66, 7, "1pct", "val")
    assert result.scores("nanmean").miou > 0.1


RAW_IDS = st.sampled_from(sorted(load_spec("semantickitti").learning_map))
WORDS = st.builds(lambda raw, instance: raw | instance << 16, RAW_IDS, st.integers(0, 0xFFFF))


@given(st.lists(st.lists(st.tuples(WORDS, WORDS), max_size=40), min_size=1, max_size=3))
def test_any_pair_of_label_files_scores_as_the_official_evaluator(
    official_scores: Official, scans: list[list[tuple[int, int]]]
) -> None:
    """Predictions of any raw id here, "unlabeled" and moving classes included."""
    spec = load_spec("semantickitti")
    table = spec.lut()[0]
    confusion = Confusion(spec.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, list[Path]] = {"truth": [], "prediction": []}
        for i, words in enumerate(scans):
            arrays = {"truth": [word for word, _ in words], "prediction": [word for _, word in words]}
            for kind, values in arrays.items():
                path = Path(folder) / f"{kind}{i}.label"
                np.array(values, "<u4").tofile(path)
                files[kind].append(path)
            read = {kind: table[np.array(values, np.uint32) & 0xFFFF] for kind, values in arrays.items()}
            confusion.add(read["prediction"], read["truth"])
        miou, accuracy, iou = official_scores(files["truth"], files["prediction"])
    scores = semantickitti(confusion)
    assert (scores.miou, scores.accuracy, *scores.iou) == pytest.approx((miou, accuracy, *iou))


def test_a_result_is_kept_until_checkpoint_data_or_scans_change(
    prepared: PreparedDataset, make_subject: MakeSubject
) -> None:
    calls: list[str] = []
    subject = make_subject(calls)
    heard = Heard()
    assert cached_result(prepared, subject) is None
    first = evaluate(prepared, subject, progress=heard)
    assert evaluate(prepared, subject, progress=heard) == first == cached_result(prepared, subject)
    assert (len(calls), heard.said) == (1, [])
    other = replace(subject, digest="5678")
    assert cached_result(prepared, other) is None
    evaluate(prepared, other, progress=heard)
    assert len(calls) == 2
    assert "changed" in heard.said[0]
    evaluate(prepared, other, progress=heard, overwrite=True)
    assert (len(calls), len(heard.said)) == (3, 1)
    evaluate(prepared, other, subset="train")
    assert result_path(other, "train").exists()
    assert not list((subject.folder / "eval").glob("*.partial"))


class Killed(BaseException):
    pass


class Killer(Silent):
    """Ends the process, so to speak, after a number of scans."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Any:
        yield self

    def advance(self, amount: float = 1) -> None:
        self.left -= int(amount)
        if self.left < 0:
            raise Killed

    def note(self, text: str) -> None: ...


def scans_predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which scans the network looks at from now on."""
    seen: list[str] = []
    original = Predictor.predictions

    def predictions(self: Predictor, keys: Any, load: Any) -> Any:
        keys = list(keys)
        seen.extend(scan.scan_id for scan in keys)
        return original(self, keys, load)

    monkeypatch.setattr(Predictor, "predictions", predictions)
    return seen


@pytest.mark.parametrize(("after", "left"), [(10, 66), (64, 2), (65, 2)])
def test_a_kill_loses_at_most_one_unit(
    prepared: PreparedDataset, make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch, after: int, left: int
) -> None:
    whole = evaluate(prepared, make_subject(folder=make_subject().folder.with_name("whole")))
    with pytest.raises(Killed):
        evaluate(prepared, make_subject(), progress=Killer(after))
    assert cached_result(prepared, make_subject()) is None
    seen = scans_predicted(monkeypatch)
    assert evaluate(prepared, make_subject()).confusion == whole.confusion
    assert len(seen) == left


def test_counts_of_another_checkpoint_and_damaged_counts_are_not_used(
    prepared: PreparedDataset, make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(prepared, make_subject(folder=make_subject().folder.with_name("whole")))
    with pytest.raises(Killed):
        evaluate(prepared, make_subject(), progress=Killer(64))
    with pytest.raises(Killed):
        evaluate(prepared, make_subject(digest="5678"), progress=Killer(64))
    seen = scans_predicted(monkeypatch)
    folder = make_subject().folder / "eval"
    (kept,) = folder.glob("*.partial/*/*.json")
    for damaged in ("", "{}", kept.read_text().replace('"ignored": ', '"ignored": 1')):
        seen.clear()
        kept.write_text(damaged)
        heard = Heard()
        with pytest.raises(Killed):
            evaluate(prepared, make_subject(digest="5678"), progress=Killer(64))
        assert len(seen) == 66
    kept.write_text("{}")
    heard = Heard()
    assert evaluate(prepared, make_subject(digest="5678"), progress=heard).confusion == whole.confusion
    assert heard.said == [f"the counts of {kept.stem} are damaged: counting again"]


def test_a_new_version_of_the_evaluation_makes_results_stale(
    prepared: PreparedDataset, make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(prepared, make_subject())
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert cached_result(prepared, make_subject()) is None


def test_subsets_without_scans_or_labels_say_what_to_do(prepared: PreparedDataset, make_subject: MakeSubject) -> None:
    with pytest.raises(UsageError, match="ssl3d predict"):
        evaluate(prepared, make_subject(), subset="test")
    with pytest.raises(UsageError, match="2 train, 66 val, 3 test"):
        evaluate(prepared, make_subject(), subset="vla")


def test_a_network_for_other_classes_is_refused(prepared: PreparedDataset, make_subject: MakeSubject) -> None:
    classes = load_spec("semantickitti").classes
    for other in (classes[:-1], (classes[1], classes[0], *classes[2:])):
        with pytest.raises(DataError, match="a-run"):
            evaluate(prepared, make_subject(classes=other))


def test_the_number_of_threads_is_given_back(prepared: PreparedDataset, make_subject: MakeSubject) -> None:
    import torch

    before = torch.get_num_threads()
    during: list[int] = []

    def load(device: str) -> Segmenter:
        during.append(torch.get_num_threads())
        raise Killed

    for jobs in (1, 3):
        with pytest.raises(Killed):
            evaluate(prepared, make_subject(load=load), jobs=jobs)
    assert (during, torch.get_num_threads()) == ([1, 3], before)
