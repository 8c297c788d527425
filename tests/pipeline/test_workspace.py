from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.workspace import SCHEMA, DatasetHandle, Workspace, check_dataset_name, ensure_numba_cache


def test_opening_writes_nothing_until_something_is_to_be_kept(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "ws")
    assert not workspace.root.exists()
    workspace.ensure()
    assert json.loads((workspace.root / "workspace.json").read_text()) == {"schema": SCHEMA, "current": None}
    assert (workspace.root / ".gitignore").read_text() == "*\n"
    assert Workspace.open(workspace.root, create=False).root == workspace.root


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(UsageError, match="this is a file") as caught:
            Workspace.open(path)
        assert caught.value.exit_code == 2


def test_a_folder_with_other_things_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="not a workspace") as caught:
        Workspace.open(tmp_path)
    assert "thesis.tex" in str(caught.value.where["holds"])


def test_reading_commands_want_a_workspace(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no workspace here"):
        Workspace.open(tmp_path / "none", create=False)


def test_a_newer_schema_is_refused_and_kept(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "ws").ensure()
    text = json.dumps({"schema": SCHEMA + 1, "current": None})
    (workspace.root / "workspace.json").write_text(text)
    with pytest.raises(Ssl3dError, match="newer ssl3d"):
        Workspace.open(workspace.root)
    assert (workspace.root / "workspace.json").read_text() == text


def test_an_unreadable_description_can_be_deleted_as_the_hint_says(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "ws").ensure()
    (workspace.root / "data").mkdir()
    (workspace.root / "workspace.json").write_text("{")
    with pytest.raises(Ssl3dError, match="unreadable"):
        Workspace.open(workspace.root)
    (workspace.root / "workspace.json").unlink()
    assert Workspace.open(workspace.root).ensure().current is None


def test_a_workspace_that_cannot_be_written_says_so(tmp_path: Path, nobody: None) -> None:
    with pytest.raises(Ssl3dError, match="cannot be written") as caught:
        Workspace.open(tmp_path / "ws").ensure()
    assert "--workspace" in str(caught.value.hint)


def test_a_workspace_may_be_read_without_write_permission(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    workspace = Workspace.open(tmp_path / "ws").ensure()
    if os.geteuid() != 0:
        workspace.root.chmod(0o555)
    request.getfixturevalue("nobody")
    assert Workspace.open(workspace.root, create=False).datasets() == []
    with pytest.raises(Ssl3dError, match="cannot be written"), workspace.lock("data-x"):
        pass


def test_without_a_dataset_the_error_says_what_to_type(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "ws").ensure()
    with pytest.raises(UsageError, match="no dataset") as caught:
        workspace.dataset()
    assert "ssl3d prepare" in str(caught.value.hint)
    DatasetHandle(workspace, "kitti").update("prepare", "0" * 12)
    with pytest.raises(UsageError, match="no dataset 'katti'") as caught:
        workspace.dataset("katti")
    assert caught.value.where["prepared"] == "kitti"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b"])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_dataset_name(name)


HOLD = """
import sys, time
from ssl3d.pipeline.workspace import Workspace
class Say:
    def say(self, text): print(text, flush=True)
with Workspace.open(sys.argv[1]).lock("data-x", Say()):
    print("held", flush=True)
    sys.stdin.readline()
"""


def _holder(workspace: Workspace) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workspace.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_the_second_process_waits_for_the_first_and_names_it(workspace: Workspace) -> None:
    with _holder(workspace) as first, _holder(workspace) as second:
        assert first.stdout and first.stdin and second.stdout and second.stdin
        outputs = [first.stdout, second.stdout]
        heard = first.stdout.readline(), second.stdout.readline()
        holder, waiter = (0, 1) if heard[0] == "held\n" else (1, 0)
        assert heard[holder] == "held\n"
        assert f"waiting for process {(first, second)[holder].pid} " in heard[waiter]
        (first, second)[holder].communicate("\n")
        assert outputs[waiter].readline() == "held\n"
        (first, second)[waiter].communicate("\n")


def test_a_killed_holder_leaves_the_lock_free(workspace: Workspace) -> None:
    with _holder(workspace) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    with workspace.lock("data-x"):
        value = json.loads((workspace.root / "locks" / "data-x.json").read_text())
    assert value["pid"] == os.getpid() and value["since"] <= time.time()


def test_numba_caches_in_the_workspace_when_the_package_is_read_only(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    ensure_numba_cache(workspace)
    writable = os.access(Path(__file__).parents[2] / "data", os.W_OK)
    assert ("NUMBA_CACHE_DIR" in os.environ) is not writable
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    ensure_numba_cache(workspace)
    assert os.environ["NUMBA_CACHE_DIR"] == str(workspace.numba_cache)


def test_numba_has_a_place_also_without_a_workspace_and_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = Path(__file__).parents[2] / "data"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == tmp_path)
    ensure_numba_cache(None)
    assert "NUMBA_CACHE_DIR" not in os.environ  # numba finds the home folder by itself
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    ensure_numba_cache(None)
    assert Path(os.environ["NUMBA_CACHE_DIR"]).stat().st_mode & 0o077 == 0
    assert not Path(os.environ["NUMBA_CACHE_DIR"]).is_relative_to(package)


def test_places_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="link to nowhere"):
        Workspace.open(tmp_path / "link")
    if Path("/proc/self").exists():
        with pytest.raises(Ssl3dError, match=r"cannot be (made|written)"):
            Workspace.open("/proc/ssl3d-workspace").ensure()


@pytest.mark.parametrize("stages", [None, [], 5, "x", {"prepare": 3}])
def test_a_damaged_record_of_a_dataset_names_no_products(workspace: Workspace, stages: object) -> None:
    handle = DatasetHandle(workspace.ensure(), "kitti")
    handle.update("prepare", "0" * 12)
    (handle.folder / "dataset.json").write_text(json.dumps({"name": 7, "stages": stages}))
    assert handle.product("prepare") is None and handle.record() == {"name": "kitti", "stages": {}}
    handle.update("prepare", "1" * 12)
    assert handle.record()["stages"] == {"prepare": "1" * 12}
