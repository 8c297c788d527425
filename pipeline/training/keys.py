"""Keys of a configuration as typed after ``--set``: listing them, finding one, reading a value."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ssl3d.data.errors import UsageError
from ssl3d.data.text import nearest

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
_BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True)
class Leaf:
    """One settable key: ``section`` is the model that it lives in, ``path`` the names below it."""

    section: str
    path: tuple[str, ...]
    field: FieldInfo

    @property
    def key(self) -> str:
        return ".".join((self.section, *self.path))


def leaves(section: str, model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every leaf of a typed model, nested models included."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(section, field.annotation, (*path, name))
        else:
            yield Leaf(section, (*path, name), field)


def expected(field: FieldInfo) -> str:
    """What a field takes, in words: ``a number, greater than 0``."""
    bounds = [
        f"{word} {getattr(item, name)}"
        for item in field.metadata
        for name, word in _BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join([_type_words(field.annotation), *bounds])


def _type_words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is types.NoneType else _type_words(part) for part in get_args(annotation))
    if origin is Annotated:
        return _type_words(get_args(annotation)[0])
    if origin in (tuple, list):
        return "values separated by commas"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def parse(leaf: Leaf, text: str) -> Any:
    """The value that ``text`` stands for. Raises ``UsageError`` with what the key expects."""
    kind: Any = leaf.field.annotation
    for bound in leaf.field.metadata:
        kind = Annotated[kind, bound]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    for candidate in _candidates(text):
        try:
            value = adapter.validate_python(candidate)
        except ValidationError:
            continue
        if not isinstance(value, float) or math.isfinite(value):
            return value
    raise UsageError(
        f"{leaf.key} cannot be {text!r}: it has to be {expected(leaf.field)}",
        where={"field": leaf.key},
        hint=leaf.field.description,
    )


def _candidates(text: str) -> Iterator[Any]:
    if text.lower() in ("none", "null"):
        yield None
    yield text  # pydantic reads numbers and booleans from text
    for form in (text, f"[{text}]"):
        try:
            value = json.loads(form)
        except ValueError:
            continue
        if isinstance(value, (list, dict, int)):  # a number as one of several choices is not read from text
            yield value
    if text:
        yield [part.strip() for part in text.strip("()[]").split(",")]


class KeyTable:
    """All keys of a configuration, with the other names that they answer to.

    Args:
        sections: section name -> typed model.
        aliases: other name -> section (``minkunet18`` -> ``backbone``), or other key -> key (``train.lr``).
    """

    def __init__(self, sections: Mapping[str, type[BaseModel]], aliases: Mapping[str, str]) -> None:
        self.leaves = {leaf.key: leaf for name, model in sections.items() for leaf in leaves(name, model)}
        self.aliases = dict(aliases)

    def find(self, key: str) -> Leaf:
        """The leaf for a key, a key with another section name, or a last name that only one section has.

        Raises:
            UsageError: unknown (names the nearest) or ambiguous.
        """
        section, _, rest = key.partition(".")
        full = self.aliases.get(key, f"{self.aliases.get(section, section)}.{rest}" if rest else key)
        if full in self.leaves:
            return self.leaves[full]
        short = [leaf for leaf in self.leaves.values() if leaf.path[-1] == key]
        if len(short) == 1:
            return short[0]
        if short:
            raise UsageError(f"{key} could be {' or '.join(leaf.key for leaf in short)}", hint="write the whole key")
        nearest = self._nearest(full)
        raise UsageError(
            f"there is no parameter named {key}",
            hint=f"did you mean {nearest}?" if nearest else "ssl3d train --list-keys shows every key",
        )

    def _nearest(self, key: str) -> str | None:
        best = nearest(key, self.leaves, 0.5)
        if best is not None:
            return best
        last = {leaf.path[-1]: leaf.key for leaf in self.leaves.values()}
        best = nearest(key.rpartition(".")[2], last, 0.6)
        return None if best is None else last[best]

    def read(self, overrides: Iterable[str]) -> dict[str, dict[str, Any]]:
        """``["train.lr=0.01"]`` -> ``{"optimizer": {"lr": 0.01}}``, values parsed and checked one by one."""
        trees: dict[str, dict[str, Any]] = {}
        for item in overrides:
            key, equals, text = item.partition("=")
            if not equals:
                raise UsageError(f"--set takes key=value, not {item!r}", hint="for example --set train.lr=0.01")
            leaf = self.find(key.strip())
            node = trees.setdefault(leaf.section, {})
            for name in leaf.path[:-1]:
                node = node.setdefault(name, {})
            node[leaf.path[-1]] = parse(leaf, text.strip())
        return trees


__all__ = ["KeyTable", "Leaf", "expected", "leaves", "parse"]
