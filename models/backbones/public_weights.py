"""Weights of MinkUNets that others have trained and published, as weights of ours.

What is read: state dicts of MinkowskiEngine's example network and its many copies (SpatioTemporalSegmentation,
PointContrast, Mask3D, SLidR, ...), which share their module names (``conv0p1s1`` .. ``block8``, ``final``). A kernel is
(K, in, out), or (in, out) for 1x1 (older versions: (1, in, out)); statistics of a batch norm lie under ``.bn``.

What such a file does not say is the order of the K offsets. There are two. ``cube`` is that of MinkowskiEngine's
``HYPER_CUBE`` region, and ours (see ``kernel_map``). ``hybrid`` is what SpatioTemporalSegmentation and its copies gave
the 3x3x3 kernels *inside blocks* (``SPATIAL_HYPERCUBE_TEMPORAL_HYPERCROSS``, MinkowskiEngine before 0.5): the center
comes first, then what each axis adds to all offsets before it. Shapes are equal; only the weights can tell: the center
meets a voxel at every site, the other offsets at some, so that in a trained network its weights are the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ssl3d.data.errors import DataError, UsageError
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.minkunet import DECODER_WIDTHS, INIT_WIDTH, MinkUNet
from ssl3d.models.backbones.registry import get_backbone, list_backbones, make_backbone
from ssl3d.models.backbones.voxels import FEATURE_WIDTHS
from ssl3d.models.sparse import kernel_offsets

Offsets = Literal["cube", "hybrid"]
State = Mapping[str, Tensor]

STEM = "conv0p1s1.kernel"
HEAD = "final.kernel"
_LEVELS = range(1, 9)
_USUAL_INPUTS: dict[int, tuple[str, ...]] = {
    1: ("intensity",),
    3: ("color",),
    4: ("xyz", "intensity"),
    6: ("color", "xyz"),
    9: ("color", "xyz", "normal"),
}
"""What published networks with so many input channels read, mostly (ScanNet: color; LiDAR: xyz and intensity)."""


@dataclass(slots=True)
class PublicWeights:
    """A published network, understood.

    Attributes:
        backbone, params: what builds it: ``make_backbone(backbone, params)``; ``params`` holds what is no default.
        num_classes: of its head, None without one.
        state: its tensors by the names of our ``Segmenter`` (``backbone.*``, ``head.*``), float32.
        offsets: the order of offsets that its kernels were stored in.
        notes: what was assumed or changed on the way.
        left_out: tensors that belong to no part of a MinkUNet, with their shapes.
    """

    backbone: str
    params: dict[str, Any]
    num_classes: int | None
    state: dict[str, Tensor]
    offsets: Offsets
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def in_channels(self) -> int:
        return int(self.state["backbone." + STEM].shape[-2])


def prefixes(state: Mapping[str, object]) -> list[str]:
    """Where MinkUNets begin in a state dict: ``""``, ``module.``, ``backbone.``, ... Several, if it holds several."""
    return sorted(name[: -len(STEM)] for name in state if name == STEM or name.endswith("." + STEM))


def read_minkunet(
    state: State,
    *,
    backbone: str | None = None,
    offsets: Offsets | None = None,
    features: Sequence[str] | None = None,
    head: bool = True,
) -> PublicWeights:
    """A published MinkUNet as weights of ours.

    Args:
        state: tensors by the names of MinkowskiEngine's example network, without a prefix.
        backbone: what it has to be (default: what it is).
        offsets: order of the kernel offsets (default: judged by the weights).
        features: names of its input channels, which no state dict tells (default: what is usual for their number).
        head: also take its classifier.

    Raises:
        DataError: a network that we do not have, tensors missing, unknown inside a layer, of another shape, or not
            finite; names each.
        UsageError: it is not ``backbone``; ``features`` are other channels, or have to be named.
    """
    _check_family(state)
    name, params, notes = _identify(state, backbone, features)
    order, judged = (offsets, None) if offsets else _judge_offsets(state)
    notes += [judged] if judged else []
    num_classes = int(state[HEAD].shape[-1]) if head and HEAD in state and state[HEAD].dim() else None
    with torch.device("meta"):
        expected = Segmenter(make_backbone(name, params), num_classes or 1).state_dict()
    found = {_ours(key): key for key in state}
    result = PublicWeights(name, params, num_classes, {}, order, notes)
    problems = []
    for key, like in expected.items():
        if key.startswith("head.") and num_classes is None:
            continue
        value = _fitting(state.get(found.get(key, "")), key, like, order, result.notes)
        if isinstance(value, str):
            problems.append(value)
        else:
            result.state[key] = value
    children = {key.split(".")[1] for key in expected if key.startswith("backbone.")}
    for key in (key for ours, key in found.items() if ours not in expected):
        line = f"{key} {tuple(state[key].shape)}"
        if key.split(".")[0] in children:  # a part of a layer that we compute without it: other outputs
            problems.append(f"unknown: {line}")
        elif head or not key.startswith("final."):
            result.left_out.append(line)
    if problems:
        raise DataError(
            f"the tensors do not make a {name}",
            where={"problems": len(problems), "tensors": "\n".join(problems)},
            hint="the file is of a variant that ssl3d does not have, or parts of it are missing",
        )
    result.notes = list(dict.fromkeys(result.notes))
    return result


# ---------------------------------------------------------------- what it is


def _check_family(state: State) -> None:
    """Raises ``DataError`` for relatives that are something else: other dimensions, bottlenecks, another order."""
    why = None
    stem = state[STEM]
    missing = [key for key in _firsts() if key not in state]
    odd = [key for key, value in state.items() if value.layout != torch.strided or value.is_meta or value.is_quantized]
    if odd:
        why = f"{odd[0]} is no dense tensor with numbers in it"
    elif missing:
        why = f"it has no {missing[0]}: not a U-Net of four levels, or a part of one"
    elif "block1.0.conv3.kernel" in state:
        why = "it has bottleneck blocks (MinkUNet50, MinkUNet101); ssl3d has those of two convolutions (14, 18, 34)"
    elif stem.dim() != 3 or stem.shape[0] not in (27, 125):
        why = f"{STEM} is {tuple(stem.shape)}; of 3D networks it has 27 or 125 offsets (81, 625: four dimensions)"
    elif flat := [key for key in (STEM, *_firsts()) if state[key].dim() != 3 or not state[key].numel()]:
        why = f"{flat[0]} is {tuple(state[flat[0]].shape)}, not (offsets, inputs, outputs)"
    elif (volume := state["block1.0.conv1.kernel"].shape[0]) != 27:
        why = f"the kernels of its blocks have {volume} offsets, not 27 (a cross instead of a cube, or four dimensions)"
    if why:
        raise DataError("this network is no MinkUNet of ssl3d", where={"reason": why})


def _firsts() -> list[str]:
    """The first kernel of each level."""
    return [f"block{level}.0.conv1.kernel" for level in _LEVELS]


def _blocks(state: State) -> tuple[int, ...]:
    names = [key.split(".") for key in state if key.endswith(".conv1.kernel")]
    return tuple(len({name[1] for name in names if name[0] == f"block{level}"}) for level in _LEVELS)


def _widths(state: State) -> tuple[int, ...]:
    return tuple(int(state[key].shape[-1]) for key in _firsts())


def _identify(
    state: State, backbone: str | None, features: Sequence[str] | None
) -> tuple[str, dict[str, Any], list[str]]:
    """Name of the backbone, the parameters that are no default of it, and what was assumed."""
    volume, channels, stem = state[STEM].shape
    named, notes = _inputs(channels, features)
    wanted: dict[str, Any] = {"blocks": _blocks(state), "features": named, "width": stem / INIT_WIDTH}
    if "conv0bp1s1.kernel" in state:
        wanted["stem"] = "double3"
    else:
        wanted |= {"stem": "conv5", "stem_kernel": round(volume ** (1 / 3))}
    family = [name for name in list_backbones() if issubclass(get_backbone(name), MinkUNet)]
    defaults = {name: get_backbone(name).Params().model_dump() for name in family}
    for decoder in DECODER_WIDTHS:
        params = wanted | {"decoder": decoder}
        with torch.device("meta"):
            built = make_backbone("minkunet18", params).state_dict()
        if _widths(built) == _widths(state):
            break
    else:
        raise DataError(
            "this network is no MinkUNet of ssl3d",
            where={"reason": "its widths are none of the published ones", "widths": _widths(state)},
        )
    # the name that leaves the fewest structural parameters to say; of equals the plainest one
    structure = ("blocks", "width", "decoder")
    said = {name: [key for key in structure if params[key] != defaults[name][key]] for name in family}
    name = min(family, key=lambda n: ("blocks" in said[n], len(said[n]), "micro" in n, n != "minkunet18"))
    if backbone is not None and backbone != name:
        get_backbone(backbone)  # an unknown name is another mistake
        if backbone not in family or "blocks" in said[backbone]:
            raise UsageError(
                f"the weights are of {name}, not of {backbone}",
                where={"blocks": params["blocks"], "widths": _widths(state)},
                hint=f"leave out --backbone, or type --backbone {name}",
            )
        name = backbone
    return name, {key: value for key, value in params.items() if value != defaults[name][key]}, notes


def _inputs(channels: int, features: Sequence[str] | None) -> tuple[tuple[str, ...], list[str]]:
    known = ", ".join(f"{name} ({count})" for name, count in FEATURE_WIDTHS.items())
    if features is not None:
        unknown = [name for name in features if name not in FEATURE_WIDTHS]
        width = sum(FEATURE_WIDTHS.get(name, 0) for name in features)
        if unknown or width != channels:
            raise UsageError(
                f"the network has {channels} input channels",
                where={"features": ",".join(features), "unknown" if unknown else "channels": unknown or width},
                hint=f"known: {known}",
            )
        return tuple(features), []
    chosen = _USUAL_INPUTS.get(channels)
    if chosen is None:
        raise UsageError(
            f"the network has {channels} input channels, and the file does not say what they are",
            hint=f"name them with --features; known: {known}",
        )
    text = ", ".join(chosen)
    return chosen, [f"the file does not say what the {channels} input channels are: taken for {text} (--features)"]


# ---------------------------------------------------------------- tensors


def _ours(name: str) -> str:
    return f"head.{name[6:]}" if name.startswith("final.") else f"backbone.{name}"


def _fitting(value: Tensor | None, key: str, like: Tensor, offsets: Offsets, notes: list[str]) -> Tensor | str:
    """``value`` in our layout, or what is wrong with it."""
    short = "final" + key[4:] if key.startswith("head.") else key.removeprefix("backbone.")
    if value is None:
        if key.endswith("num_batches_tracked"):
            return torch.zeros((), dtype=torch.int64)
        if key == "head.bias":
            notes.append("the classifier has no bias: zero")
            return torch.zeros(tuple(like.shape))
        return f"missing: {short} {tuple(like.shape)}"
    if value.numel() == like.numel() and value.dim() != like.dim() and 1 in (*value.shape, *like.shape):
        value = value.reshape(like.shape)  # 1x1 kernels and biases with an axis of one more or less
    if value.shape != like.shape:
        return f"{short} is {tuple(value.shape)}, not {tuple(like.shape)}"
    if not like.is_floating_point():
        return value.detach().to(like.dtype).clone()
    if not value.is_floating_point() or value.layout != torch.strided:
        return f"{short} holds {value.dtype}, not floating point numbers"
    if value.dtype != torch.float32:
        notes.append(f"{str(value.dtype).removeprefix('torch.')} converted to float32")
    value = value.detach().to(torch.float32, copy=True).contiguous()
    if not bool(value.isfinite().all()):
        return f"{short} holds numbers that are not finite"
    if offsets == "hybrid" and _in_block(short):
        value = value[hybrid_to_cube()]
    return value


def _in_block(name: str) -> bool:
    return name.startswith("block") and name.endswith((".conv1.kernel", ".conv2.kernel"))


def hybrid_to_cube() -> Tensor:
    """(27,) int64: ``kernel[hybrid_to_cube()]`` has the offsets of a ``hybrid`` kernel in our order."""
    order: list[tuple[int, ...]] = [(0, 0, 0)]
    for axis in range(3):
        order += [(*o[:axis], step, *o[axis + 1 :]) for o in order for step in (-1, 1)]
    return torch.tensor([order.index(offset) for offset in kernel_offsets((3, 3, 3), (1, 1, 1))])


def _judge_offsets(state: State) -> tuple[Offsets, str | None]:
    """By which offset of the 3x3x3 kernels inside blocks has the largest weights; ``cube`` when none stands out."""
    largest = list(_largest_offsets(state))
    if 2 * largest.count(0) > len(largest):
        return "hybrid", (
            f"the first offset is the largest in {largest.count(0)} of {len(largest)} kernels: stored in the order of "
            "SpatioTemporalSegmentation (center first), put into ours (--offsets cube: leave it)"
        )
    if 2 * largest.count(13) > len(largest):
        return "cube", None
    return "cube", (
        "no offset of the kernels stands out, as in a network that was not trained: taken to be in MinkowskiEngine's "
        "usual order (--offsets hybrid for networks of SpatioTemporalSegmentation and its copies)"
    )


def _largest_offsets(state: State) -> Iterator[int]:
    for key, value in state.items():
        if _in_block(key) and value.dim() == 3 and value.is_floating_point() and value.numel():
            yield int(value.detach().float().square().sum((1, 2)).argmax())


__all__ = ["HEAD", "STEM", "Offsets", "PublicWeights", "hybrid_to_cube", "prefixes", "read_minkunet"]
