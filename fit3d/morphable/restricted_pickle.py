"""Reads the numbers out of a pickle without running any of it.

A pickle is a program: opcodes that build containers and call whatever importable function they name. Some face models
are only given away as pickles, so we carry out the opcodes ourselves and give a meaning to the few names that numbers
need; `pickle` is not involved, and no name of the file is ever looked up or imported. What remains of a model:

    containers and numbers    list, tuple, dict, set, str, bytes, int, float, bool, None
    numpy arrays, scalars     `np.ndarray` of bool, int or float; an array of text or of objects becomes a list (or,
                              without dimensions, its one object)
    chumpy, scipy.sparse      `Inert`: the class name and the state that the file gives, for `array_of`

Every other name, persistent ids, extension codes and out-of-band buffers are refused. Text of Python 2 is read as
latin-1. What an opcode can allocate is bounded by the file's size: arrays are views of the file's bytes, lengths are
checked against what is there, and conversions and opcodes have a budget.
"""

from __future__ import annotations

import codecs
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fit3d.errors import ModelFileError

LARGEST_FILE = 2 << 30
"""Bytes of a file that is read at all; the largest model known has 0.4 GB."""
MOST_OPCODES = 5_000_000
LARGEST_DENSE = 100_000_000
"""Elements of a sparse matrix written out in full."""

_NUMERIC = re.compile(r"(b1|[iu][1248]|f[248])")
_TEXT = re.compile(r"[US]\d{1,4}")
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_BUILTIN_MODULES = ("builtins", "__builtin__")
_COPY_MODULES = ("copyreg", "copy_reg")
_SPARSE_CLASSES = ("csc_matrix", "csr_matrix", "csc_array", "csr_array")
_SPARSE_MODULES = re.compile(r"scipy\.sparse(\._?cs[cr])?")
_CHUMPY_MODULES = re.compile(r"chumpy(\.[a-z_]{1,40}){0,2}")


@dataclass(eq=False)
class Inert:
    """What stands for an object of a class that we do not have: its name and state, no behaviour."""

    name: str
    state: Any = None
    slots: list[int] = field(default_factory=list)
    """Where the memo of the pickle holds it, while it is being read."""


def load_pickle(path: Path) -> Any:
    """The content of the pickle at `path`, see the module. Raises ModelFileError for anything else."""
    return _read(str(path), _bytes_of(path))


def load_npy(path: Path) -> Any:
    """The array of a .npy file or, where `np.save` pickled an object, that object."""
    return _npy(str(path), _bytes_of(path))


def load_npz(path: Path, wanted: Iterable[str]) -> dict[str, Any]:
    """Those entries of a .npz file that are called `wanted`, each as of `load_npy`; nothing else is unpacked."""
    entries = {}
    try:
        with zipfile.ZipFile(io.BytesIO(_bytes_of(path))) as archive:
            for name in wanted:
                if f"{name}.npy" not in archive.namelist():
                    continue
                entry = archive.getinfo(f"{name}.npy")
                if entry.file_size > LARGEST_FILE:
                    raise ModelFileError(f"{path}: '{name}' would unpack to {entry.file_size / 1e9:.1f} GB; refused")
                with archive.open(entry) as stream:
                    entries[name] = _npy(f"{path}, '{name}'", stream.read(entry.file_size))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelFileError(f"{path}: a truncated or damaged .npz file ({error}); download it again") from error
    return entries


def _npy(where: str, data: bytes) -> Any:
    stream = io.BytesIO(data[:65536])
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except (ValueError, TypeError, SyntaxError, EOFError, struct.error) as error:
        raise ModelFileError(f"{where}: not a .npy file, or a truncated one; download it again") from error
    body = data[stream.tell() :]
    if dtype.kind == "O":
        return _read(where, body)
    if dtype.kind in "biuf" and min(shape, default=0) >= 0 and math.prod(shape) * dtype.itemsize == len(body):
        return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    raise ModelFileError(f"{where}: an array {shape} of {dtype} in {len(body)} bytes, expected numbers")


