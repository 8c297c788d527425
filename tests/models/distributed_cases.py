"""What ``test_distributed.py`` computes twice: in one process on all rows, and in two on their shares.

``python distributed_cases.py RANK FOLDER`` is one of the two. A case returns tensors; the beginning of their names says
how the processes' values make up those of one: ``sum``, ``rows`` (concatenated) or ``same``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE
from ssl3d.models import distributed as d
from ssl3d.models.density_bank import draw_candidates
from ssl3d.models.elements import ElementMap
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.losses.lovasz import lovasz_softmax
from ssl3d.models.losses.unreliable import UnreliableContrast
from ssl3d.models.sparse import SparseTensor
from ssl3d.models.sparse.modules import BatchNorm

Case = Callable[[], dict[str, Tensor]]
ROWS, CUT = 12, 5
CASES: dict[str, Case] = {}


def share(values: Tensor, cut: int = CUT) -> Tensor:
    """This process's rows: unequally many."""
    if d.world_size() == 1:
        return values
    return values[:cut] if d.rank() == 0 else values[cut:]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


# ---------------------------------------------------------------- batch norm


def normalize(
    layer: nn.Module, shape: tuple[int, ...], cut: int = CUT, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Three steps of a layer whose input is far from zero; the loss is curved, so that its gradient is no constant."""
    names = list(layer.state_dict())
    d.synchronize_batch_norm(layer)
    assert list(layer.state_dict()) == names
    out = {}
    for step in range(3):
        x = share(draw(*shape, seed=step) * 3 + 20, cut).to(dtype or torch.float64).requires_grad_()
        y = layer(x)
        assert y.dtype == x.dtype
        layer.zero_grad()
        (y.double() * share(draw(*shape, seed=9), cut) + y.double().pow(3)).sum().backward()
        out |= {f"rows y {step}": y.detach(), f"rows dx {step}": x.grad}
    out |= {f"sum d{name}": p.grad for name, p in layer.named_parameters()}
    out |= {f"same {name}": value.clone() for name, value in layer.named_buffers()}
    layer.eval()
    out["rows eval"] = layer(share(draw(*shape, seed=5), cut).to(dtype or torch.float64)).detach()
    return out


@case
def batch_norm() -> dict[str, Tensor]:
    torch.manual_seed(0)
    layer = nn.BatchNorm1d(4).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return normalize(layer, (ROWS, 4))


@case
def batch_norm_with_a_length() -> dict[str, Tensor]:
    return normalize(nn.BatchNorm1d(3, eps=0.3).double(), (ROWS, 3, 4))


@case
def batch_norm_2d_with_one_row_here() -> dict[str, Tensor]:
    return normalize(nn.BatchNorm2d(3, momentum=0.3).double(), (ROWS, 3, 2, 3), cut=1)


@case
def batch_norm_3d_cumulative() -> dict[str, Tensor]:
    return normalize(nn.BatchNorm3d(2, momentum=None).double(), (ROWS, 2, 2, 1, 2))


@case
def batch_norm_of_a_single_row_here() -> dict[str, Tensor]:
    return normalize(nn.BatchNorm1d(4).double(), (ROWS, 4), cut=1)


@case
def batch_norm_of_no_row_here() -> dict[str, Tensor]:
    return normalize(nn.BatchNorm1d(4).double(), (ROWS, 4), cut=0)


@case
def batch_norm_without_affine() -> dict[str, Tensor]:
    return normalize(nn.BatchNorm1d(4, affine=False).double(), (ROWS, 4))


@case
def batch_norm_without_statistics() -> dict[str, Tensor]:
    out = normalize(nn.BatchNorm1d(4, track_running_stats=False).double(), (ROWS, 4))
    del out["rows eval"]  # of the batch at hand: each process for itself
    return out


@case
def batch_norm_of_half_precision() -> dict[str, Tensor]:
    return normalize(nn.BatchNorm1d(4), (ROWS, 4), dtype=torch.bfloat16)


@case
def sparse_batch_norm() -> dict[str, Tensor]:
    layer = d.synchronize_batch_norm(nn.Sequential(BatchNorm(4)).double())
    features = share(draw(ROWS, 4), 1).requires_grad_()  # one voxel here: enough, as the others have more
    coordinates = torch.zeros(len(features), 4, dtype=torch.int32)
    coordinates[:, 1] = torch.arange(len(features))
    y = layer(SparseTensor(features, coordinates)).features
    y.pow(3).sum().backward()
    out = {"rows y": y.detach(), "rows dx": features.grad, "sum dweight": layer[0].bn.weight.grad}
    return out | {f"same {name}": value for name, value in layer.named_buffers()}


@case
def frozen_batch_norm_is_each_process_for_itself() -> dict[str, Tensor]:
    layer = d.synchronize_batch_norm(nn.BatchNorm1d(4).double()).eval()
    if d.rank() == 0:  # no collective: nobody waits
        layer(draw(3, 4))
    return {}


@case
def what_cannot_be_normalized() -> dict[str, Tensor]:
    if d.world_size() == 1:
        return {}
    with refused(ValueError, "more than one value"):
        d.synchronize_batch_norm(nn.BatchNorm1d(4))(torch.zeros(d.rank(), 4))
    for odd in (nn.SyncBatchNorm(4), type("Own", (nn.BatchNorm1d,), {})(4)):
        with refused(TypeError, "cannot be synchronized"):
            d.synchronize_batch_norm(nn.Sequential(odd))
    return {}


# ---------------------------------------------------------------- losses


def losses(target: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    logits = share(draw(ROWS, 4)).requires_grad_()
    value = loss(logits, share(target))
    value.backward()
    return {"sum loss": value.detach(), "rows gradient": logits.grad}


def targets() -> Iterator[tuple[str, Tensor]]:
    some = torch.tensor([0, IGNORE, 2, 1, 0, IGNORE, 3, 3, 1, 1, IGNORE, 0])
    first, none = some.clone(), torch.full((ROWS,), IGNORE)
    first[:CUT] = IGNORE
    yield from {"some": some, "none here": first, "none": none}.items()


@case
def cross_entropies() -> dict[str, Tensor]:
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])
    found = {}
    for name, target in targets():
        found |= {f"{k} {name}": v for k, v in losses(target, cross_entropy).items()}
        weighted = losses(target, lambda z, y: cross_entropy(z, y, weights))
        found |= {f"{k} weighted {name}": v for k, v in weighted.items()}
    return found


@case
def lovasz() -> dict[str, Tensor]:
    found = {}
    for name, target in targets():
        found |= {f"{k} {name}": v for k, v in losses(target, lambda z, y: lovasz_softmax(z.softmax(1), y)).items()}
    return found


@case
def contrasts_with_unreliable_features() -> dict[str, Tensor]:
    """Draws are functions of the rows, so that both ways draw the same; one process has all labels, or no element."""
    found = {}
    for name, cut in (("", 33), ("one here", 1), ("none here", 0)):
        made = UnreliableContrast(6, 5, 12, ranks=(2, 5), anchors=3, push=4, negatives=7)
        for step in range(3):
            p = (draw(60, 6, seed=step) * 2).softmax(1).float()
            target = torch.where(torch.arange(60) < 20, torch.arange(60) % 6, IGNORE)
            student = share(draw(60, 5, seed=step + 10).float(), cut).requires_grad_()
            rows = share(torch.stack([torch.zeros(60, dtype=torch.int64), torch.arange(60)], 1), cut)
            elements = ElementMap(torch.arange(len(rows)), len(rows))
            guided = torch.ones(len(rows), dtype=torch.bool)
            teacher = share(draw(60, 5, seed=step + 20).float(), cut)
            loss = made(student, teacher, share(p, cut), share(target, cut), guided, elements, rows, step)
            loss.backward()
            found |= {f"sum loss {name} {step}": loss.detach(), f"rows gradient {name} {step}": student.grad}
        found |= {f"same {key} {name}": value for key, value in made.state_dict().items()}
    return found


@case
def means() -> dict[str, Tensor]:
    values, mask = draw(ROWS, 3), draw(ROWS) > 0
    values[~mask] = float("nan")
    mine, chosen = share(values).requires_grad_(), share(mask)
    value = d.global_mean(mine, chosen)
    weighted = d.global_mean(mine, chosen, share(draw(ROWS, 3, seed=1).abs()))
    (value + weighted).backward()
    return {"sum mean": value.detach(), "sum weighted": weighted.detach(), "rows gradient": mine.grad}


# ---------------------------------------------------------------- sums and rows


@case
def sums() -> dict[str, Tensor]:
    """A loss of each process that looks at a sum over all of them."""
    x = share(draw(ROWS, 3)).requires_grad_()
    whole = d.all_reduce_sum(x.exp().sum(0))
    loss = (share(draw(ROWS, 3, seed=1)) * whole).sum()
    loss.backward()
    half = d.all_reduce_sum(torch.ones(2, dtype=torch.bfloat16) / d.world_size())
    counts = [d.total(len(x)), d.total(share(torch.arange(ROWS)).sum()), d.total(0.5 * len(x))]
    out = {"same whole": whole.detach(), "sum loss": loss.detach(), "rows gradient": x.grad, "same half": half}
    return out | {f"same count {i}": count for i, count in enumerate(counts)}


@case
def rows() -> dict[str, Tensor]:
    """Each process weighs all gathered rows by its own number."""
    found = {}
    for cut in (CUT, 1, 0):
        x = share(draw(ROWS, 2, 3), cut).requires_grad_()
        whole = d.gather_rows(x)
        numbers = share(draw(ROWS, seed=1), cut)
        (
            numbers.sum() * whole.pow(3).sum() + (d.gather_rows(numbers)[:, None, None] * whole).sum() / d.world_size()
        ).backward()
        found |= {f"same whole {cut}": whole.detach(), f"rows gradient {cut}": x.grad}
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float32):
        found[f"same {dtype}"] = d.gather_rows(share(draw(ROWS, 2) * 3).to(dtype))
    found["same vector"] = d.gather_rows(share(torch.arange(ROWS)))
    found["same nothing"] = d.gather_rows(torch.zeros(0, 7))
    return found


@case
def candidates() -> dict[str, Tensor]:
    """Of more elements than are wanted the same are drawn; also where a process has none, or nobody has."""
    found = {}
    for cut in (CUT, 0):
        torch.manual_seed(d.rank())  # the first one draws
        label = torch.arange(ROWS) % 3
        chosen = draw_candidates(*(share(v, cut) for v in (draw(ROWS, 2), label, label + 1.0)), 2, 3)
        again = draw_candidates(*(v[:0] for v in (draw(ROWS, 2), label, label)), 2, 3)
        found |= {f"same rows {cut}": chosen[0], f"same label {cut}": chosen[1], f"same none {cut}": again[0]}
        assert len(chosen[0]) == 6
    return found


@contextmanager
def refused(kind: type[Exception], text: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__}")


def run_all() -> dict[str, dict[str, Tensor]]:
    return {name: function() for name, function in CASES.items()}


if __name__ == "__main__":
    number, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    torch.save(run_all(), folder / f"{number}.pt")
    dist.destroy_process_group()
