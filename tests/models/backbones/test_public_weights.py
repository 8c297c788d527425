"""Published MinkUNets: state dicts written here in MinkowskiEngine's naming, every variant, and every misfit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import DataError, UsageError
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.public_weights import hybrid_to_cube, prefixes, read_minkunet
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.sparse import kernel_offsets

State = dict[str, Tensor]
LAYERS = {14: (1,) * 8, 18: (2,) * 8, 34: (2, 3, 4, 6, 2, 2, 2, 2)}


def published(
    layers: tuple[int, ...] = LAYERS[14],
    decoder: tuple[int, ...] = (256, 128, 96, 96),
    inputs: int = 3,
    classes: int | None = 20,
    stem: int = 5,
    width: float = 0.25,
) -> State:
    """The state dict of MinkowskiEngine's ``MinkUNetBase``, layer after layer as its source has them."""
    generator = torch.Generator().manual_seed(0)
    planes = [int(p * width) for p in (32, 64, 128, 256, *decoder)]
    state: State = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shape = (inputs, outputs) if kernel == 1 else (kernel**3, inputs, outputs)
        state[f"{name}.kernel"] = torch.randn(shape, generator=generator) * 0.05

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{part}"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def block(name: str, inputs: int, outputs: int, count: int) -> None:
        for i in range(count):
            source = inputs if i == 0 else outputs
            conv(f"{name}.{i}.conv1", source, outputs, 3)
            norm(f"{name}.{i}.norm1", outputs)
            conv(f"{name}.{i}.conv2", outputs, outputs, 3)
            norm(f"{name}.{i}.norm2", outputs)
            if source != outputs:
                conv(f"{name}.{i}.downsample.0", source, outputs, 1)
                norm(f"{name}.{i}.downsample.1", outputs)

    channels = first = int(32 * width)
    conv("conv0p1s1", inputs, channels, stem)
    norm("bn0", channels)
    for level in range(4):
        conv(f"conv{level + 1}p{2**level}s2", channels, channels, 2)
        norm(f"bn{level + 1}", channels)
        block(f"block{level + 1}", channels, planes[level], layers[level])
        channels = planes[level]
    for level, skip in zip(range(4, 8), (planes[2], planes[1], planes[0], first), strict=True):
        conv(f"convtr{level}p{2 ** (8 - level)}s2", channels, planes[level], 2)
        norm(f"bntr{level}", planes[level])
        block(f"block{level + 1}", planes[level] + skip, planes[level], layers[level])
        channels = planes[level]
    if classes is not None:
        conv("final", channels, classes, 1)
        state["final.bias"] = torch.randn(1, classes, generator=generator)
    return state


@pytest.mark.parametrize(
    ("made", "name", "params", "numbers"),
    [
        ({"width": 1}, "minkunet14", {"stem": "conv5", "features": ("color",)}, 11_580_852),
        (
            {"layers": LAYERS[18], "inputs": 4, "classes": 19, "stem": 3, "width": 0.5},
            "minkunet18",
            {"stem": "conv5", "stem_kernel": 3, "width": 0.5},
            None,
        ),
        (
            {"layers": LAYERS[34], "width": 0.25},
            "minkunet34",
            {"stem": "conv5", "features": ("color",), "width": 0.25},
            None,
        ),
        (
            {"layers": LAYERS[14], "decoder": (128, 128, 96, 96), "width": 1},
            "minkunet14",
            {"stem": "conv5", "features": ("color",), "decoder": "A"},
            8_024_500,
        ),
        (
            {"layers": LAYERS[34], "decoder": (256, 128, 64, 32), "inputs": 6, "width": 0.25},
            "minkunet34",
            {"stem": "conv5", "features": ("color", "xyz"), "decoder": "34B", "width": 0.25},
            None,
        ),
        (
            {"layers": (1, 1, 1, 1, 2, 2, 2, 2), "inputs": 1, "classes": None, "width": 0.5},
            "minkunet18",
            {"stem": "conv5", "features": ("intensity",), "blocks": (1, 1, 1, 1, 2, 2, 2, 2), "width": 0.5},
            None,
        ),
        ({"width": 0.5, "inputs": 4}, "minkunet14", {"stem": "conv5", "width": 0.5}, None),
    ],
)
def test_variants_are_recognized(made: dict, name: str, params: dict, numbers: int | None) -> None:
    state = published(**made)
    found = read_minkunet(state)
    assert (found.backbone, found.params) == (name, params)
    assert found.num_classes == made.get("classes", 20) and found.in_channels == made.get("inputs", 3)
    assert found.left_out == [] and len(found.state) == len(state)
    for key, value in state.items():
        ours = key.replace("final.", "head.") if key.startswith("final.") else f"backbone.{key}"
        assert torch.equal(found.state[ours], value)
    segmenter = Segmenter(make_backbone(found.backbone, found.params), found.num_classes or 2)
    if found.num_classes:
        segmenter.load_state_dict(found.state)
    else:
        segmenter.backbone.load_state_dict({key[9:]: value for key, value in found.state.items()})
    if numbers:
        assert sum(parameter.numel() for parameter in segmenter.parameters()) == numbers