def array_of(value: Any) -> np.ndarray:
    """The numbers of an array, a chumpy array or a sparse matrix of `load_pickle`. Raises ValueError for others."""
    if isinstance(value, Inert):
        if value.name.startswith("chumpy.") and isinstance(value.state, dict):
            if not value.name.endswith(".Ch"):
                raise ValueError(f"a formula ({value.name}) where numbers were expected")
            return array_of(value.state.get("x"))
        if value.name.startswith("scipy.") and isinstance(value.state, dict):
            return _dense(value.name, value.state)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    raise ValueError(f"no array but {_kind(value)}")


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ModelFileError(
                f"{path}: {size / 1e9:.1f} GB, no face model is larger than {LARGEST_FILE / 1e9:.1f} GB"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot read it ({error.strerror})") from error


def _read(where: str, data: bytes) -> Any:
    try:
        return _Machine(data).run()
    except _RefusedError as error:
        raise ModelFileError(f"{where}: refused, because it {error}; nothing of it was run") from None
    except (IndexError, struct.error, EOFError) as error:
        raise ModelFileError(f"{where}: a truncated or damaged pickle; download it again") from error
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise ModelFileError(f"{where}: not a usable pickle ({error}); download it again") from error


class _RefusedError(Exception):
    """The pickle asks for something that numbers do not need."""


@dataclass(frozen=True)
class _Name:
    """A name of the file: only compared, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Mark:
    """Where a run of items begins."""


_MARK = _Mark()
_OBJECTS = np.dtype(object)


class _Machine:
    """The stack machine of the pickle format (protocols 0 to 5; opcodes as in Python's pickletools)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = 4 * len(data) + (1 << 20)

    def run(self) -> Any:
        for _ in range(MOST_OPCODES):
            code = self.take(1)
            if code == b".":
                return self.finished(self.pop())
            step = _STEPS.get(code)
            if step is None:
                raise _RefusedError(_REFUSED.get(code, f"holds the unknown opcode {code!r}"))
            step(self)
        raise _RefusedError(f"has more than {MOST_OPCODES} opcodes")

    def finished(self, value: Any) -> Any:
        if isinstance(value, (_Name, _Mark)):
            raise _RefusedError(f"holds {value} where its content should be")
        return value

    # --- bytes of the file -------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise EOFError
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, layout: str) -> Any:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise EOFError
        text = self.data[self.at : end]
        self.at = end + 1
        return text

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise _RefusedError("unpacks to far more than its size")

    # --- stack and memo ----------------------------------------------------------------------------------------------

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value was expected")
        return value

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise ValueError(f"{_kind(value)} where {kind.__name__} was expected")
        return value

    def items(self) -> list[Any]:
        for k in range(len(self.stack) - 1, -1, -1):
            if self.stack[k] is _MARK:
                items = self.stack[k + 1 :]
                del self.stack[k:]
                return items
        raise ValueError("no mark")

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if isinstance(value, Inert):
            value.slots.append(index)
        self.memo[index] = value

    def replace(self, holder: Inert, value: Any) -> None:
        """The object under construction, on the top of the stack and in the memo, is now `value`."""
        self.stack[-1] = value
        for index in holder.slots:
            if self.memo.get(index) is holder:
                self.memo[index] = value

    # --- containers --------------------------------------------------------------------------------------------------

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        if len(pairs) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_plain(key)] = value

    def add_items(self, values: list[Any]) -> None:
        self.top(set).update(_plain(value) for value in values)

    # --- names and calls ---------------------------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is no text")
        self.stack.append(_allowed(_Name(module, name)))

    def call(self, called: Any, arguments: Any) -> Any:
        """The few calls that rebuild numbers; arguments are checked, nothing is looked up."""
        if not isinstance(called, _Name):
            raise _RefusedError(f"calls {_kind(called)}")
        if not isinstance(arguments, tuple):
            raise ValueError(f"arguments of {called} are no tuple")
        module, name = called.module, called.name
        if module in _COPY_MODULES and name == "_reconstructor" and len(arguments) == 3:
            return self.new(arguments[0], ())
        if module in _ARRAY_MODULES and name == "_reconstruct" and len(arguments) == 3:
            return self.new(arguments[0], ())  # shape and type come with the state; those given here are a placeholder
        if module in _ARRAY_MODULES and name == "scalar" and len(arguments) in (1, 2):
            dtype, data = arguments[0], arguments[1] if len(arguments) == 2 else b""
            return self.array((), dtype, False, data)[()]
        if module in _NUMERIC_MODULES and name == "_frombuffer" and len(arguments) == 4:
            data, dtype, shape, order = arguments
            return self.array(shape, dtype, order == "F", data)
        if module == "numpy" and name == "dtype" and arguments:
            return Inert("numpy.dtype", _dtype(arguments[0]))
        if module == "_codecs" and name == "encode" and len(arguments) == 2:
            return self.encoded(*arguments)
        return self.new(called, arguments)

    def new(self, made: Any, arguments: Any) -> Any:
        """An empty instance of a class."""
        if not isinstance(made, _Name):
            raise _RefusedError(f"makes an instance of {_kind(made)}")
        if made.module in _BUILTIN_MODULES or made.module == "collections":
            return self.container(made.name, arguments)
        if _is_class(made):
            return Inert(str(made))
        raise _RefusedError(f"calls '{made}' in an unknown way")

    def container(self, name: str, arguments: tuple[Any, ...]) -> Any:
        empty: dict[str, Callable[[], Any]] = {
            **{"list": list, "tuple": tuple, "dict": dict, "OrderedDict": dict},
            **{"set": set, "frozenset": set, "bytes": bytes, "bytearray": bytes},
        }
        if name in empty and not arguments:
            return empty[name]()
        if len(arguments) == 1 and name in ("set", "frozenset") and isinstance(arguments[0], list):
            self.spend(8 * len(arguments[0]))
            return {_plain(value) for value in arguments[0]}
        if name == "bytearray" and len(arguments) == 1 and isinstance(arguments[0], bytes):
            return arguments[0]
        if name == "bytearray" and len(arguments) == 2:
            return self.encoded(*arguments)
        raise _RefusedError(f"calls '{name}' in an unknown way")

    def encoded(self, text: Any, coding: Any) -> bytes:
        if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
            raise ValueError("bytes in an unknown coding")
        self.spend(len(text))
        return text.encode("latin-1")

    def build(self) -> None:
        state, holder = self.pop(), self.top(Inert)
        if holder.name == "numpy.dtype":
            if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
                raise _RefusedError("holds an array of records")
            if holder.state != _OBJECTS and state[1] in ("<", ">"):
                # a new object: the type of one array must not change another's
                self.replace(holder, Inert("numpy.dtype", holder.state.newbyteorder(state[1])))
        elif holder.name == "numpy.ndarray":
            if not isinstance(state, tuple) or len(state) not in (4, 5):
                raise ValueError("an array of an unknown layout")
            self.replace(holder, self.array(*state[-4:]))
        elif isinstance(state, dict):
            holder.state = state
        else:
            raise ValueError(f"the state of {holder.name} is {_kind(state)}")

    def array(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> Any:
        """The array with these bytes, as a view of them; a list where it holds objects."""
        if not (isinstance(dtype, Inert) and dtype.name == "numpy.dtype"):
            raise ValueError(f"an array of {_kind(dtype)}")
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8):
            raise ValueError("an array without a shape")
        count = math.prod(shape)
        if dtype.state == _OBJECTS:
            if not isinstance(data, list) or len(data) != count or len(shape) > 1:
                raise ValueError("an array of objects of an unknown layout")
            return data if shape else data[0]
        if isinstance(data, str):  # bytes of Python 2
            data = self.encoded(data, "latin-1")
        if not isinstance(data, bytes) or len(data) != count * dtype.state.itemsize:
            raise ValueError(f"an array {shape} of {dtype.state} without its numbers")
        values = np.frombuffer(data, dtype.state) if count else np.empty(0, dtype.state)
        values = values.reshape(shape, order="F" if fortran else "C")
        if values.dtype.kind in "US":
            self.spend(len(data))
            return values.tolist()
        return values


