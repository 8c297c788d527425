"""The description of a folder of anyone's scans: a .toml file, checked, and as the text that readers are made from."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ssl3d.data.datasets.spool import TileParams
from ssl3d.data.errors import DataError
from ssl3d.data.formats.read import split_suffix
from ssl3d.data.scan import IGNORE
from ssl3d.data.text import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HINT = "`ssl3d prepare folder --guess DIR` writes one; docs/own-scans.md names all keys"
PLACES = ("path", "folder", "stem")
"""What stands in braces in the pattern of a file beside a cloud: its path without suffix, its folder, its name."""
HIDDEN_ID = 65535
"""Stands for ignored ids that are no 16-bit number, such as -1."""
_MOST_CLASSES = 254
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.IGNORECASE)
RGB = tuple[int, int, int]


class Part(BaseModel):
    """A table of the file; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Storage(Part):
    """What files do not say of themselves; see ``formats.Options``. ``format``: where the suffix does not tell."""

    dtype: str = "<f4"
    dataset: str = ""
    delimiter: str = ""
    decimal: str = ""
    skip: int = Field(0, ge=0)
    format: Literal["", "bin", "text"] = ""


class Clouds(Storage):
    """``[clouds]``: files below the root.

    Attributes:
        files, exclude: glob patterns; ``**`` stands for any folders.
        names: the columns of files that do not name their own, in the stored order.
        group: what a split holds out together: each cloud by itself, or all clouds of a folder.
        keep: column -> values; rows with another value there are left out (one of several lidars in a file).
        scale: meters in a unit of the coordinates.
        zero_is_none: rows at (0, 0, 0) are no measurement.
    """

    files: tuple[str, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    group: Literal["cloud", "folder"] = "cloud"
    keep: dict[str, tuple[float, ...]] = {}
    scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    zero_is_none: bool = False


class Columns(Part):
    """``[columns]``: which column is what. ``intensity_range`` and ``color_max`` are what 0..1 is made of."""

    coordinates: tuple[str, str, str] = ("x", "y", "z")
    intensity: str = ""
    intensity_range: tuple[float, float] = (0.0, 1.0)
    color: tuple[str, ...] = ()
    color_max: float = Field(255.0, gt=0)
    normal: tuple[str, ...] = ()
    ring: str = ""
    label: str = ""
    instance: str = ""

    @model_validator(mode="after")
    def _widths(self) -> Columns:
        for name in ("color", "normal"):
            if len(getattr(self, name)) not in (0, 1, 3):
                raise ValueError(f"{name} is three columns, or one that holds three numbers")
        if self.intensity_range[0] >= self.intensity_range[1]:
            raise ValueError("intensity_range goes from a smaller number to a larger one")
        return self


class Labels(Storage):
    """``[labels]``: labels in files of their own. ``bits``: the lowest so many are the class, the rest an instance."""

    files: str
    dtype: str = "<u4"
    column: str = "label"
    names: tuple[str, ...] = ()
    bits: int = Field(0, ge=0, le=31)


class PoseFiles(Part):
    """Poses: a file per cloud (``{stem}`` in the pattern), or a file per folder with a pose per cloud.

    A pose is 12 or 16 numbers, row by row, on a line of a text or in a JSON list; or in JSON ``position`` (x, y, z) and
    ``heading`` (a quaternion w, x, y, z).

    Attributes:
        by: which pose of several belongs to a cloud: those of the clouds in order of name, or the one whose number
            (from 0) or key is the name of the cloud.
    """

    files: str
    by: Literal["order", "stem"] = "order"


class Poses(PoseFiles):
    """``[poses]``: of the clouds, to the world.

    Attributes:
        world: coordinates are in the world already: they are taken back to where the sensor is at the origin.
    """

    world: bool = False


class Images(Part):
    """One of ``[[images]]``: a camera.

    Attributes:
        files: pattern; * is allowed in the name of the file, where one image of each cloud matches.
        size: width and height, pixels.
        intrinsic: 9 numbers; or the pattern of a JSON file with fx, fy, cx, cy.
        extrinsic: 16 numbers that take points of a cloud to the camera, z forward; or ``poses``: of the camera (z
            forward) to the world.
    """

    name: str
    files: str
    size: tuple[int, int]
    intrinsic: tuple[float, ...] | str
    extrinsic: tuple[float, ...] = ()
    poses: PoseFiles | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Images:
        if not isinstance(self.intrinsic, str) and len(self.intrinsic) != 9:
            raise ValueError("intrinsic is 9 numbers, or the pattern of a JSON file with fx, fy, cx and cy")
        if (len(self.extrinsic) == 16) == (self.poses is not None) or len(self.extrinsic) not in (0, 16):
            raise ValueError("a camera has an extrinsic of 16 numbers, or poses")
        return self

    def patterns(self) -> Iterator[str]:
        """Of the files that every image needs."""
        yield self.files
        yield from [self.intrinsic] if isinstance(self.intrinsic, str) else []
        yield from [self.poses.files] if self.poses is not None else []


class Subsets(Part):
    """``[subsets]``: patterns of clouds or groups; or shares of the groups, drawn by ``seed``. The rest is train."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    val_share: float = Field(0.0, ge=0, lt=1)
    test_share: float = Field(0.0, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> Subsets:
        if (self.val_share or self.test_share) and (self.train or self.val or self.test):
            raise ValueError("give patterns or shares, not both")
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share and test_share leave nothing to train with")
        return self


class Sensor(Part):
    """``[sensor]``: a spinning LiDAR that lies at the origin of every cloud; see ``SensorSpec``."""

    name: str = "LiDAR"
    fov_up_deg: float
    fov_down_deg: float
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: tuple[str, ...] = ("range", "x", "y", "z", "remission")
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_points: int = Field(gt=0)


class Tiles(Part):
    """``[tiles]``: clouds of more ``points`` are cut into squares of ``size`` meters."""

    points: int = Field(TileParams().points, ge=1000)
    size: float = Field(TileParams().size, ge=0.1, allow_inf_nan=False)


class FolderConfig(Part):
    """The whole file.

    Attributes:
        file: where it lies.
        classes: raw id -> name; ids of one name are one class, and classes are in order of their first id here.
        ignored: raw id -> name of what is never trained on and never scored.
        colors: class -> RGB.
        defaults: ``key=value`` of ``ssl3d train --set`` that training begins with, e.g. ``backbone.voxel_size=0.5``.
    """

    file: str = ""
    name: str
    title: str = ""
    root: str = "."
    clouds: Clouds
    columns: Columns = Columns()
    labels: Labels | None = None
    poses: Poses | None = None
    images: tuple[Images, ...] = ()
    classes: dict[int, str] = Field(min_length=1)
    ignored: dict[int, str] = {}
    colors: dict[str, RGB] = {}
    subsets: Subsets = Subsets()
    sensor: Sensor | None = None
    tiles: Tiles = Tiles()
    defaults: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _together(self) -> FolderConfig:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name is letters, digits and . _ -")
        if self.labels is not None and self.columns.label:
            raise ValueError("labels are a column of the clouds, or in files of their own ([labels]), not both")
        if both := self.classes.keys() & self.ignored.keys():
            raise ValueError(f"id {min(both)} is a class and ignored")
        if wrong := [raw for raw in self.classes if not 0 <= raw < HIDDEN_ID]:
            raise ValueError(f"class id {wrong[0]} is not within 0..{HIDDEN_ID - 1}")
        if len(set(self.classes.values())) > _MOST_CLASSES:
            raise ValueError(f"more than {_MOST_CLASSES} classes")
        if odd := [name for name in self.colors if name not in self.classes.values()]:
            raise ValueError(f"color of a class that there is not: {odd[0]}")
        if self.columns.label and self.columns.label in self.clouds.keep:
            raise ValueError(f"clouds.keep chooses rows by {self.columns.label!r}, the label: ignore ids in [ignored]")
        beside = [pattern for image in self.images for pattern in image.patterns()]
        beside += [part.files for part in (self.labels, self.poses) if part is not None]
        for pattern in beside:
            for place in re.findall(r"\{(\w*)\}", pattern):
                if place not in PLACES:
                    raise ValueError(
                        f"{{{place}}} stands for nothing in {pattern!r}; there are {{path}}, {{folder}}, {{stem}}"
                    )
        return self

    @property
    def labelled(self) -> bool:
        return bool(self.columns.label) or self.labels is not None

    def text(self) -> str:
        """What a reader is made from: the same for two files that say the same."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True))

    @classmethod
    def from_text(cls, text: str) -> FolderConfig:
        return cls.model_validate_json(text)

    def base(self) -> Path:
        """The root, absolute."""
        return Path(self.file).parent / Path(self.root).expanduser()

    def _defaults(self) -> list[str]:
        """What networks read of these clouds: what the columns give; outside of LiDARs no range is cut off."""
        has = [name for name in ("color", "intensity", "normal") if getattr(self.columns, name)]
        if self.sensor is not None:
            up, down = self.sensor.fov_up_deg, -abs(self.sensor.fov_down_deg)
            bands = [
                f"{method}.fov_{end}" for method in ("lasermix", "cps") for end in (f"up={up:g}", f"down={down:g}")
            ]
            return [f"backbone.features={','.join(['xyz', *has])}", "gpc.crop=fan", *bands, *self.defaults]
        return [f"backbone.features={','.join(['xyz_from_min', *has])}", "backbone.clip=null", *self.defaults]

    def spec_table(self) -> dict[str, Any]:
        """The dataset as ``parse_spec`` reads it; its subsets depend on the files that are there."""
        names = list(dict.fromkeys(self.classes.values()))
        hidden = {HIDDEN_ID: "ignored", **self.ignored}
        first = {name: next(raw for raw, other in self.classes.items() if other == name) for name in names}
        learning = {raw: names.index(name) for raw, name in self.classes.items()}
        learning |= {raw: IGNORE for raw in hidden if 0 <= raw <= HIDDEN_ID}
        colors = {str(raw): self.colors.get(name, class_color(i)) for i, (name, raw) in enumerate(first.items())}
        return {
            "name": self.name,
            "title": self.title or self.name,
            "ignore": IGNORE,
            "raw_names": {**self.classes, **hidden},
            "raw_colors": colors,
            "classes": {"single": {"names": names, "raw_ids": list(first.values()), "learning_map": learning}},
            "regimes": {"scan": "scan", "cloud" if self.clouds.group == "cloud" else "sequence": "group"},
            "splits": {},
            "defaults": self._defaults(),
            **({"sensor": self.sensor.model_dump()} if self.sensor is not None else {}),
        }


def read_config(path: Path) -> FolderConfig:
    """A description from its file.

    Raises:
        DataError: it cannot be read, is no TOML, or a key is wrong; the message names it.
    """
    path = path.expanduser().absolute()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the description cannot be read: {error.strerror}", where={"file": path}, hint=HINT) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"the description is no TOML: {error}", where={"file": path}, hint=HINT) from error
    return parse_config(table, path)


def parse_config(table: Mapping[str, Any], path: Path) -> FolderConfig:
    """A description from its parsed file. DataError names the key that is wrong."""
    try:
        return FolderConfig.model_validate({**table, "file": str(path)})
    except ValidationError as error:
        first = error.errors()[0]
        where = {"file": path, "field": ".".join(map(str, first["loc"])) or "(the whole)"}
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][-1])
            near = nearest(name, _keys(first["loc"][:-1]))
            raise DataError(
                f"there is no key {name!r}", where=where, hint=f"did you mean {near!r}?" if near else HINT
            ) from None
        what = "a key is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise DataError(what, where=where, hint=HINT) from None


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """The keys of a table of the file."""
    kinds: dict[str, type[Part]] = {
        **{"clouds": Clouds, "columns": Columns, "labels": Labels, "poses": Poses, "images": Images},
        **{"subsets": Subsets, "sensor": Sensor, "tiles": Tiles},
    }
    kind = kinds.get(str(place[0]), FolderConfig) if place else FolderConfig
    return list(kind.model_fields)


def class_color(index: int) -> RGB:
    """Colors that differ: around the circle by the golden angle, in two brightnesses."""
    return _rgb((index * 0.618034) % 1.0, 0.95 if index % 2 == 0 else 0.65)


def _rgb(hue: float, value: float) -> RGB:
    import colorsys

    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, value))
    return red, green, blue


def beside(pattern: str, relative: str) -> str:
    """The file that a pattern names beside a cloud; ``relative`` is the cloud's path below the root."""
    folder, _, name = relative.rpartition("/")
    stem = split_suffix(name)[0] or name
    places = {"path": f"{folder}/{stem}" if folder else stem, "folder": folder or ".", "stem": stem}
    return re.sub(r"\{(\w+)\}", lambda found: places[found.group(1)], pattern)


def matching(pattern: str, names: Iterator[str] | list[str]) -> list[str]:
    """The paths that a glob pattern matches: ``*`` within a folder, ``**/`` any folders, ``?`` and ``[a-z]``."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]/]+\])", pattern)
    rules = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(rules.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)
    rule = re.compile(text.replace("[!", "[^"))
    return [name for name in names if rule.fullmatch(name)]
