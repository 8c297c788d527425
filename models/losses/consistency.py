"""Consistency of a student with a teacher: how far apart two predictions of the same elements are."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ssl3d.models.distributed import global_mean, total

Distance = Literal["mse", "kl"]


def consistency(
    student: Tensor, teacher: Tensor, distance: Distance = "mse", divide_by: Tensor | int | None = None
) -> Tensor:
    """The mean distance of two predictions (Tarvainen and Valpola, NIPS 2017, eq. 1).

    ``mse``: ``1/(N C) sum_nc (p_s - p_t)^2``; over the classes too, so one weight is weaker for more classes.
    ``kl``: ``1/N sum_n sum_c p_t (log p_t - log p_s)`` (the ScribbleKITTI code).

    Computed in float32 at least. Without any element: an exact zero attached to the graph. Among several processes, the
    share of this one in the mean over the elements of all.

    Args:
        student: (N, C) logits.
        teacher: (N, C) *probabilities*; no gradient reaches them.
        divide_by: a count (of this process) that takes the place of N.

    Returns:
        scalar.
    """
    student = student if student.dtype.itemsize >= 4 else student.float()
    guide = teacher.detach().to(student.dtype)
    if distance == "mse":
        each = (student.softmax(1) - guide).square().mean(1)
    else:
        # 0 log 0 = 0
        each = (guide.xlogy(guide) - guide * student.log_softmax(1)).sum(1)
    if divide_by is None:
        return global_mean(each)
    return each.sum() / total(divide_by).clamp(min=1).to(each)


__all__ = ["Distance", "consistency"]
