"""The command ``ssl3d``. Sub-commands are imported when they are typed, so that ``ssl3d --help`` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ssl3d.cli import console, failures
from ssl3d.cli.options import STATE, Debug
from ssl3d.data.errors import UsageError
from ssl3d.data.text import nearest
from ssl3d.pipeline.launch import leave

COMMANDS: dict[str, dict[str, str]] = {
    "The chain": {
        "prepare": "Convert a dataset as published into shards that train fast.",
        "split": "Choose the scans whose labels a method may see.",
        "train": "Train a method, or go on with an unfinished run.",
        "eval": "Score runs over every original point, and report them side by side.",
        "predict": "Write predictions in the dataset's own format.",
        "submit": "Check an archive before a benchmark's server does.",
    },
    "Before training": {
        "density": "Count the neighbors of every point within a radius.",
        "subsample": "Thin scans on a grid, for backbones that work on points.",
        "oversegment": "Cut scans into regions of one surface each.",
        "boundary": "Learn where classes meet, and predict it for every scan.",
        "caption": "Say what the images of scans show, as a whole and thing by thing.",
        "embed": "Turn the texts of captions into vectors.",
        "pair": "Find the pixels of every point in the images of its scan.",
    },
    "Look around": {
        "status": "Show what is cached, stale or missing, and why.",
        "runs": "List runs, or show one.",
        "doctor": "Check this machine, and say what to type for each problem.",
        "clean": "Remove what is stale, or what you name.",
    },
    "Weights of others": {
        "import-checkpoint": "Convert a published MinkUNet, to begin training from it.",
    },
    "Without data of your own": {
        "demo": "Run the whole chain on generated street scans.",
        "synth": "Generate a dataset in a published layout.",
        "bench": "Measure ssl3d against other libraries.",
    },
}
"""Group -> name -> one line. Each name has a module with ``app``, a Typer (see ``module_of``)."""


def module_of(command: str) -> str:
    """The module of a command: ``import-checkpoint`` is ``ssl3d.cli.commands.import_checkpoint``."""
    return f"ssl3d.cli.commands.{command.replace('-', '_')}"


EXAMPLE = """\
  ssl3d prepare semantickitti --root /data/kitti
  ssl3d split --ratio 1%
  ssl3d train supervised --backbone minkunet18
  ssl3d eval --report table"""


class LazyGroup(TyperGroup):
    """Knows the names and one-line summaries of its commands, and imports a command only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        if cmd_name not in self.commands:
            module = import_module(module_of(cmd_name))
            command = typer.main.get_command(module.app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.list_commands(ctx) and not name.startswith("-") and not ctx.resilient_parsing:
            near = nearest(name, self.list_commands(ctx))
            hint = f"Did you mean `ssl3d {near}`?" if near else "Type `ssl3d --help` for the commands."
            raise UsageError(f"ssl3d has no command '{name}'.", hint=hint)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # before typer turns it into an exit without a word
            raise _Interrupted from error

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.panel import Panel
        from rich.table import Table

        paper = console.out()
        paper.print("\n [bold]Usage:[/] ssl3d COMMAND \\[OPTIONS]\n")
        paper.print(f" {self.help}\n")
        for title, commands in COMMANDS.items():
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="bold cyan", width=max(8, *map(len, commands)), no_wrap=True)
            for name, summary in commands.items():
                grid.add_row(name, summary)
            paper.print(Panel(grid, title=title, title_align="left", border_style="dim"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold cyan", no_wrap=True)
        for parameter in self.get_params(ctx):
            grid.add_row(", ".join(parameter.opts), getattr(parameter, "help", None) or "")
        paper.print(Panel(grid, title="Options", title_align="left", border_style="dim"))
        paper.print(Panel(EXAMPLE, title="Example", title_align="left", border_style="dim"))
        paper.print(" [dim]`ssl3d COMMAND --help` has a worked example of each command.[/]\n")


class _Interrupted(Exception):  # noqa: N818  (not an error: the user pressed Ctrl-C)
    pass


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"ssl3d {version('ssl3d')}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    help="Label-efficient 3D semantic segmentation: methods and baselines on the same data, splits, backbones and "
    "evaluation."
)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), end="")


def run(argv: Sequence[str]) -> int:
    """Runs one command line (without the program name). Returns the exit code: 0, 1, 2, or 130 after Ctrl-C."""
    STATE.debug, STATE.workspace = False, None
    try:
        result = typer.main.get_command(app).main(args=list(argv), prog_name="ssl3d", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:  # `ssl3d status | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (_Interrupted, KeyboardInterrupt):
        return failures.report(KeyboardInterrupt(), argv)
    except Exception as error:
        return failures.report(error, argv)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets '?' instead of a crash
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # How long OpenMP's threads spin before they sleep; read once, when torch is imported. For ever (the usual) makes
    # training up to 20 times slower beside a busy process, not at all 3 times slower on an idle machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        code = run(sys.argv[1:])
    except SystemExit as error:  # of a process that leaves the last word to another
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    leave(code)


if __name__ == "__main__":
    main()
