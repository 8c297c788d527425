"""The documentation holds: the example runs as it stands there, and what is named exists."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

from ssl3d.cli import app
from ssl3d.pipeline.training.config import key_table
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.workspace import Workspace

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = "add-a-method.md"
ENGINE = "../models/sparse/README.md"
PAGES = [
    name for name in ("architecture.md", EXAMPLE, "benchmarks.md", "captions.md", ENGINE) if (DOCS / name).exists()
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|toml))(?:, continued)?\n")
SMALLER = {
    "prepare": "--allow-partial --jobs 1",
    "split": "--jobs 1",
    "train": "--steps 4 --set backbone.voxel_size=0.5 --set train.log_every=1 --device cpu --jobs 1",
    "eval": "--device cpu --jobs 1",
}
"""What is typed besides, so that the commands are quick (of an option that stands twice the last one counts)."""


def blocks(page: str, language: str) -> list[str]:
    found = FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    return [body for name, body in found if name == language]


def write_files(page: str, folder: Path) -> None:
    """The files that the blocks of a page make up."""
    files: dict[str, list[str]] = {}
    for body in [*blocks(page, "toml"), *blocks(page, "python")]:
        head = FILE.match(body)
        assert head, f"this block does not say which file it belongs to: {body[:60]}"
        files.setdefault(head[1], []).append(body[head.end() :])
    for name, parts in files.items():
        (folder / name).write_text("\n\n".join(part.strip("\n") + "\n" for part in parts), encoding="utf-8")


def write_package(folder: Path) -> Path:
    """The files of the example, and beside them what pip would leave of its metadata."""
    write_files(EXAMPLE, folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example, installed for this process and its children."""
    folder = write_package(tmp_path_factory.mktemp("package"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.delenv("SSL3D_WORKSPACE", raising=False)
        before = set(sys.modules)
        yield folder
        for name in {path.stem for path in folder.glob("*.py")} - before:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def example_tests(package: Path) -> ModuleType:
    return importlib.import_module("test_self_training")


# ---------------------------------------------------------------- the example


def test_the_tests_of_the_example_pass(package: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "test_self_training.py"]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_its_commands_do_what_the_page_says(
    package: Path, example_tests: ModuleType, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    typed = [shlex.split(line) for body in blocks(EXAMPLE, "sh") for line in body.splitlines() if line[:6] == "ssl3d "]
    said: dict[str, str] = {}
    for words in typed:
        if words[1] == "synth":
            example_tests.write_scans(tmp_path / words[words.index("--out") + 1])
            continue
        code = app.run([*words[1:], *shlex.split(SMALLER.get(words[1], ""))])
        out, err = capsys.readouterr()
        assert code == 0, err
        said[" ".join(words[1:])] = out
    assert "self_training" in said["train --list"]
    assert "self_training.keep" in said["train self_training --list-keys"]
    report = said["eval --weights ema --report table"]
    assert "self_training-minkunet-micro" in report
    assert "supervised-minkunet-micro" in report
    mine, other = RunDirectory.list(Workspace.open("workspace"))
    assert (mine.config.method, other.config.method) == ("self_training", "supervised")
    assert [("guessed" in line["losses"], "pseudo_labels" in line) for line in mine.metrics()] == [
        (False, False), (False, False), (True, True), (True, True)
    ]  # fmt: skip
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for entry in mine.path.iterdir():
        assert f"`{entry.name}`" in page or f"`{entry.name}/`" in page
    (product,) = (tmp_path / "workspace" / "data").glob("*/split/*/split.json")  # data/<dataset>/<stage>/<key>/
    assert product.exists()


def test_the_operator_of_the_engine_s_page_passes_its_tests_and_its_first_example_prints_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(ENGINE, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "test_channelwise.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    runpy.run_path(str(tmp_path / "look.py"))
    assert [capsys.readouterr().out] == blocks(ENGINE, "")


# ---------------------------------------------------------------- what is named


def inline(page: str) -> list[str]:
    """What stands between backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", (DOCS / page).read_text(encoding="utf-8")))


def commands(page: str) -> list[list[str]]:
    """The words of each command of ssl3d on a page, those below torchrun too."""
    lines = [line for body in blocks(page, "sh") for line in body.replace("\\\n", " ").splitlines()]
    found = []
    for line in [*lines, *(code for code in inline(page) if " " in code)]:
        if line.startswith("ssl3d "):
            found.append(shlex.split(line, comments=True))
        elif line.startswith("torchrun "):
            found.append(["ssl3d", *shlex.split(line.partition("-m ssl3d.cli ")[2], comments=True)])
    return found


def sub_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words begin with, and the words after it."""
    command: Any = typer.main.get_command(app.app)
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        name, words = words[0], words[1:]
        command = command.get_command(typer.Context(command), name)
        assert command is not None, f"there is no command {name!r}"
    return command, words


def options_of(command: Any) -> set[str]:
    return {"--help", *(word for item in command.params for word in (*item.opts, *item.secondary_opts))}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_with_its_options(page: str, package: Path) -> None:
    for words in commands(page):
        command, rest = sub_command(words[1:])
        unknown = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)} - options_of(command)
        assert not unknown, f"{' '.join(words)}: no option {', '.join(sorted(unknown))}"
        for option, setting in itertools.pairwise(rest):
            if option == "--set" and "=" in setting and setting[0].islower():
                method = rest[0] if words[1] == "train" and not rest[0].startswith("-") else "supervised"
                key_table(method, "minkunet-micro").find(setting.split("=")[0])


@pytest.mark.parametrize("page", PAGES)
def test_every_file_exists(page: str, repository: Path) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert ((DOCS / page).parent / target).exists(), f"{page} links to {target}"
    ours = {path.name for path in repository.iterdir()}
    for name in inline(page):
        if re.fullmatch(r"[\w.*-]+/[\w./*-]*", name) and name.split("/")[0] in ours:
            assert any(repository.glob(name.rstrip("/"))), f"{page} names {name}"


@pytest.mark.parametrize("drawing", ["architecture.svg", "sparse-engine.svg"])
def test_the_drawing_is_sound_and_names_files_that_exist(drawing: str, repository: Path) -> None:
    root = ElementTree.parse(DOCS / "pictures" / drawing).getroot()
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    files = [text for text in texts if text.endswith(".py") and "<" not in text and ":" not in text]
    assert len(files) > 5
    for name in files:
        assert any(repository.glob(f"*/{name}")) or (repository / name).exists(), name
