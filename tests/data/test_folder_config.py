"""Descriptions of folders: patterns, the documentation of all keys, and what can be wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ssl3d.data.datasets.folder import Folder
from ssl3d.data.datasets.folder_config import FolderConfig, beside, matching, parse_config, read_config
from ssl3d.data.errors import DataError
from ssl3d.pipeline.training.config import resolve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE: dict[str, Any] = {
    "name": "mine",
    "clouds": {"files": ["**/*.csv"]},
    "columns": {"label": "code"},
    "classes": {"2": "ground"},
}
IMAGE: dict[str, Any] = {
    "name": "front",
    "files": "{stem}.jpg",
    "size": [4, 3],
    "intrinsic": [1.0] * 9,
    "extrinsic": [0.0] * 16,
}


def test_patterns() -> None:
    names = ["a/b/c1.las", "a/c2.las", "c3.LAS", "c4.las"]
    assert matching("*.las", names) == ["c4.las"]
    assert matching("**/*.las", names) == ["a/b/c1.las", "a/c2.las", "c4.las"]
    assert matching("a/**/c?.las", names) == ["a/b/c1.las", "a/c2.las"]
    assert matching("**/c[13].*", names) == ["a/b/c1.las", "c3.LAS"]
    assert matching("**/c[!13].*", names) == ["a/c2.las", "c4.las"]
    assert beside("{folder}/../l/{stem}.txt", "s/p/1.bin") == "s/p/../l/1.txt"
    assert beside("{path}_l.npy", "1.2.bin") == "1.2_l.npy"


def test_the_documentation_names_all_keys(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-scans.md").read_text()
    whole, beside_clouds = (tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    config = parse_config(whole, tmp_path / "my.toml")
    columns = {**whole["columns"], "label": ""}
    other = parse_config({**whole, **beside_clouds, "columns": columns}, tmp_path / "my.toml")
    named = {name for table in (whole, beside_clouds) for name in table}
    assert named == set(FolderConfig.model_fields) - {"file"}
    for name in ("clouds", "columns", "tiles"):
        assert set(whole[name]) == set(type(getattr(config, name)).model_fields)
    for name in ("poses", "sensor"):
        assert set(beside_clouds[name]) == set(type(getattr(other, name)).model_fields)
    assert set(beside_clouds["images"][0]) == set(type(other.images[0]).model_fields) - {"poses"}  # or an extrinsic
    assert Folder(other.text()).spec().classes == ("ground", "vegetation", "building")


def test_scans_of_an_own_sensor_are_mixed_over_its_field_of_view(tmp_path: Path) -> None:
    sensor = {"fov_up_deg": 15.0, "fov_down_deg": 25.0, "height": 64, "width": 512, "max_points": 100}
    table = {**TABLE, "sensor": {**sensor, "mean": [0.0] * 5, "std": [1.0] * 5}, "defaults": ["cps.fov_up=12"]}
    spec = Folder(parse_config(table, tmp_path / "my.toml").text()).spec()
    for method, up in (("lasermix", 15), ("cps", 12)):  # what the file says comes last; the sign of "down" is optional
        params: Any = resolve(method, defaults=spec.defaults).method_params
        assert (params.fov_up, params.fov_down) == (up, -25)


@pytest.mark.parametrize(
    ("change", "message", "field"),
    [
        ({"colums": {}}, "no key 'colums'.*did you mean 'columns'", "colums"),
        ({"clouds": {"file": ["*"]}}, "missing|no key 'file'.*'files'", "clouds"),
        ({"clouds": {"files": []}}, "at least 1 item", "clouds.files"),
        ({"clouds": {"files": ["*"], "scale": 0}}, "greater than 0", "clouds.scale"),
        ({"classes": {}}, "at least 1", "classes"),
        ({"ignored": {"2": "x"}}, "id 2 is a class and ignored", "whole"),
        ({"classes": {"70000": "x"}}, "70000 is not within", "whole"),
        ({"columns": {"color": ["r", "g"]}}, "color is three columns", "columns"),
        ({"subsets": {"val": ["x"], "val_share": 0.1}}, "patterns or shares", "subsets"),
        ({"name": "a b"}, "name is letters", "whole"),
        ({"labels": {"files": "{stem}.txt"}}, "not both", "whole"),
        ({"poses": {"files": "{sten}.txt"}}, "{sten} stands for nothing", "whole"),
        ({"poses": {"files": "a.txt", "by": "name"}}, "'order' or 'stem'", "poses.by"),
        ({"clouds": {"files": ["*"], "keep": {"code": [1]}}}, "keep chooses rows by 'code'", "whole"),
        ({"images": [IMAGE | {"intrinsic": [1.0]}]}, "intrinsic is 9 numbers", "images.0"),
        ({"images": [IMAGE | {"extrinsic": [1.0]}]}, "an extrinsic of 16 numbers, or poses", "images.0"),
        ({"images": [IMAGE | {"poses": {"files": "a"}}]}, "an extrinsic of 16 numbers, or poses", "images.0"),
        ({"images": [IMAGE | {"files": "{frame}.jpg"}]}, "{frame} stands for nothing", "whole"),
        ({"sensor": {"height": 64}}, "a key is missing", "sensor.fov_up_deg"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, change: dict[str, Any], message: str, field: str) -> None:
    table = TABLE | change
    with pytest.raises(DataError, match=message) as caught:
        parse_config(table, tmp_path / "my.toml")
    assert field in str(caught.value.where["field"])


def test_a_description_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    with pytest.raises(DataError, match="cannot be read"):
        read_config(path)
    path.write_text("name = ign\n")
    with pytest.raises(DataError, match=r"no TOML.*line 1"):
        read_config(path)
