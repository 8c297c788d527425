"""Several processes that train one run: how they meet, what they exchange, and what they do when one is lost.

Every process builds the same method, takes its share of the items of each batch, and sums gradients with the others, so
that all hold the same weights (``models.distributed`` has the rule for losses). The first one owns the folder of the
run and speaks; the others are silent.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.models.distributed import all_reduce_sum, exchange_device, gather_rows
from ssl3d.pipeline.launch import STAND_BY_SECONDS, Launch, finish_sentence, launched, stand_by

T = TypeVar("T")
Counts = TypeVar("Counts", np.int64, np.float64)

TIMEOUT = timedelta(minutes=30)
"""For a process that hangs; one that died is noticed within seconds."""

MOST_LOSSES = 62
"""Named losses of one yield that processes can exchange."""

_GRACE_SECONDS = 5.0
_LOST = ("gloo", "nccl", "closed by peer", "reset by peer", "broken pipe", "timed out waiting")
_meetings = itertools.count()


class LostProcessError(Ssl3dError):
    """A process that takes part in the training is gone."""

    def __init__(self) -> None:
        super().__init__(
            "another process of this training died: this one stops too",
            hint="it was killed, most likely (for lack of memory?); the run goes on after its last checkpoint with the "
            "same command",
        )


class Team:
    """The processes of a training, as one of them sees it. Alone (the default), nothing is exchanged.

    Args:
        store: a small dictionary that all can read and write.
    """

    def __init__(self, launch: Launch | None = None, store: dist.Store | None = None) -> None:
        self.launch, self.store = launch or Launch(), store
        self.rank, self.size = self.launch.rank, self.launch.size

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Until all are here."""
        if self.size > 1:
            all_reduce_sum(torch.zeros(1, device=exchange_device())).item()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether some process raised it."""
        if self.size == 1:
            return flags
        return tuple(bool(count) for count in self.sum(np.array(flags, np.int64)))

    def sum(self, counts: npt.NDArray[Counts]) -> npt.NDArray[Counts]:
        """Counts (or float64 sums) of all processes together."""
        if self.size == 1:
            return counts
        return all_reduce_sum(torch.from_numpy(counts).to(exchange_device())).cpu().numpy()

    def told(self, value: T) -> T:
        """What the first process says (anything that can be pickled)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=exchange_device())
        return box[0]

    def everybody(self, value: T) -> list[T]:
        """What each process says (anything that can be pickled), in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def align(self, module: nn.Module) -> None:
        """Parameters and buffers become those of the first process."""
        for tensor in (*module.parameters(), *module.buffers()) if self.size > 1 else ():
            dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The part of ``items`` that this process works on: every item is in one, their sizes differ by one at most."""
        return items[len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size]

    def gather(self, state: Tensor) -> list[Tensor]:
        """The tensors of all processes (same shape and dtype), on the CPU."""
        return list(gather_rows(state[None].to(exchange_device())).cpu()) if self.size > 1 else [state.cpu()]

    def losses(self, mine: Mapping[str, float] | None) -> dict[str, float] | None:
        """The losses of the global batch, from this process's; None: it takes no further optimizer step.

        Raises:
            Ssl3dError: the others have losses of other names, or other numbers of optimizer steps.
        """
        if self.size == 1:
            return None if mine is None else dict(mine)
        names = list(mine or ())
        if len(names) > MOST_LOSSES:
            raise Ssl3dError(f"step() yields {len(names)} losses; several processes exchange {MOST_LOSSES} at most")
        key = zlib.crc32("\n".join(names).encode()) if mine is not None else 0
        sent = torch.zeros(2 + MOST_LOSSES, dtype=torch.float64)
        sent[0], sent[1] = float(mine is not None), float(key)
        sent[2 : 2 + len(names)] = torch.tensor(list((mine or {}).values()), dtype=torch.float64)
        found = all_reduce_sum(sent.to(exchange_device())).tolist()
        if found[0] not in (0, self.size) or found[1] != self.size * key:
            raise Ssl3dError(
                "the processes of this training do not take the same optimizer steps",
                where={"losses here": ", ".join(names) or "none", "processes with losses": int(found[0])},
                hint="step() of the method has to yield the same names equally often in every process, "
                "also for a batch without labels",
            )
        return None if mine is None else dict(zip(names, found[2:], strict=False))

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients become their sums over the processes; one that no process has stays None. One exchange a dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(p.dtype for p in parameters):
            group = [p for p in parameters if p.dtype == dtype]
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in group]
            present = torch.tensor([p.grad is not None for p in group], dtype=dtype, device=group[0].device)
            flat = all_reduce_sum(torch.cat([*(g.reshape(-1) for g in gradients), present]))
            *sums, counts = flat.split([*(p.numel() for p in group), len(group)])
            for parameter, total, count in zip(group, sums, counts.tolist(), strict=True):
                if count:
                    parameter.grad = total.view_as(parameter)


