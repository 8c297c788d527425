"""What methods count on its way through the log's window: over steps, checkpoints and processes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl3d.models.methods.base import Method
from ssl3d.models.monitors import Measures
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.distributed import Team
from ssl3d.pipeline.training.metrics import MetricsLog, Window
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace


class Counting(Method):
    name = "counting"
    class_measures = ("sure",)
    mean_measures = ("norm",)


class Silent(Method):
    name = "silent"


def counting(kind: type[Method] = Counting) -> Method:
    return kind(None, None, 2)  # type: ignore[arg-type]


def count(method: Method, hit: list[bool], label: list[int], norm: float) -> None:
    method.measures.add_classes("sure", torch.tensor(hit), torch.tensor(label))
    method.measures.add("norm", torch.tensor([norm]))


def test_a_window_sums_until_it_is_cleared() -> None:
    window, method = Window(2), counting()
    count(method, [True], [0], 1.0)
    window.take(method, Team())
    count(method, [False, True], [0, 1], 4.0)
    window.take(method, Team())
    window.take(method, Team())  # nothing since
    assert window.measured is not None
    assert method.measures.describe(window.measured) == {
        "classes": {"sure": [0.5, 1.0]},
        "means": {"norm": 2.5},
    }
    window.clear()
    assert window.measured is None


def test_a_method_that_measures_nothing_leaves_nothing() -> None:
    window = Window(2)
    window.take(counting(Silent), Team())
    assert window.measured is None and window.state_dict()["measured"] is None


def test_a_window_goes_through_a_checkpoint_that_runs_no_code() -> None:
    window, method = Window(2), counting()
    count(method, [True, False], [1, 1], 3.0)
    window.take(method, Team())
    file = io.BytesIO()
    torch.save(window.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = Window(2)
    other.load_state_dict(state)
    assert np.array_equal(other.measured, window.measured)
    count(method, [True, True], [1, 0], 5.0)
    for item in (window, other):
        before = item.measured.copy()
        assert np.array_equal(before, np.array([[0, 1, 3], [0, 2, 1]]))
    other.take(method, Team())
    assert np.array_equal(window.measured, before)  # not the same array
    described = method.measures.describe(other.measured)
    assert described == {"classes": {"sure": [1.0, pytest.approx(2 / 3, rel=1e-4)]}, "means": {"norm": 4.0}}
    del state["measured"]  # written by an earlier version
    other.load_state_dict(state)
    assert other.measured is None


def test_several_processes_sum_what_each_has_counted() -> None:
    class Two(Team):
        def sum(self, value: Any) -> Any:
            return value + given[value.shape]

    method, theirs = counting(), Measures(2, ("sure",), ("norm",))
    theirs.add_classes("sure", torch.tensor([False, False]), torch.tensor([0, 1]))
    given = {(2, 2): np.zeros((2, 2), np.int64), (3,): np.zeros(3, np.int64), (2, 3): theirs.take()}
    count(method, [True], [0], 7.0)  # the other one has no norm
    window = Window(2)
    window.take(method, Two())
    described = method.measures.describe(window.measured)
    assert described == {"classes": {"sure": [0.5, 0.0]}, "means": {"norm": 7.0}}


def line(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "losses": {"ce": 1.0}, "lr": 0.1, "visible_miou": None, "scans_per_s": 1.0, "memory_mb": 1.0,
            **more}  # fmt: skip


def test_tensorboard_has_means_and_the_share_of_pseudo_labels(tmp_path: Any) -> None:
    log = MetricsLog(tmp_path, 0)
    pseudo = {"share": 0.25, "classes": [0.5, 0.5], "visible": [1.0, 0.0]}
    log.write(line(1))
    log.write(
        line(2, pseudo_labels=pseudo, measures={"classes": {"sure": [0.1, None]}, "means": {"a": 3.0, "b": None}})
    )
    log.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith(("measures", "pseudo"))
    }
    assert found == {"pseudo labels/share used": [(2, 0.25)], "measures/a": [(2, 3.0)]}


def test_a_resumed_run_logs_the_measures_of_one_that_was_not_stopped(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint lies between two lines of the log."""
    from ssl3d.data.errors import Ssl3dError
    from ssl3d.pipeline.training import checkpoint

    keys = ["train.workers=0", "train.checkpoint_every=3", "train.log_every=4", "train.batch=1"]
    config = resolve("measuring", backbone="pointwise", steps=8, overrides=keys)
    real, left = checkpoint.save_last, [1]

    def save_last(folder: Any, value: Any) -> None:
        if not left[0]:
            raise Ssl3dError("stopped")
        left[0] -= 1
        real(folder, value)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_last", save_last)
        with pytest.raises(Ssl3dError, match="stopped"):
            train(space, config, device="cpu", jobs=1)
    resumed = [item["measures"] for item in train(space, config, device="cpu", jobs=1).metrics()]
    whole = train(space, config, overwrite=True, device="cpu", jobs=1)
    assert resumed == [item["measures"] for item in whole.metrics()]
    assert len(resumed) == 2
    for measures in resumed:
        assert [share is None for share in measures["classes"]["every third"]].count(False) == 4  # classes of the scans
        assert measures["means"]["never"] is None
    # rows 0 .. 399, each as often; and the odd steps alone: their scans are drawn anew
    assert resumed[0]["means"]["row"] == pytest.approx(199.5, rel=1e-3)