def _kind(value: Any) -> str:
    if isinstance(value, (_Name, Inert)):
        return f"'{value}'" if isinstance(value, _Name) else f"an object of '{value.name}'"
    return f"a value of type {type(value).__name__}"


def _plain(key: Any) -> Any:
    """A key that is cheap to hash; nested tuples can take for ever."""
    if isinstance(key, np.generic):
        key = key.item()
    if key is not None and not isinstance(key, (str, bytes, int, float)):
        raise ValueError(f"{_kind(key)} as a key")
    return key


def _is_class(name: _Name) -> bool:
    """Whether instances of it become `Inert`."""
    if name.module == "numpy":
        return name.name == "ndarray"
    if _SPARSE_MODULES.fullmatch(name.module):
        return name.name in _SPARSE_CLASSES
    return _CHUMPY_MODULES.fullmatch(name.module) is not None and re.fullmatch(r"\w{1,40}", name.name) is not None


def _allowed(name: _Name) -> _Name:
    """The name itself, if the module's docstring has a meaning for it."""
    functions = {
        **dict.fromkeys(_ARRAY_MODULES, ("_reconstruct", "scalar")),
        **dict.fromkeys(_NUMERIC_MODULES, ("_frombuffer",)),
        **dict.fromkeys(_COPY_MODULES, ("_reconstructor",)),
        **dict.fromkeys(
            _BUILTIN_MODULES,
            ("object", "list", "tuple", "dict", "set", "frozenset", "bytes", "bytearray"),
        ),
        "collections": ("OrderedDict",),
        "numpy": ("dtype", "ndarray"),
        "_codecs": ("encode",),
    }
    if name.name not in functions.get(name.module, ()) and not _is_class(name):
        raise _RefusedError(f"asks for {str(name)[:80]!r}, which a face model does not need")
    return name


