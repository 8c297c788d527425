"""One side of a comparison: does the same work as its rival with one engine, a turn at a time, and says how long.

    python -I worker.py minkowski

reads orders from standard input and answers on standard output, one JSON object a line:
``{"do": "load", "task": {...}}`` -> ``{"check": [...], ...}``, numbers that every engine has to agree on;
``{"do": "turn"}`` -> ``{"seconds": s}``; ``{"do": "memory"}`` -> ``{"peak_mb": m}``. An answer with ``error`` ends it.
Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Turn = Callable[[], float]
Tensors = dict[str, Tensor]

LEARNING_RATE = 0.02
WARM_STEPS = 2
"""Untimed steps. Their losses are compared: the first says that networks are equal, the others that gradients are."""
SHORTEST = 0.04
"""Seconds. Operators that are quicker are repeated within a turn."""
ENCODER, DECODER, STEM = (32, 64, 128, 256), (256, 128, 96, 96), 32


class Layers(Protocol):
    """What a MinkUNet is made of. ``at``: tensor stride of the input (of ``up``: of the output)."""

    def conv(self, inputs: int, outputs: int, size: int, at: int) -> nn.Module: ...
    def down(self, inputs: int, outputs: int, at: int) -> nn.Module: ...
    def up(self, inputs: int, outputs: int, at: int) -> nn.Module: ...
    def norm(self, channels: int) -> nn.Module: ...
    def relu(self) -> nn.Module: ...
    def add(self, x: Any, y: Any) -> Any: ...
    def cat(self, x: Any, y: Any) -> Any: ...


class Engine(Protocol):
    """A library of sparse convolutions. ``sites`` are coordinates with all maps that were built for them."""

    layers: Layers

    def version(self) -> str: ...
    def sites(self, coordinates: Tensor) -> Any:
        """A fresh manager of these (n, 4) int32 [batch, x, y, z]; no kernel map is built yet."""

    def tensor(self, features: Tensor, sites: Any, stride: int = 1) -> Any:
        """Features on the sites of a tensor stride (1, 2, 4, ...), which is built if it is not there."""

    def count(self, sites: Any, stride: int) -> int: ...
    def rows(self, x: Any) -> Tensor: ...
    def network(self, blocks: list[int], inputs: int, classes: int) -> nn.Module | None:
        """A network of its own, called with (features, coordinates) for logits (n, classes); None: ``Segmenter``."""

    def convert(self, state: Tensors) -> Tensors:
        """A state dict of ours in the layout of ``network``."""

    def operator(self, name: str, channels: int, stride: int) -> nn.Module:
        """``conv3``, ``down2``, ``up2``, ``conv1`` or ``maxpool2``; ``stride``: of the finer sites it works on."""

    def pairs(self, sites: Any, name: str, stride: int) -> int | None:
        """Multiply-adds per (input channel x output channel), for information; None where it is not known."""


# ---------------------------------------------------------------- the network


class Block(nn.Module):
    def __init__(self, layers: Layers, inputs: int, outputs: int, at: int) -> None:
        super().__init__()
        self.layers = layers
        self.conv1, self.norm1 = layers.conv(inputs, outputs, 3, at), layers.norm(outputs)
        self.conv2, self.norm2 = layers.conv(outputs, outputs, 3, at), layers.norm(outputs)
        self.relu = layers.relu()
        self.downsample = (
            nn.Sequential(layers.conv(inputs, outputs, 1, at), layers.norm(outputs)) if inputs != outputs else None
        )

    def forward(self, x: Any) -> Any:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.relu(self.layers.add(out, x if self.downsample is None else self.downsample(x)))


class MinkUNet(nn.Module):
    """The network of ``ssl3d.models.backbones.minkunet`` (stem of two convolutions), out of any engine's layers."""

    def __init__(self, layers: Layers, blocks: list[int], inputs: int) -> None:
        super().__init__()
        self.layers, self.relu = layers, layers.relu()
        self.conv0p1s1, self.bn0 = layers.conv(inputs, STEM, 3, 1), layers.norm(STEM)
        self.conv0bp1s1, self.bn0b = layers.conv(STEM, STEM, 3, 1), layers.norm(STEM)
        width, skips = STEM, [STEM]
        for level, outputs in enumerate(ENCODER):
            at = 1 << level
            self.add_module(f"conv{level + 1}p{at}s2", layers.down(width, width, at))
            self.add_module(f"bn{level + 1}", layers.norm(width))
            self.add_module(f"block{level + 1}", self._stage(width, outputs, blocks[level], 2 * at))
            width = outputs
            skips.append(outputs)
        for level, outputs in enumerate(DECODER, start=4):
            at = 1 << (8 - level)
            self.add_module(f"convtr{level}p{at}s2", layers.up(width, outputs, at // 2))
            self.add_module(f"bntr{level}", layers.norm(outputs))
            wide = outputs + skips[7 - level]
            self.add_module(f"block{level + 1}", self._stage(wide, outputs, blocks[level], at // 2))
            width = outputs

    def _stage(self, inputs: int, outputs: int, count: int, at: int) -> nn.Sequential:
        return nn.Sequential(*[Block(self.layers, inputs if i == 0 else outputs, outputs, at) for i in range(count)])

    def forward(self, x: Any) -> Any:
        part = self._modules
        x = self.relu(self.bn0(self.conv0p1s1(x)))
        x = self.relu(self.bn0b(self.conv0bp1s1(x)))
        skips = [x]
        for level in range(4):
            x = self.relu(part[f"bn{level + 1}"](part[f"conv{level + 1}p{1 << level}s2"](x)))  # type: ignore[misc]
            x = part[f"block{level + 1}"](x)  # type: ignore[misc]
            skips.append(x)
        for level in range(4, 8):
            x = self.relu(part[f"bntr{level}"](part[f"convtr{level}p{1 << (8 - level)}s2"](x)))  # type: ignore[misc]
            x = part[f"block{level + 1}"](self.layers.cat(x, skips[7 - level]))  # type: ignore[misc]
        return x


class Segmenter(nn.Module):
    """A MinkUNet and its classifier; the maps are made anew in each call."""

    def __init__(self, engine: Engine, blocks: list[int], inputs: int, classes: int) -> None:
        super().__init__()
        self.engine = engine
        self.net = MinkUNet(engine.layers, blocks, inputs)
        self.final = nn.Linear(DECODER[-1], classes)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        x = self.engine.tensor(features, self.engine.sites(coordinates))
        logits: Tensor = self.final(self.engine.rows(self.net(x)))
        return logits


# ---------------------------------------------------------------- the work


def load(path: str) -> Tensors:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def network(engine: Engine, task: dict[str, Any]) -> nn.Module:
    shape = task["blocks"], task["inputs"], task["classes"]
    net = engine.network(*shape)
    if net is None:
        net = Segmenter(engine, *shape)
    net.load_state_dict(engine.convert(torch.load(task["weights"], weights_only=True)))
    return net


def step(engine: Engine, task: dict[str, Any]) -> tuple[Turn, dict[str, Any]]:
    """A training step from coordinates on: maps, forward, cross-entropy, backward, SGD."""
    data, net = load(task["data"]), network(engine, task).train()
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, momentum=0.9)
    losses: list[float] = []

    def turn() -> float:
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(data["features"], data["coordinates"]), data["labels"])
        loss.backward()
        optimizer.step()
        taken = time.perf_counter() - begun
        losses.append(loss.item())
        return taken

    warm = [turn() for _ in range(WARM_STEPS)]
    return turn, {"check": losses.copy(), "sites": len(data["features"]), "seconds": warm[-1]}


def infer(engine: Engine, task: dict[str, Any]) -> tuple[Turn, dict[str, Any]]:
    """Logits of a scan from coordinates on, without gradients."""
    data, net = load(task["data"]), network(engine, task).eval()

    @torch.no_grad()
    def turn() -> float:
        begun = time.perf_counter()
        net(data["features"], data["coordinates"])
        return time.perf_counter() - begun

    with torch.no_grad():
        logits = net(data["features"], data["coordinates"])
    kept = logits[:: max(1, len(logits) // 256)].flatten().tolist()
    return turn, {"check": kept, "sites": len(logits), "seconds": turn()}


def maps(engine: Engine, task: dict[str, Any]) -> tuple[Turn, dict[str, Any]]:
    """All coordinate and kernel maps of a MinkUNet: a forward and backward pass over layers of one channel, minus the
    same pass again. What an engine prepares late, at a first use, is so counted too."""
    data, layers = load(task["data"]), engine.layers
    levels = [1, 2, 4, 8]
    chain = nn.Sequential(
        layers.conv(1, 1, 3, 1),
        *[module for at in levels for module in (layers.down(1, 1, at), layers.conv(1, 1, 3, 2 * at))],
        *[layers.up(1, 1, at) for at in reversed(levels)],
    )
    ones = torch.ones(len(data["coordinates"]), 1)
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.fill_(0.25)  # the sum of the output then depends on the pairs of every map

    def passed(sites: Any) -> Any:
        out = chain(engine.tensor(ones.clone().requires_grad_(), sites))
        engine.rows(out).sum().backward()
        return out

    def turn() -> float:
        begun = time.perf_counter()
        sites = engine.sites(data["coordinates"])
        passed(sites)
        built = time.perf_counter()
        passed(sites)
        return (built - begun) - (time.perf_counter() - built)

    turn()
    sites = engine.sites(data["coordinates"])
    total = float(engine.rows(passed(sites)).detach().double().sum())
    counts = [float(engine.count(sites, at)) for at in (*levels, 16)]
    return turn, {"check": [total, *counts], "sites": len(ones), "seconds": max(turn(), 1e-3)}


def operator(engine: Engine, task: dict[str, Any], known: dict[str, Any]) -> tuple[Turn, dict[str, Any]]:
    """A layer on sites whose maps are there already. ``known``: the sites of earlier tasks on the same data."""
    if task["data"] not in known:
        known.clear()
        known[task["data"]] = engine.sites(load(task["data"])["coordinates"])
    sites, stride, channels = known[task["data"]], task["stride"], task["channels"]
    engine.count(sites, 2 * stride)  # builds the sites that layers go to or come from
    at = 2 * stride if task["operator"] == "up2" else stride
    layer, backward = engine.operator(task["operator"], channels, stride), task["backward"]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1 / channels)  # the order of rows at coarser strides is every engine's own
    features = torch.ones(engine.count(sites, at), channels).requires_grad_(backward)
    x = engine.tensor(features, sites, at)
    known_grad: list[Tensor] = []

    def once() -> Tensor:
        for leaf in (features, *layer.parameters()):
            leaf.grad = None
        out = engine.rows(layer(x))
        if backward:
            if not known_grad:
                known_grad.append(torch.rand(out.shape, generator=generator))
            out.backward(known_grad[0])
        return out

    def timed(loops: int) -> float:
        begun = time.perf_counter()
        with torch.set_grad_enabled(backward):
            for _ in range(loops):
                once()
        return (time.perf_counter() - begun) / loops

    with torch.set_grad_enabled(backward):
        out = once().detach()
    timed(1)
    quick = timed(1)
    loops = max(1, min(100, int(SHORTEST / max(quick, 1e-6)) + 1))
    sums = [float(out.double().sum()), float(out.double().square().sum()), *map(float, out.shape)]
    said = {"check": sums, "sites": len(features), "seconds": quick * loops}
    return lambda: timed(loops), {**said, "pairs": engine.pairs(sites, task["operator"], stride)}


# ---------------------------------------------------------------- the conversation


def peak_memory_mb() -> float:
    """Of this process. (``ru_maxrss`` would start with that of the process that started it.)"""
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")]
        return int(lines[0].split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def make_engine(name: str) -> Engine:
    if name == "native":
        module: Any = importlib.import_module("ssl3d.benchmarks.rivals.native")
    else:
        spec = importlib.util.spec_from_file_location(f"ssl3d_rivals_{name}", Path(__file__).with_name(f"{name}.py"))
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    engine: Engine = module.Engine()
    return engine


class Conversation:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.known = engine, dict[str, Any]()
        self.turn: Turn | None = None

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        gc.collect()
        if order["do"] == "hello":
            versions = {"python": sys.version.split()[0], "torch": torch.__version__}
            return {"version": self.engine.version(), "versions": versions}
        if order["do"] == "load":
            self.turn, task = None, order["task"]
            if task["kind"] == "operator":
                self.turn, said = operator(self.engine, task, self.known)
            else:
                self.turn, said = {"step": step, "infer": infer, "maps": maps}[task["kind"]](self.engine, task)
            return said
        if order["do"] == "turn":
            assert self.turn is not None, "a turn before anything was loaded"
            return {"seconds": self.turn()}
        return {"peak_mb": peak_memory_mb()}


def main() -> None:
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    conversation: Conversation | None = None
    for line in sys.stdin:
        try:
            conversation = conversation or Conversation(make_engine(sys.argv[1]))
            said = conversation.answer(json.loads(line))
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
