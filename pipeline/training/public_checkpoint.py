"""Checkpoints of others: opened without running their code, understood, and written as one that a run can begin from.

An imported file is a checkpoint of ours (see ``checkpoint``) that belongs to no run: its ``model`` is that of a
``Segmenter``, and ``imported`` says of which backbone, with which parameters.
"""

from __future__ import annotations

import errno
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.models.backbones.public_weights import Offsets, PublicWeights, prefixes, read_minkunet
from ssl3d.models.ema import ema_update
from ssl3d.models.methods.base import Method
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import RunConfig

MARK = "imported"
_DEPTH = 6
_INERT = {
    "numpy.core.multiarray": "scalar",
    "numpy._core.multiarray": "scalar",
    "numpy": "dtype",
    "argparse": "Namespace",
}
"""What public checkpoints carry beside tensors (a best score, the options of the training): read as empty shells."""


class _Shell:
    """Stands for a value that nobody needs; does nothing with what the file says about it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_SHELLS: list[Any] = [type(name, (_Shell,), {"__module__": module}) for module, name in _INERT.items()]


@contextmanager
def _shells_allowed() -> Iterator[None]:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_SHELLS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def open_foreign(path: Path) -> Any:
    """What ``torch.save`` wrote to ``path``, of any version; with ``weights_only=True``: no code of the file is run.

    Raises:
        UsageError: no such file.
        DataError: damaged, nothing that torch wrote, or it cannot be opened without running code.
    """
    if not path.is_file():
        raise UsageError("there is no such file", where={"file": path}, hint="give the path of the checkpoint")
    try:
        if zipfile.is_zipfile(path):
            checkpoint.check_archive(path)
        with _shells_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise _damaged(path, error) from error
        raise DataError(
            "opening this file would run code that it names",
            where={"file": path, "code": code[1]},
            hint="where you trust its author, save its weights alone: torch.save(torch.load(FILE, weights_only=False)"
            "['state_dict'], 'weights.pth'); then import weights.pth",
        ) from error
    except (*checkpoint.DAMAGE, AttributeError, IndexError, TypeError, AssertionError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: sent to a place that no file has
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return DataError(
        "this file is damaged, or torch did not write it",
        where={"file": path, "cause": cause},
        hint="download it again, and compare its size with what its page says",
    )


# ---------------------------------------------------------------- finding the network


def find_networks(value: Any) -> dict[str, dict[str, Tensor]]:
    """MinkUNets in what a file holds: their place (``state_dict/module``) -> tensors by name, without the prefix."""
    found = {}
    for place, state in _states(value):
        for prefix in prefixes(state):
            name = "/".join([*place, *([prefix.rstrip(".")] if prefix else [])]) or "(top)"
            found[name] = {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}
    return found


def _states(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary, however nested, that holds tensors by name."""
    if not isinstance(value, Mapping) or len(place) > _DEPTH:
        return
    state = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if state:
        yield place, state
    for key, item in value.items():
        if isinstance(key, str):
            yield from _states(item, (*place, key))


def _choose(networks: Mapping[str, dict[str, Tensor]], part: str | None, path: Path) -> tuple[str, dict[str, Tensor]]:
    fitting = [place for place in networks if part is None or part in place]
    fitting = [part] if part is not None and part in networks else fitting
    if len(fitting) != 1:
        raise UsageError(
            "the file holds several networks" if fitting else f"no network of the file lies in {part!r}",
            where={"file": path, "networks": "\n".join(networks)},
            hint=f"choose one with --part, such as --part {next(iter(networks))}",
        )
    return fitting[0], networks[fitting[0]]


def _why_not(value: Any) -> tuple[str, str]:
    """Why a file without a MinkUNet is refused: what it seems to be, and what to do."""
    if isinstance(value, Mapping) and isinstance(value.get("schema"), int) and "model" in value:
        return "it is a checkpoint of ssl3d already", "begin a run from it: ssl3d train METHOD --init-from FILE"
    tensors = {key: tensor for _, state in _states(value) for key, tensor in state.items()}
    kernels = [key for key in tensors if key.endswith("kernel")]
    volumes = [key for key, tensor in tensors.items() if tensor.dim() == 5 and key.endswith("weight")]
    other = "ssl3d imports MinkUNets of MinkowskiEngine: those whose first layer is called conv0p1s1"
    if not tensors:
        return "it holds no tensors by name", "give the file that torch.save(model.state_dict(), FILE) wrote"
    if volumes:
        return (
            f"{volumes[0]} {tuple(tensors[volumes[0]].shape)} is a kernel with an axis for each of x, y, z, as spconv "
            "(and mmdetection3d on it) stores them; versions differ in which axes come first",
            other,
        )
    named = [key for key in kernels if re.search(r"(^|\.)(stem|stage\d|up\d|conv_input|encoder|decoder)\.", key)]
    if named:
        return (
            f"{named[0]} is named as in torchsparse's networks (SPVNAS, mmdetection3d, LaserMix), whose kernels of "
            "even size count their offsets in another order than MinkowskiEngine's; it differs between versions",
            other,
        )
    if kernels:
        return f"its kernels ({', '.join(kernels[:3])}, ...) are those of another network", other
    return f"it holds no sparse convolution (its tensors: {', '.join(list(tensors)[:3])}, ...)", other


