"""The shell of the command line: help, versions, exit codes, what is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ssl3d.cli.app import COMMANDS, module_of
from ssl3d.cli.failures import continue_command, report

HEAVY = ("torch", "numba", "scipy", "open3d", "h5py", "numpy", "pydantic", "matplotlib", "rich.markdown", "pygments")
NAMES = [name for group in COMMANDS.values() for name in group]


def _imported_by(*words: str) -> list[str]:
    """Heavy packages in sys.modules after a command line, in a fresh process."""
    script = f"""
import json, sys
from ssl3d.cli.app import run
code = run({list(words)!r})
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    code, heavy = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    return list(heavy)


def test_help_imports_nothing_heavy() -> None:
    assert _imported_by("--help") == []


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_does_not_wait_for_torch(name: str) -> None:
    heavy = set(_imported_by(name, "--help"))
    assert not heavy & {"torch", "numba", "scipy", "open3d", "h5py", "numpy", "matplotlib"}


def test_status_does_not_import_torch(tmp_path: Path) -> None:
    assert not {"torch", "numba", "scipy", "open3d"} & set(
        _imported_by("status", "--workspace", str(tmp_path / "none"))
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_worked_example(ssl3d, name: str) -> None:
    answer = ssl3d(name, "--help")
    assert answer.code == 0
    assert "Example" in answer.out
    assert f"ssl3d {name}" in answer.out.split("Example")[1]


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_80_columns_and_explains_every_option(name: str) -> None:
    import typer

    module = import_module(module_of(name))
    epilogs = "\n".join([module.EPILOG, *(str(command.epilog) for command in module.app.registered_commands)])
    examples = [line.replace("\\[", "[") for line in epilogs.splitlines() if line.startswith("  ssl3d")]
    assert examples and max(map(len, examples)) <= 78
    for parameter in typer.main.get_command(module.app).params:
        explained = getattr(parameter, "help", None)
        assert explained and not explained.startswith("["), parameter.name


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_top_level_help_lists_every_command(ssl3d, words: tuple[str, ...]) -> None:
    answer = ssl3d(*words)
    assert answer.code == 0
    assert all(name in answer.out for name in NAMES)
    assert answer.err == ""


def test_version(ssl3d) -> None:
    from importlib.metadata import version

    assert ssl3d("--version").out == f"ssl3d {version('ssl3d')}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prepar",), "ssl3d prepare"),
        (("frobnicate",), "ssl3d --help"),
        (("prepare", "semantickitti"), "--root"),
        (("status", "--jsn"), "--json"),
        (("synth", "streat"), "street"),
        (("bench", "stagse"), "stages"),
        (("prepare", "semantickiti", "--root", "."), "semantickitti"),
        (("doctor", "--jobs", "two"), "--jobs"),
        (("split", "--ratio", "1%", "--official", "lasermix-1%"), "exclude"),
        (("split",), "--ratio"),
        (("clean", "--runs", "--all"), "--stale"),
        (("split", "--show", "--ratio", "1%"), "Leave out --show"),
        (("prepare", "semantickitti", "--root", "nowhere"), "does not exist"),
    ],
)
def test_a_wrong_command_is_exit_code_2_and_one_panel_that_helps(ssl3d, words: tuple[str, ...], says: str) -> None:
    answer = ssl3d(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("╭") == 1
    assert says in answer.err
    assert "Traceback" not in answer.err


def test_the_command_that_continues_drops_the_word_that_starts_over() -> None:
    argv = ["train", "supervised", "--overwrite", "--set", "train.batch=1", "--workspace", "my space"]
    assert continue_command(argv) == "ssl3d train supervised --set train.batch=1 --workspace 'my space'"
    assert continue_command(["status"]) is None


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(28, "No space left on device", "/big"), 1, "disk is full"),
        (OSError(30, "Read-only file system", "/ro/x"), 1, "/ro/x"),
        (PermissionError(13, "Permission denied", "/secret"), 1, "Permission denied"),
        (MemoryError(), 1, "memory"),
        (KeyboardInterrupt(), 130, "ssl3d prepare semantickitti --root data"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero"),
    ],
)
def test_errors_of_the_system(capsys, error: BaseException, code: int, says: str) -> None:
    assert report(error, ["prepare", "semantickitti", "--root", "data"]) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


def test_status_of_nothing_says_how_to_begin(ssl3d, here: Path) -> None:
    answer = ssl3d("status")
    assert answer.code == 0 and "ssl3d prepare" in answer.out and "ssl3d demo" in answer.out
    value = json.loads(ssl3d("status", "--json").out)
    assert value["stages"] == value["runs"] == []
    assert list(here.iterdir()) == []


def test_a_workspace_that_is_a_file_or_of_a_newer_version(ssl3d, here: Path) -> None:
    (here / "file").write_text("not a folder")
    assert ssl3d("status", "--workspace", "file").code == 2
    (here / "new").mkdir()
    (here / "new" / "workspace.json").write_text('{"schema": 99, "current": null}')
    answer = ssl3d("status", "--workspace", "new")
    assert answer.code == 1 and "newer" in answer.err and "upgrade" in answer.err


def test_debug_shows_the_traceback(ssl3d, here: Path) -> None:
    (here / "file").write_text("not a folder")
    assert "Traceback" not in ssl3d("split", "--show", "--workspace", "file").err
    for words in (("split", "--show", "--workspace", "file", "--debug"), ("--debug", "split", "--show", "-w", "file")):
        assert "Traceback" in ssl3d(*words).err


def test_a_closed_pipe_is_quiet(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run([sys.executable, "-m", "ssl3d.cli.app", "--help"], stdout=closed, stderr=subprocess.PIPE)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ssl3d pre", "prepare"),
        ("ssl3d prepare semantic", "semantickitti"),
        ("ssl3d train superv", "supervised"),
        ("ssl3d train supervised --backbone minkunet-", "minkunet-micro"),
        ("ssl3d eval my-", "my-run"),
    ],
)
def test_completion(here: Path, line: str, expected: str) -> None:
    (here / "workspace" / "runs" / "my-run").mkdir(parents=True)
    environment = {
        **os.environ,
        "_SSL3D_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    script = "from ssl3d.cli.app import run; run([])"
    done = subprocess.run([sys.executable, "-c", script], cwd=here, env=environment, capture_output=True, text=True)
    assert expected in done.stdout.splitlines()
