"""What a stage has left on disk: its manifest, its journal of finished units, and the files of each unit.

``stage.json`` is written when the work is planned (and again when it is complete); ``journal.jsonl`` gets one line per
finished unit, on disk before the next one starts. Reading them and asking the system for sizes is all that ``status``
needs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import xxhash

from ssl3d.data.errors import DataError
from ssl3d.pipeline.files import digest_file, digest_value, read_json, write_json

KEY_LENGTH = 12
Health = Literal["good", "touched", "damaged"]


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size, modification time and xxh3-64 of a finished file."""

    size: int
    mtime_ns: int
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished unit.

    Attributes:
        unit: id, also the first part of its file names.
        source: signature of what it was made from.
        files: name -> stamp.
        seconds: wall time of the unit's own work.
        info: small facts for listings (counts, warnings), JSON.
    """

    unit: str
    source: str
    files: Mapping[str, FileStamp]
    seconds: float
    info: Mapping[str, Any]

    def to_line(self) -> bytes:
        files = {name: [stamp.size, stamp.mtime_ns, stamp.digest] for name, stamp in self.files.items()}
        value = {
            "unit": self.unit,
            "source": self.source,
            "files": files,
            "seconds": round(self.seconds, 4),
            "info": dict(self.info),
        }
        return json.dumps({**value, "check": digest_value(value)}, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Entry | None:
        """None for a line that a kill cut short, or that is damaged in another way."""
        try:
            value = json.loads(line)
            if not is_sound(value):
                return None
            files = {name: FileStamp(*stamp) for name, stamp in value["files"].items()}
            return cls(value["unit"], value["source"], files, value["seconds"], value["info"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    @property
    def bytes(self) -> int:
        return sum(stamp.size for stamp in self.files.values())


@dataclass(frozen=True)
class Manifest:
    """What a product folder is for.

    Attributes:
        plan: unit id -> source signature at planning time.
        needs: stage -> ``{"key", "content"}`` of the products that it was made from.
        identity: what besides the parameters is part of the key (seed, chosen ids ...).
        watched: path outside the workspace -> modification time at planning time (``status`` compares it).
        complete: all units and the closing step are done.
    """

    stage: str
    version: int
    key: str
    params: Mapping[str, Any]
    identity: Mapping[str, Any]
    needs: Mapping[str, Mapping[str, str]]
    plan: Mapping[str, str]
    watched: Mapping[str, int | None] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """None when it is absent, or not what ``write`` has written."""
        value = read_json(folder / "stage.json")
        if value is None or not is_sound(value):
            return None
        try:
            return cls(**value)
        except TypeError:
            return None

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        write_json(folder / "stage.json", {**value, "check": digest_value(value)}, indent=None)


def is_sound(value: dict[str, Any]) -> bool:
    """Takes ``check`` out of a record, and says whether the rest is what was written (True for records without)."""
    check = value.pop("check", None)
    return check is None or check == digest_value(value)


class Product:
    """A product folder of a stage as it is on disk now."""

    def __init__(self, folder: Path, manifest: Manifest, entries: dict[str, Entry]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.entries = entries

    @classmethod
    def load(cls, folder: Path) -> Product | None:
        """None when there is no (readable) manifest: such a folder counts as not begun."""
        manifest = Manifest.read(folder)
        return cls(folder, manifest, read_journal(folder)) if manifest is not None else None

    @property
    def key(self) -> str:
        return self.manifest.key

    @cached_property
    def done(self) -> dict[str, Entry]:
        """Units of the plan that were finished from the planned sources (their files are not looked at)."""
        plan = self.manifest.plan
        return {unit: entry for unit, entry in self.entries.items() if unit in plan and entry.source == plan[unit]}

    @property
    def complete(self) -> bool:
        return self.manifest.complete and len(self.done) == len(self.manifest.plan)

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.done.values())

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.done.values())

    @cached_property
    def content(self) -> str:
        """Changes whenever a finished unit comes, goes, or holds other bytes."""
        state = xxhash.xxh3_128()
        for unit in sorted(self.done):
            state.update(f"{unit}:{unit_digest(self.done[unit])};".encode())
        return state.hexdigest()

    @property
    def kinds(self) -> set[str]:
        """Kinds of files that its units have: ``labels`` for ``<unit>.labels.h5``."""
        return {kind_of(unit, name) for unit, entry in self.done.items() for name in entry.files}

    def health(self, entry: Entry) -> Health:
        """By size and time only: ``touched`` files have the right size and wait for a look at their digest."""
        state: Health = "good"
        for name, stamp in entry.files.items():
            try:
                found = (self.folder / name).stat()
            except OSError:
                return "damaged"
            if found.st_size != stamp.size:
                return "damaged"
            if found.st_mtime_ns != stamp.mtime_ns:
                state = "touched"
        return state

    def recheck(self, entry: Entry) -> Entry | None:
        """The entry, if its files hold what was written; None if not.

        Sizes and times tell; files with another time (copied, restored, or changed in place) are read, and come back
        with their new times if the bytes are the same.
        """
        health = self.health(entry)
        if health != "touched":
            return entry if health == "good" else None
        stamps = {name: stamp_file(self.folder / name) for name in entry.files}
        same = all(stamps[name].digest == stamp.digest for name, stamp in entry.files.items())
        return replace(entry, files=stamps) if same else None

    def trust(self, kinds: Collection[str]) -> None:
        """Makes sure that the files of these kinds (``labels``: ``<unit>.labels.h5``) hold what was written.

        Call it before reading them. New times of sound files are remembered where the journal can be written.

        Raises:
            DataError: some are missing or hold other bytes; says what to type.
        """
        touched: list[Entry] = []
        for unit, entry in sorted(self.done.items()):
            wanted = [name for name in entry.files if kind_of(unit, name) in kinds]
            part = replace(entry, files={name: entry.files[name] for name in wanted})
            sound = self.recheck(part)
            if sound is None:
                again = self.manifest.about.get("command")
                raise DataError(
                    f"a file that '{self.manifest.stage}' made is damaged or missing",
                    where={"unit": unit, "folder": self.folder},
                    hint=(f"type: {again}" if again else f"run your `ssl3d {self.manifest.stage}` command again")
                    + " (only what is damaged is made again)",
                )
            if sound is not part:
                touched.append(replace(entry, files={**entry.files, **sound.files}))
        with suppress(OSError):  # a read-only workspace: they are read again the next time
            remember(self.folder, touched)


def kind_of(unit: str, name: str) -> str:
    """The kind of a file of ``unit``: ``labels`` of ``<unit>.labels.h5``, ``entity`` of ``<unit>.entity.jsonl``."""
    return name[len(unit) + 1 :].rpartition(".")[0]


def unit_digest(entry: Entry, kinds: Collection[str] | None = None) -> str:
    """One digest of the files of a unit (of the given kinds only, e.g. ``labels`` for ``<unit>.labels.h5``)."""
    parts = [
        f"{name}={stamp.digest}"
        for name, stamp in sorted(entry.files.items())
        if kinds is None or kind_of(entry.unit, name) in kinds
    ]
    return xxhash.xxh3_64("|".join(parts).encode()).hexdigest()


def read_journal(folder: Path) -> dict[str, Entry]:
    """Last entry of every unit. Lines that are no entry (a torn one after a kill) are passed over: redone work."""
    try:
        lines = (folder / "journal.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, Entry] = {}
    for line in lines:
        if (entry := Entry.from_line(line)) is not None:
            found[entry.unit] = entry
    return found


class JournalWriter:
    """Appends entries, each on disk when ``add`` returns."""

    def __init__(self, folder: Path, name: str = "journal.jsonl") -> None:
        self._handle = os.open(folder / name, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":  # the last writer was killed inside a line
            self.append(b"\n")

    def append(self, data: bytes) -> None:
        """Whole lines; on disk when it returns."""
        while data:  # a nearly full disk may take a part
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)

    def add(self, entry: Entry) -> None:
        self.append(entry.to_line())

    def close(self) -> None:
        os.close(self._handle)


def remember(folder: Path, entries: Iterable[Entry]) -> None:
    """Appends ``entries`` to the journal; opens nothing when there are none."""
    journal: JournalWriter | None = None
    try:
        for entry in entries:
            journal = journal or JournalWriter(folder)
            journal.add(entry)
    finally:
        if journal is not None:
            journal.close()


def stamp_file(path: Path, digest: str | None = None) -> FileStamp:
    """The stamp of a file as it is now; ``digest`` spares reading it when it is known."""
    found = path.stat()
    return FileStamp(found.st_size, found.st_mtime_ns, digest or digest_file(path))
