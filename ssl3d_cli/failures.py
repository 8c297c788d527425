"""Turns whatever went wrong into one panel on stderr and an exit code: 1 the work failed, 2 the command was wrong."""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Sequence

from ssl3d.cli import console
from ssl3d.cli.options import STATE
from ssl3d.data.errors import Ssl3dError
from ssl3d.data.text import nearest
from ssl3d.pipeline.launch import command_words, finish_sentence, launched, stand_by

RESUMABLE = {"prepare", "split", "caption", "embed", "train", "eval", "predict", "synth", "demo", "bench"}
"""Commands that go on where they stopped when typed again."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect."""

_OS_ERRORS = {
    errno.ENOSPC: (
        "The disk is full.",
        "Free some space (`ssl3d clean` lists what can go), or use another --workspace.",
    ),
    errno.EDQUOT: ("Your disk quota is used up.", "Free some space, or use --workspace on another disk."),
    errno.EROFS: ("This place is read-only.", "Use --workspace DIR with a folder that can be written."),
    errno.EACCES: ("Permission denied.", "Check who owns this path, or use --workspace DIR with a folder of your own."),
    errno.EPERM: ("Permission denied.", "Check who owns this path, or use --workspace DIR with a folder of your own."),
    errno.EMFILE: ("Too many open files.", "Raise the limit with `ulimit -n 4096`, or lower --jobs."),
}


def continue_command(argv: Sequence[str]) -> str | None:
    """The command that continues: the same one, without the word that would start over; None where nothing resumes."""
    command = next((word for word in argv if not word.startswith("-")), None)
    if command not in RESUMABLE or not {"--show", "--check"}.isdisjoint(argv):  # these only look
        return None
    return shlex.join([*command_words(), *(word for word in argv if word not in ("--overwrite", "--debug"))])


def report(error: BaseException, argv: Sequence[str]) -> int:
    """Draws ``error`` and returns the exit code."""
    if getattr(error, "exit_code", 1) == 2 and launched().size > 1:  # each has the same command: one says what is wrong
        if not launched().first:
            stand_by()
            return 2
        finish_sentence()
    if STATE.debug and not isinstance(error, KeyboardInterrupt):
        _traceback(error)
    if isinstance(error, KeyboardInterrupt):
        then = continue_command(argv)
        console.say(f"stopped{f'; to continue: {then}' if then else ''}")
        return INTERRUPTED
    if isinstance(error, Ssl3dError) and error.exit_code == INTERRUPTED:
        then = continue_command(argv)
        console.say(f"{error.what}{f'; to continue: {then}' if then else ''}")
        return INTERRUPTED
    if isinstance(error, Ssl3dError):
        then = continue_command(argv) if error.exit_code == 1 else None
        title = "wrong command" if error.exit_code == 2 else "error"
        console.error_panel(error.what, title=title, where=error.where, hint=error.hint, then=then)
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's and click's own
        return _usage(error)
    if isinstance(error, OSError) and error.errno in _OS_ERRORS:
        what, hint = _OS_ERRORS[error.errno]
        where = {"file": error.filename} if error.filename else {}
        console.error_panel(what, where=where, hint=hint, then=continue_command(argv))
        return 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        place = "device" if type(error).__name__ == "OutOfMemoryError" else "machine"
        hint = "Lower --jobs, or for training `--set train.batch_size=1`."
        console.error_panel(f"The memory of this {place} is used up.", hint=hint, then=continue_command(argv))
        return 1
    hint = "This is not a message that ssl3d wrote. Type the command again with --debug for the traceback."
    console.error_panel(f"{type(error).__name__}: {error}", title="unexpected error", hint=hint)
    return 1


def _usage(error: BaseException) -> int:
    """A command that could not be parsed: the usage line, what is wrong, the nearest right word."""
    message = str(error.format_message()).strip().replace("Value error, ", "")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    where: dict[str, object] = {}
    hint = None
    if context is not None:
        where["usage"] = context.get_usage().removeprefix("Usage: ").strip()
        hint = f"Type `{context.command_path} --help`: it has a worked example."
    possibilities = getattr(error, "possibilities", None)
    if possibilities:
        message = f"{getattr(error, 'message', message)}. Did you mean {' or '.join(possibilities)}?"
    elif choice := re.search(r"'([^']*)' is not one of (.*)", message):
        near = nearest(choice[1], re.findall(r"'([^']*)'", choice[2]))
        message += f" Did you mean {near}?" if near else ""
    console.error_panel(message, title="wrong command", where=where, hint=hint)
    return int(getattr(error, "exit_code", 2))


def _traceback(error: BaseException) -> None:
    from rich.traceback import Traceback

    console.err().print(Traceback.from_exception(type(error), error, error.__traceback__))