def _dtype(code: Any) -> np.dtype[Any]:
    if code in ("O", "O4", "O8"):
        return _OBJECTS
    plain = code.lstrip("<>|=") if isinstance(code, str) else ""
    if _NUMERIC.fullmatch(plain) is None and _TEXT.fullmatch(plain) is None:
        raise _RefusedError(f"holds an array of type {str(code)[:20]!r}, expected numbers")
    return np.dtype(code)


def _dense(name: str, state: dict[str, Any]) -> np.ndarray:
    """A csc or csr matrix in full."""
    shape = state.get("_shape", state.get("shape"))
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
        raise ValueError("a sparse matrix without a shape")
    if math.prod(shape) > LARGEST_DENSE:
        raise ValueError(f"a sparse matrix of {shape[0]} x {shape[1]}")
    data, inner, pointers = (array_of(state.get(key)) for key in ("data", "indices", "indptr"))
    by_column = ".csc" in name
    outer_count, inner_count = (shape[1], shape[0]) if by_column else shape
    valid = data.ndim == inner.ndim == pointers.ndim == 1 and inner.dtype.kind in "iu" and pointers.dtype.kind in "iu"
    if not (valid and len(data) == len(inner) and len(pointers) == outer_count + 1):
        raise ValueError("a damaged sparse matrix")
    counts = np.diff(pointers.astype(np.int64))
    if (counts < 0).any() or pointers[0] != 0 or pointers[-1] != len(data):
        raise ValueError("a damaged sparse matrix")
    if len(inner) and (inner.min() < 0 or inner.max() >= inner_count):
        raise ValueError("a damaged sparse matrix")
    outer = np.repeat(np.arange(outer_count), counts)
    dense = np.zeros(shape)
    np.add.at(dense, (inner, outer) if by_column else (outer, inner), data)
    return dense


# --- opcodes ---------------------------------------------------------------------------------------------------------


def _text_number(machine: _Machine) -> None:
    text = machine.line()
    machine.stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))


def _text_long(machine: _Machine) -> None:
    machine.stack.append(int(machine.line().rstrip(b"L")))


def _quoted(machine: _Machine) -> None:
    text = machine.line().rstrip(b"\r")
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise ValueError("text without quotes; was the file copied in text mode?")
    machine.stack.append(codecs.escape_decode(text[1:-1])[0].decode("latin-1"))


def _push(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(read(machine))


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return step


def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: _Machine) -> None:
    values = machine.items()
    machine.top(list).extend(values)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _dict(machine: _Machine) -> None:
    pairs = machine.items()
    machine.stack.append({})
    machine.set_items(pairs)