# ---------------------------------------------------------------- meeting and parting


def place(device: torch.device, launch: Launch) -> torch.device:
    """The device of this process. ``UsageError`` when the machine has fewer GPUs than processes, or one was named."""
    if launch.size == 1 or device.type == "cpu":
        return device
    if device.index is not None and launch.local_size > 1:
        raise UsageError(
            "several processes cannot share one GPU",
            where={"device": device, "processes": launch.local_size},
            hint="choose --device cuda: every process takes its own (CUDA_VISIBLE_DEVICES says which there are)",
        )
    found = torch.cuda.device_count()
    if launch.local_size > found:
        raise UsageError(
            f"{launch.local_size} processes were started on this machine, and torch sees {found} GPUs",
            hint=f"type torchrun --nproc-per-node={found}, or choose --device cpu",
        )
    return torch.device("cuda", launch.local_rank)


@contextmanager
def team_of(device: torch.device) -> Iterator[Team]:
    """Meets the other processes that ``torchrun`` started, if there are any, and parts from them at the end.

    Of an error only one process tells; the others leave with the same exit code.
    """
    here = launched()
    if here.size == 1:
        yield Team()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    team = Team(here, _meet("nccl" if device.type == "cuda" else "gloo", here))
    try:
        with lost_process(), _Watch(team):
            yield team
            team.barrier()
    except BaseException as error:
        if not _speaks(team, error):
            code = getattr(error, "exit_code", 1)
            stand_by(1.0 if code == 130 else STAND_BY_SECONDS)  # on request all leave, and torchrun waits for that
            raise SystemExit(code) from error
        finish_sentence()
        raise
    finally:
        with suppress(Exception):
            dist.destroy_process_group()


@contextmanager
def lost_process() -> Iterator[None]:
    """An exchange that failed is the loss of the process at its other end."""
    try:
        yield
    except RuntimeError as error:
        if world_is_broken(error):
            raise LostProcessError from error
        raise


def world_is_broken(error: RuntimeError) -> bool:
    """Whether an exchange with another process failed."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or (dist.is_initialized() and any(word in text for word in _LOST))


def _meet(backend: str, here: Launch) -> dist.Store:
    """The store is torchrun's and outlives the processes; what an earlier meeting left there must not be found."""
    kept, rank, size = next(dist.rendezvous("env://", here.rank, here.size, timeout=TIMEOUT))
    store = dist.PrefixStore(f"ssl3d/{next(_meetings)}", kept)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    return store


def _speaks(team: Team, error: BaseException) -> bool:
    """Whether this process is the one that tells. Where all stop for one reason (a wrong command, a request), it is the
    first; else whoever failed first: it notes that before its connections close, so that what follows elsewhere stays
    unsaid."""
    if getattr(error, "exit_code", 1) in (2, 130):
        return team.first
    with suppress(Exception):
        return team.store is None or bool(team.store.add("failures", 1) == 1)
    return True


class _Watch:
    """Looks whether the other processes on this machine live. An exchange by gloo fails by itself when its other end is
    gone; one by NCCL waits for ever, in a call that no exception can end: then the process is ended from here."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.stop = threading.Event()

    def __enter__(self) -> None:
        everybody = self.team.everybody((socket.gethostname(), os.getpid()))
        near = [pid for host, pid in everybody if host == socket.gethostname() and pid != os.getpid()]
        self.processes = [psutil.Process(pid) for pid in near if psutil.pid_exists(pid)]
        threading.Thread(target=self._look, name="ssl3d-peers", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()

    def _look(self) -> None:
        while not self.stop.wait(0.5):
            if not all(map(_lives, self.processes)) and not self.stop.wait(_GRACE_SECONDS):
                error = LostProcessError()
                if _speaks(self.team, error):
                    sys.stderr.write(f"\nerror: {error.what}\n{error.hint}\n")
                    sys.stderr.flush()
                    time.sleep(0.1)
                os._exit(1)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


__all__ = ["LostProcessError", "Team", "lost_process", "place", "team_of"]