# ---------------------------------------------------------------- import


def read_public(
    path: Path,
    *,
    backbone: str | None = None,
    offsets: Offsets | None = None,
    features: Sequence[str] | None = None,
    part: str | None = None,
    head: bool = True,
) -> tuple[PublicWeights, str]:
    """Opens and understands a published MinkUNet (see ``read_minkunet``).

    Args:
        part: which of several networks in the file: (a part of) its place.

    Returns:
        The network, and its place in the file.

    Raises:
        UsageError: no such file, or what was asked for is not what it holds.
        DataError: damaged, not readable without running code, another network, or tensors that do not fit.
    """
    value = open_foreign(path)
    networks = find_networks(value)
    if not networks:
        reason, hint = _why_not(value)
        raise DataError("no MinkUNet that ssl3d knows", where={"file": path, "reason": reason}, hint=hint)
    place, state = _choose(networks, part, path)
    try:
        return read_minkunet(state, backbone=backbone, offsets=offsets, features=features, head=head), place
    except Ssl3dError as error:
        error.where = {"file": path, "network": place, **error.where}
        raise


def write_imported(path: Path, weights: PublicWeights, source: str) -> None:
    """Writes what ``--init-from`` reads. ``source``: where they came from, for people."""
    about = {
        "backbone": weights.backbone,
        "params": {key: list(v) if isinstance(v, tuple) else v for key, v in weights.params.items()},
        "offsets": weights.offsets,
        "source": source,
    }
    value = {"schema": checkpoint.SCHEMA, "num_classes": weights.num_classes, "model": weights.state, MARK: about}
    checkpoint.save(path, value)


def start_from_imported(method: Method, loaded: Mapping[str, Any], config: RunConfig, path: Path) -> str:
    """Starts ``method``'s networks from an imported file. Its classifier is taken where it has as many classes as the
    run; else the run keeps its own, fresh one.

    Returns:
        What was taken, for people.

    Raises:
        Ssl3dError: the run's backbone is another, or has other parameters.
    """
    about, weights = loaded[MARK], dict(loaded["model"])
    student, predictor = method.student(), method.predictor()
    own = student.state_dict()
    head = [key for key in weights if key.startswith("head.")]
    taken = bool(head) and loaded.get("num_classes") == config.num_classes and _fit(head, weights, own)
    if not taken:
        weights = {key: value for key, value in weights.items() if key not in head}
    backbone = {f"backbone.{key}" for key in student.backbone.state_dict()}
    if not backbone <= weights.keys() or not _fit(weights, weights, own):
        raise Ssl3dError(
            "the imported weights do not fit the backbone of the run",
            where={"file": path, "weights": about["backbone"], "run": config.backbone},
            hint=f"train with {' '.join(settings(about['backbone'], about['params']))}",
        )
    student.load_state_dict({**own, **weights})
    if predictor is not student:  # else one and the same
        predictor.load_state_dict(student.state_dict())
    for average, source in method.ema_pairs():  # also one that is not evaluated
        ema_update(average, source, 0.0, "copy")
    classes = loaded.get("num_classes")
    there = "there is none" if classes is None else f"theirs has {classes} classes, the run {config.num_classes}"
    return f"begins with {about['source']}; its classifier is " + ("theirs too" if taken else f"fresh ({there})")


def _fit(keys: Iterable[str], weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return all(key in own and own[key].shape == weights[key].shape for key in keys)


def settings(backbone: str, params: Mapping[str, Any]) -> list[str]:
    """The words after ``ssl3d train METHOD`` that build a network: ``--backbone NAME --set backbone.stem=conv5``."""
    words = ["--backbone", backbone]
    for key, value in params.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words += ["--set", f"backbone.{key}={text}"]
    return words


__all__ = [
    "MARK",
    "find_networks",
    "open_foreign",
    "read_public",
    "settings",
    "start_from_imported",
    "write_imported",
]