def trained(order: list[tuple[int, ...]]) -> State:
    """A network whose kernels in blocks say the offset that each of their rows is for; the center weighs most."""
    state = published(inputs=4)
    for key, kernel in state.items():
        if key.startswith("block") and kernel.dim() == 3:
            for k, (x, y, z) in enumerate(order):
                kernel[k] = 100 if (x, y, z) == (0, 0, 0) else x + 3 * y + 9 * z
    return state


HYBRID_BEGIN = [(0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (-1, -1, 0), (-1, 1, 0), (1, -1, 0), (1, 1, 0)]
HYBRID = HYBRID_BEGIN + [(x, y, z) for x, y, _ in HYBRID_BEGIN for z in (-1, 1)]


def test_kernels_with_the_center_first_are_put_into_our_order() -> None:
    cube = kernel_offsets((3, 3, 3), (1, 1, 1))
    assert torch.equal(torch.tensor(HYBRID)[hybrid_to_cube()], torch.tensor(cube))
    expected = read_minkunet(trained(cube))
    assert expected.offsets == "cube" and not any("offset" in note for note in expected.notes)
    found = read_minkunet(trained(HYBRID))
    assert found.offsets == "hybrid" and any("center first" in note for note in found.notes)
    for key, value in expected.state.items():  # the stem is in the usual order there, too
        assert torch.equal(found.state[key], value), key
    forced = read_minkunet(trained(HYBRID), offsets="cube")
    assert torch.equal(
        forced.state["backbone.block1.0.conv1.kernel"][0], expected.state["backbone.block1.0.conv1.kernel"][13]
    )
    assert any("stands out" in note for note in read_minkunet(published()).notes)


def test_older_shapes_and_types() -> None:
    new = published(inputs=4)
    old = {key: value for key, value in new.items() if not key.endswith("num_batches_tracked")}
    for key in old:
        if key.endswith("downsample.0.kernel") or key == "final.kernel":
            old[key] = old[key][None]
    old["final.bias"] = old["final.bias"][0]
    found, expected = read_minkunet(old), read_minkunet(new)
    for key, value in expected.state.items():
        assert torch.equal(found.state[key], value) or key.endswith("num_batches_tracked")
    half = read_minkunet({key: value.double() if value.is_floating_point() else value for key, value in new.items()})
    assert half.state["head.kernel"].dtype == torch.float32 and any("float64" in note for note in half.notes)
    del new["final.bias"]
    assert read_minkunet(new).state["head.bias"].abs().sum() == 0


def test_what_has_no_place_is_named() -> None:
    state = published(inputs=4) | {"projector.weight": torch.zeros(4, 96), "final_bn.bn.weight": torch.zeros(3)}
    found = read_minkunet(state)
    assert found.left_out == ["projector.weight (4, 96)", "final_bn.bn.weight (3,)"]
    headless = read_minkunet(state, head=False)
    assert headless.num_classes is None and not any(key.startswith("head") for key in headless.state)
    assert headless.left_out == found.left_out
    assert prefixes({f"module.{key}": 0 for key in state} | {"a.b.conv0p1s1.kernel": 0}) == ["a.b.", "module."]


def test_every_misfit_is_named() -> None:
    state = published(inputs=4)
    del state["bn3.bn.weight"], state["block7.0.norm2.bn.running_var"]
    state["block2.0.se.fc.weight"] = torch.zeros(2, 2)
    state["conv2p2s2.kernel"] = torch.zeros(27, 8, 8)
    state["bn1.bn.bias"][3] = torch.nan
    state["final.kernel"] = torch.zeros(25, 20)
    with pytest.raises(DataError) as caught:
        read_minkunet(state)
    assert caught.value.where["problems"] == 6
    for line in (
        "missing: bn3.bn.weight (16,)",
        "missing: block7.0.norm2.bn.running_var (24,)",
        "unknown: block2.0.se.fc.weight (2, 2)",
        "conv2p2s2.kernel is (27, 8, 8), not (8, 8, 8)",
        "bn1.bn.bias holds numbers that are not finite",
        "final.kernel is (25, 20), not (24, 20)",
    ):
        assert line in str(caught.value.where["tensors"]).splitlines()


def test_relatives_are_refused_with_a_reason() -> None:
    good = published(inputs=4)
    cases = [
        ({**good, "block1.0.conv3.kernel": torch.zeros(32, 128)}, "bottleneck"),
        ({**good, "conv0p1s1.kernel": torch.zeros(81, 4, 32)}, "four dimensions"),
        ({**good, "conv0p1s1.kernel": torch.zeros(4, 32)}, "27 or 125"),
        ({**good, "block1.0.conv1.kernel": torch.zeros(7, 32, 32)}, "a cross"),
        ({**good, "block2.0.conv1.kernel": torch.tensor(1.0)}, "block2.0.conv1.kernel is (), not (offsets"),
        ({**good, "conv0p1s1.kernel": torch.zeros(27, 4, 0)}, "conv0p1s1.kernel is (27, 4, 0), not (offsets"),
        ({**good, "bn1.bn.weight": torch.zeros(8, device="meta")}, "bn1.bn.weight is no dense tensor"),
        ({**good, "block3.0.conv2.kernel": torch.zeros(27, 32, 32).to_sparse()}, "no dense tensor"),
        ({key: value for key, value in good.items() if not key.startswith("block8")}, "not a U-Net of four levels"),
        (published(decoder=(256, 256, 256, 256)), "widths"),
    ]
    for state, reason in cases:
        with pytest.raises(DataError) as caught:
            read_minkunet(state)
        assert reason in str(caught.value)


def test_what_was_asked_for_is_checked() -> None:
    state = published(inputs=6)
    assert read_minkunet(state, features=["xyz", "normal"]).params["features"] == ("xyz", "normal")
    for name, params in (("minkunet14", {"width": 0.25}), ("minkunet-micro", {"decoder": "base"})):
        found = read_minkunet(state, backbone=name)
        assert found.backbone == name and params.items() <= found.params.items()
    with pytest.raises(UsageError, match="6 input channels"):
        read_minkunet(state, features=["xyz", "intensity"])
    with pytest.raises(UsageError, match="6 input channels"):
        read_minkunet(state, features=["xyz", "colour"])
    with pytest.raises(UsageError, match=r"500 input channels.*--features"):
        read_minkunet(published(inputs=500))
    with pytest.raises(UsageError, match="of minkunet14, not of minkunet34"):
        read_minkunet(state, backbone="minkunet34")
    with pytest.raises(UsageError, match="minkunet41"):
        read_minkunet(state, backbone="minkunet41")
