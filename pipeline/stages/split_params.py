"""What ``ssl3d split`` may be asked for: regimes, protocols, and the combinations that make no sense."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from ssl3d.data.errors import UsageError
from ssl3d.data.text import nearest
from ssl3d.models.config import Params
from ssl3d.pipeline.stages.choose import parse_ratio, percent_text

PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {
        "raw": "max(1, floor(ratio x n)) of the n raw points, of those with a class (SQN, there of a thinned cloud)",
        "class": "max(1, floor(ratio x n_c)) of the n_c points of every class of a scan (PSD, Decoupling)",
        "voxel": "max(1, round(ratio x n)) voxels of 0.06 m; the label of the first point is given to all (COARSE3D)",
        "voxel-first": "as voxel, but only the first point of a drawn voxel is labelled (COARSE3D without propagation)",
    }
)
"""Protocols of ``--regime points``: name -> what it draws, and where it comes from."""

SCAN_PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {
        "limited": "scans while they fit into round(ratio x points of all scans); the next one is cut in two (WS3D)",
        "strfd": "round(ratio x n) scans, fewer where neighboring scans are alike (LiM3D)",
    }
)
"""Protocols of regimes of whole scans: name -> which of them they take."""

POINT_REGIMES = ("points", "1pt")
"""Regimes that show some points of every annotated scan; the others (named by the dataset) show whole scans."""

_LATER = ("protocol", "per_class", "holdout", "val")
_WORD = re.compile(r"[a-z0-9]+")


class SplitParams(Params):
    """Parameters of ``split``.

    ``1pt`` needs nothing; ``points`` needs a ratio; regimes of whole scans need exactly one of ``ratio``, ``official``
    and ``list_file``. Which words stand for whole scans and for groups of them is a fact of the dataset, so a regime is
    looked up only when the split is made.
    """

    regime: str = Field("scan", description="what is labelled: scan, a word for groups of scans, points or 1pt")
    ratio: str | None = Field(None, description="share of the train scans, of the groups, or of points: 1% or 0.01")
    official: str | None = Field(None, description="a published list, e.g. lasermix-1%")
    list_file: Path | None = Field(
        None, description="a text file with one scan (SS/FFFFFF) or group (SS) a line, or rows of points by scan (.npz)"
    )
    seed: int = Field(0, ge=0, description="of the order that the ratio cuts, and of the points that are drawn")
    transductive: bool = Field(False, description="scans of the val subset (never their labels) count as unlabelled")
    allow_missing: bool = Field(False, description="take those scans of a list that are prepared")
    protocol: str | None = Field(
        None, description="how points or scans are drawn: " + ", ".join((*PROTOCOLS, *SCAN_PROTOCOLS))
    )
    per_class: int | None = Field(None, ge=1, description="points of each class and scan (regime 1pt)")
    holdout: tuple[str, ...] = Field((), description="groups of train scans kept out, for choosing parameters")
    val: tuple[str, ...] = Field(
        (), description="groups for validation in place of the dataset's own, which then train"
    )

    @field_validator("regime", mode="before")
    @classmethod
    def _one_word(cls, value: object) -> object:
        text = str(value).strip().lower()
        if not _WORD.fullmatch(text):
            raise UsageError(f"there is no regime '{value}'", hint="one word, e.g. --regime scan or --regime points")
        return text

    @field_validator("ratio", mode="before")
    @classmethod
    def _exact_ratio(cls, value: object) -> object:
        return None if value is None else parse_ratio(value)

    @field_validator("protocol", mode="before")
    @classmethod
    def _known_protocol(cls, value: object) -> object:
        known = (*PROTOCOLS, *SCAN_PROTOCOLS)
        if value is not None and value not in known:
            near = nearest(str(value), known)
            hint = (f"did you mean {near}? " if near else "") + f"there are: {', '.join(known)}"
            raise UsageError(f"there is no protocol '{value}' of drawing points or scans", hint=hint)
        return value

    @field_validator("holdout", "val", mode="before")
    @classmethod
    def _split_groups(cls, value: object) -> object:
        """``"09, 10"`` or a sequence of names -> sorted, each once."""
        words = (
            value.split(",") if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else value
        )
        return tuple(sorted({str(word).strip() for word in words} - {""})) if isinstance(words, list) else words

    @model_validator(mode="after")
    def _makes_sense(self) -> SplitParams:
        if self.protocol in SCAN_PROTOCOLS and (self.regime in POINT_REGIMES or self.ratio is None):
            of = "points" if self.limited else "scans"
            raise UsageError(
                f"--protocol {self.protocol} takes whole scans by a share of all {of}",
                hint=f"type: ssl3d split --ratio 5% --protocol {self.protocol}",
            )
        self._check_choice()
        if self.protocol is not None and self.protocol in PROTOCOLS and self.regime != "points":
            raise UsageError(
                f"--protocol says how points are drawn, and --regime {self.regime} draws none by ratio",
                hint="type: ssl3d split --regime points --ratio 0.1% --protocol " + self.protocol,
            )
        if self.per_class is not None and self.regime != "1pt":
            raise UsageError("--per-class belongs to --regime 1pt", hint="type: ssl3d split --regime 1pt --per-class 1")
        if self.allow_missing and self.official is None and self.list_file is None:
            raise UsageError("--allow-missing belongs to --official and --list", hint="a ratio takes what is prepared")
        if both := sorted({*self.holdout} & {*self.val}):
            raise UsageError(
                f"--holdout and --val both name {', '.join(both)}",
                hint="--val for what is evaluated in the end, --holdout for train groups to choose parameters on",
            )
        # said in full, so that both spellings have one key
        if self.regime == "points" and self.protocol is None:
            object.__setattr__(self, "protocol", "raw")
        if self.regime == "1pt" and self.per_class is None:
            object.__setattr__(self, "per_class", 1)
        return self

    def _check_choice(self) -> None:
        options = {"ratio": "--ratio", "official": "--official", "list_file": "--list"}
        given = [option for name, option in options.items() if getattr(self, name) is not None]
        lists = " and ".join(option for option in given if option != "--ratio")
        if self.regime == "1pt" and given:
            raise UsageError(
                f"--regime 1pt takes points of every class of every scan: leave out {' and '.join(given)}",
                hint="type: ssl3d split --regime 1pt, or --regime points --ratio 0.1% --protocol class",
            )
        if self.regime == "points" and given != ["--ratio"]:
            raise UsageError(
                "--regime points needs the share of the points of each scan"
                + (f", and {lists} would choose whole scans" if lists else ""),
                hint="type: ssl3d split --regime points --ratio 0.1%",
            )
        if self.regime not in POINT_REGIMES and len(given) != 1:
            raise UsageError(
                f"{' and '.join(given)} exclude each other" if given else "which scans show their labels?",
                hint="one of: --ratio 1%, --official lasermix-1%, --list FILE; or --regime points, --regime 1pt",
            )
        if self.regime not in (*POINT_REGIMES, "scan") and lists:
            raise UsageError(
                f"--regime {self.regime} needs --ratio: {lists} says itself which scans it means",
                hint=f"leave out --regime, or type: ssl3d split --regime {self.regime} --ratio 10%",
            )

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Options that came later are left out where they are not used: keys of older splits stay what they are."""
        value: dict[str, Any] = handler(self)
        return {name: item for name, item in value.items() if name not in _LATER or item}

    @property
    def in_voxels(self) -> bool:
        """Voxels are drawn, so points are read too and not labels alone."""
        return self.protocol in ("voxel", "voxel-first")

    @property
    def limited(self) -> bool:
        """Scans are taken by their points, and the last one is cut."""
        return self.protocol == "limited"

    def command(self, dataset: str | None = None) -> str:
        """What to type, e.g. ``ssl3d split --ratio 1% --seed 0``; with ``dataset`` where it has to be named."""
        words = ["ssl3d", "split"]
        words += ["--regime", self.regime] if self.regime != "scan" else []
        if self.ratio is not None:
            words += ["--ratio", percent_text(self.ratio)]
        elif self.official is not None:
            words += ["--official", self.official]
        elif self.list_file is not None:
            words += ["--list", str(self.list_file)]
        words += ["--protocol", self.protocol] if self.protocol is not None else []
        words += ["--per-class", str(self.per_class)] if self.per_class not in (None, 1) else []
        words += ["--seed", str(self.seed)] if self.official is None and self.list_file is None else []
        words += ["--holdout", ",".join(self.holdout)] if self.holdout else []
        words += ["--val", ",".join(self.val)] if self.val else []
        words += ["--transductive"] if self.transductive else []
        words += ["--allow-missing"] if self.allow_missing else []
        words += ["--dataset", dataset] if dataset is not None else []
        return shlex.join(words)
