"""The one family of errors that the command line turns into a panel: what is wrong, where, what to type next."""

from __future__ import annotations

from collections.abc import Mapping


class Ssl3dError(Exception):
    """An error the user can act on.

    Args:
        what: one sentence, what is wrong.
        where: file, scan, field ... by name, in the order to show them.
        hint: what to do or to type next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: Mapping[str, object] | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = dict(where or {})
        self.hint = hint

    def __str__(self) -> str:
        place = "; ".join(f"{name}: {value}" for name, value in self.where.items())
        return self.what + (f" [{place}]" if place else "") + (f" -> {self.hint}" if self.hint else "")

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments survive the trip from a worker process
        return _rebuild, (type(self), self.what, {k: str(v) for k, v in self.where.items()}, self.hint)


class DataError(Ssl3dError):
    """Something in the user's files is wrong."""


class UsageError(Ssl3dError):
    """The command itself was wrong (exit code 2)."""

    exit_code = 2


def _rebuild(cls: type[Ssl3dError], what: str, where: dict[str, str], hint: str | None) -> Ssl3dError:
    return cls(what, where=where, hint=hint)
