"""What a Python pickle says, without doing what it says.

Opening a pickle calls whatever functions it names. Here nothing is called and nothing is imported: its opcodes build a
tree of plain values and of ``Node``, which only note that a function would be called, with what. Names outside of a
list that the caller gives, and opcodes that tables of numbers do not need, are refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_VALUES = frozenset((*_NUMBERS, *_TEXTS))
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = ("BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("BINGET", "LONG_BINGET")
_LONGEST_NUMBER = 1 << 64
_MOST_STEPS = 5_000_000


class RefusedError(ValueError):
    """The pickle asks for more than a table of numbers needs; the message says what."""


class BrokenError(ValueError):
    """The pickle is truncated or damaged."""


@dataclass(slots=True, eq=False)
class Name:
    """``module.name``, which was not imported."""

    text: str


@dataclass(slots=True, eq=False)
class Node:
    """A call that was not made.

    Attributes:
        name: of the function or class.
        arguments: of the call.
        state: what ``__setstate__`` would be called with; None: it would not.
    """

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_tree(content: bytes, admitted: Collection[str]) -> Any:
    """The value that a pickle (of protocol 2 to 5, as binary as pandas writes it) stands for.

    Args:
        admitted: ``module.name`` that it may refer to.

    Raises:
        RefusedError: it refers to another name, or has an opcode that is not known here.
        BrokenError: it ends early, or is no pickle.
    """
    machine = _Machine(frozenset(admitted))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name == "STOP":
                return machine.pop()
            if count == _MOST_STEPS:
                raise RefusedError(f"more than {_MOST_STEPS:,} objects of Python")
            machine.step(opcode.name, argument)
    except RefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise BrokenError(str(error)[:120] or type(error).__name__) from error
    raise BrokenError("it has no end")


class _Machine:
    """The stack and the memory of an unpickler."""

    def __init__(self, admitted: frozenset[str]) -> None:
        self.admitted = admitted
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """One opcode but STOP."""
        stack = self.stack
        if opcode in _VALUES:
            if isinstance(argument, int) and abs(argument) >= _LONGEST_NUMBER:
                raise BrokenError("it holds a number of more than 64 bits")
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            stack.append(_EMPTY[opcode]())
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode in _TUPLES:
            stack[-_TUPLES[opcode] :] = [tuple(self._last(_TUPLES[opcode]))]
        elif opcode == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif opcode in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._fill(opcode)
        elif opcode in _PUT:
            self.memory[len(self.memory) if opcode == "MEMOIZE" else argument] = self._top()
        elif opcode in _GET:
            stack.append(self.memory[argument])
        elif opcode in ("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"):
            self._refer(opcode, argument)
        elif opcode not in ("PROTO", "FRAME"):
            raise RefusedError(f"the opcode {opcode}")

    def pop(self) -> Any:
        """Takes the value on top. BrokenError where there is none."""
        value = self._top()
        del self.stack[-1]
        return value

    def _top(self) -> Any:
        return self._last(1)[0]

    def _last(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        if len(values) < count or any(value is _MARK for value in values):
            raise BrokenError("it takes more values than it has")
        return values

    def _to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _fill(self, opcode: str) -> None:
        """Items of a list or a dictionary, whose keys are texts (as in all that pandas writes)."""
        size = {"APPEND": 1, "SETITEM": 2}.get(opcode)
        if size is None:
            values = self._to_mark()
        else:
            values = self._last(size)
            del self.stack[-size:]
        holder = self._top()
        if opcode.startswith("APPEND"):
            if type(holder) is not list:
                raise BrokenError("it appends to what is no list")
            holder.extend(values)
            return
        keys = values[::2]
        if type(holder) is not dict or len(values) % 2 or not all(type(key) is str for key in keys):
            raise BrokenError("it sets items of what is no dictionary of texts")
        holder.update(zip(keys, values[1::2], strict=True))

    def _refer(self, opcode: str, argument: Any) -> None:
        if opcode == "GLOBAL":
            self._name(*argument.split(" ", 1))
        elif opcode == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            self._name(module, name)
        elif opcode == "BUILD":
            state, node = self.pop(), self._top()
            if not isinstance(node, Node) or node.state is not None:
                raise RefusedError("the state of what is no object")
            node.state = state
        else:
            arguments, function = self.pop(), self.pop()
            if not isinstance(function, Name) or type(arguments) is not tuple:
                raise RefusedError("a call of what is no name")
            self.stack.append(Node(function.text, arguments))

    def _name(self, module: Any, name: Any) -> None:
        text = f"{module}.{name}"
        if text not in self.admitted:
            raise RefusedError(text)
        self.stack.append(Name(text))
