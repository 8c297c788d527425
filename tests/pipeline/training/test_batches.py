from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, NoElementsError
from ssl3d.models.methods.supervised import Supervised, SupervisedParams
from ssl3d.pipeline.training.batches import BatchMaker, Stream, plain


@dataclass
class Memory:
    """Scans in memory; scan i has ``sizes[i]`` points and label i."""

    sizes: list[int]
    labelled: bool = True
    broken: dict[int, str] = field(default_factory=dict)

    def view(self, index: int) -> View:
        if self.broken.get(index) == "data":
            raise DataError("the file is damaged", where={"file": "x.h5"})
        if self.broken.get(index) == "other":
            raise OSError("no such device")
        n = self.sizes[index]
        rng = np.random.default_rng(index)
        return View(
            points=rng.normal(0, 10, (n, 3)).astype(np.float32),
            features={"intensity": rng.random((n, 1), dtype=np.float32)},
            rows=np.stack([np.full(n, index), np.arange(n)], 1),
            label=np.full(n, index if self.labelled else IGNORE, np.uint8),
        )


@pytest.fixture
def maker(plugin: str) -> BatchMaker:
    from ssl3d_test_pointwise import PointSpec

    ids = [f"00/{i:06d}" for i in range(4)]
    return BatchMaker(
        method=Supervised,
        params=SupervisedParams(),
        input_spec=PointSpec(),
        augmentation=Augmentation(AugmentParams(drop=0.3)),
        labelled=Stream(Memory([50, 60, 70, 80]), range(4), ids, 2),
        unlabelled=Stream(Memory([50, 60, 70, 80], labelled=False), range(4), ids, 3),
        seed=5,
    )


def broken(maker: BatchMaker, kind: str) -> BatchMaker:
    source = Memory([50] * 4, broken=dict.fromkeys(range(4), kind))
    return replace(maker, labelled=replace(maker.labelled, source=source))


def with_sizes(maker: BatchMaker, sizes: list[int]) -> BatchMaker:
    return replace(maker, labelled=replace(maker.labelled, source=Memory(sizes)))


def test_a_pure_function_of_the_step(maker: BatchMaker) -> None:
    again = pickle.loads(pickle.dumps(maker))
    for step in (0, 7):
        a, b = maker(step).groups, again(step).groups
        assert a is not None
        assert b is not None
        assert a.keys() == b.keys() == {"labelled", "unlabelled"}
        for name in a:
            assert torch.equal(a[name].features, b[name].features)
            assert torch.equal(a[name].rows, b[name].rows)
    first, other = maker(0).groups, replace(maker, seed=6)(0).groups
    assert first is not None
    assert other is not None
    assert not np.array_equal(first["labelled"].rows.numpy(), other["labelled"].rows.numpy())


def test_scans_are_named_and_counted(maker: BatchMaker) -> None:
    batch = maker(0)
    assert len(batch.scans) == 5
    assert batch.groups is not None
    drawn = batch.groups["labelled"].rows[:, 0].unique().tolist()
    assert sorted(batch.scans[:2]) == [f"00/{i:06d}" for i in drawn]
    assert (batch.groups["unlabelled"].label == IGNORE).all()


def test_max_points_thins_every_scan(maker: BatchMaker) -> None:
    groups = replace(maker, max_points=20, augmentation=Augmentation(AugmentParams()))(0).groups
    assert groups is not None
    assert groups["labelled"].view_offsets.tolist() == [0, 20, 40]


def test_empty_scans_are_left_out_and_an_empty_batch_is_no_error(maker: BatchMaker) -> None:
    one = with_sizes(maker, [0, 0, 0, 40])
    full = [batch for batch in map(one, range(4)) if batch.groups is not None]
    assert full
    assert all(len(batch.groups["labelled"].view_offsets) == 2 for batch in full if batch.groups)
    batch = with_sizes(maker, [0, 0, 0, 0])(0)
    assert batch.groups is None
    assert "no scan of a group has a point" in batch.why
    assert len(batch.scans) == 5


def test_a_single_element_is_skipped(maker: BatchMaker) -> None:
    batch = replace(with_sizes(maker, [1] * 4), labelled=Stream(Memory([1] * 4), [0], ["00/000000"], 1))(0)
    assert batch.groups is None
    assert "single element" in batch.why


def test_a_batch_beyond_the_range_is_skipped(maker: BatchMaker) -> None:
    class Blind(type(maker.input_spec)):  # type: ignore[misc]
        def prepare(self, views: Sequence[View]) -> Inputs:
            raise NoElementsError("nothing within the range")

    batch = replace(maker, input_spec=Blind())(0)
    assert batch.groups is None
    assert "within the range" in batch.why


def test_errors_name_the_scan(maker: BatchMaker) -> None:
    with pytest.raises(DataError) as caught:
        broken(maker, "data")(0)
    assert caught.value.where["scan"].startswith("00/")
    assert caught.value.where["file"] == "x.h5"
    with pytest.raises(Ssl3dError, match="OSError: no such device") as other:
        broken(maker, "other")(3)
    assert other.value.where["step"] == 3


def test_an_error_of_the_method_names_all_scans(maker: BatchMaker) -> None:
    class Wrong(Supervised):
        @classmethod
        def views(cls, *args: object, **kwargs: object) -> dict[str, list[View]]:
            raise IndexError("no such crop")

    with pytest.raises(Ssl3dError, match="IndexError: no such crop") as caught:
        replace(maker, method=Wrong)(0)
    assert str(caught.value.where["scans"]).count("00/") == 5


def test_plain_and_map(maker: BatchMaker) -> None:
    groups = maker(0).groups
    assert groups is not None
    inputs = groups["labelled"]
    kept = plain(inputs)
    assert torch.equal(kept["features"], inputs.features)
    assert kept["num_elements"] == inputs.elements.num_elements
    doubled = inputs.map(lambda tensor: tensor * 2)
    assert torch.equal(doubled.features, inputs.features * 2)
    assert torch.equal(doubled.elements.point_to_element, inputs.elements.point_to_element * 2)


def test_views_are_told_the_phase_of_their_step(maker: BatchMaker) -> None:
    class Tells(Supervised):
        @classmethod
        def views(cls, params, labelled, unlabelled, augment, rng, phase=0):  # type: ignore[no-untyped-def]
            return {f"phase {phase}": list(labelled)}

    phased = replace(maker, method=Tells, phase_ends=(2, 2, 5))  # the second phase has no steps
    names = [next(iter(phased(step).groups or {})) for step in range(5)]
    assert names == ["phase 0", "phase 0", "phase 2", "phase 2", "phase 2"]


def test_views_of_one_group_have_the_same_extras(maker: BatchMaker) -> None:
    class Uneven(Supervised):
        @classmethod
        def views(cls, params, labelled, unlabelled, augment, rng, phase=0):  # type: ignore[no-untyped-def]
            unlabelled[0].extras["guess"] = unlabelled[0].label
            return {"all": [*labelled, *unlabelled]}

    with pytest.raises(Ssl3dError, match=r"the extras \[\] and with \['guess'\]"):
        replace(maker, method=Uneven)(0)