def _reduce(machine: _Machine) -> None:
    arguments, called = machine.pop(), machine.pop()
    machine.stack.append(machine.call(called, arguments))


def _new_object(machine: _Machine) -> None:
    arguments, made = machine.pop(), machine.pop()
    if not isinstance(arguments, tuple):
        raise ValueError("arguments that are no tuple")
    machine.stack.append(machine.new(made, arguments))


def _global(machine: _Machine) -> None:
    module, name = machine.line().decode("utf-8"), machine.line().decode("utf-8")
    machine.name(module, name)


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _duplicate(machine: _Machine) -> None:
    machine.stack.append(machine.stack[-1])


def _protocol(machine: _Machine) -> None:
    version = machine.unpack("B")
    if version > 5:
        raise ValueError(f"protocol {version} is not known")


def _frame(machine: _Machine) -> None:
    if machine.unpack("Q") > len(machine.data) - machine.at:
        raise EOFError


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"N": _push(lambda m: None),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"I": _text_number,
    b"L": _text_long,
    b"J": _push(lambda m: m.unpack("i")),
    b"K": _push(lambda m: m.unpack("B")),
    b"M": _push(lambda m: m.unpack("H")),
    b"\x8a": _push(lambda m: int.from_bytes(m.take(m.unpack("B")), "little", signed=True)),
    b"\x8b": _push(lambda m: int.from_bytes(m.take(m.unpack("i")), "little", signed=True)),
    b"F": _push(lambda m: float(m.line())),
    b"G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    b"S": _quoted,
    b"T": _push(lambda m: m.take(m.unpack("i")).decode("latin-1")),
    b"U": _push(lambda m: m.take(m.unpack("B")).decode("latin-1")),
    b"V": _push(lambda m: m.line().decode("raw-unicode-escape")),
    b"X": _push(lambda m: m.take(m.unpack("I")).decode("utf-8", "surrogatepass")),
    b"\x8c": _push(lambda m: m.take(m.unpack("B")).decode("utf-8", "surrogatepass")),
    b"\x8d": _push(lambda m: m.take(m.unpack("Q")).decode("utf-8", "surrogatepass")),
    b"B": _push(lambda m: m.take(m.unpack("I"))),
    b"C": _push(lambda m: m.take(m.unpack("B"))),
    b"\x8e": _push(lambda m: m.take(m.unpack("Q"))),
    b"\x96": _push(lambda m: m.take(m.unpack("Q"))),
    b"(": lambda m: m.stack.append(_MARK),
    b"0": lambda m: m.stack.__delitem__(-1),
    b"1": lambda m: m.items().clear(),
    b"2": _duplicate,
    b")": _push(lambda m: ()),
    b"]": _push(lambda m: []),
    b"}": _push(lambda m: {}),
    b"\x8f": _push(lambda m: set()),
    b"t": _push(lambda m: tuple(m.items())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"l": _push(lambda m: m.items()),
    b"d": _dict,
    b"\x91": _push(lambda m: {_plain(value) for value in m.items()}),
    b"a": _append,
    b"e": _appends,
    b"s": _set_item,
    b"u": lambda m: m.set_items(m.items()),
    b"\x90": lambda m: m.add_items(m.items()),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.unpack("B")),
    b"r": lambda m: m.put(m.unpack("I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": _push(lambda m: m.memo[int(m.line())]),
    b"h": _push(lambda m: m.memo[m.unpack("B")]),
    b"j": _push(lambda m: m.memo[m.unpack("I")]),
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _new_object,
    b"b": lambda m: m.build(),
}
_REFUSED = {
    b"P": "asks for a persistent id",
    b"Q": "asks for a persistent id",
    b"\x82": "asks for an extension code",
    b"\x83": "asks for an extension code",
    b"\x84": "asks for an extension code",
    b"i": "makes an instance in the manner of protocol 0",
    b"o": "makes an instance in the manner of protocol 1",
    b"\x92": "makes an instance with keywords",
    b"\x97": "asks for a buffer outside the file",
    b"\x98": "asks for a buffer outside the file",
}
