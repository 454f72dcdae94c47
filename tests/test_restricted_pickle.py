"""Pickles are read as data: the same values as `pickle` gives, and nothing of a hostile one happens."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing._private.utils import runstring
from scipy import sparse

from fit3d.errors import ModelFileError
from fit3d.morphable.restricted_pickle import Inert, array_of, load_npy, load_npz, load_pickle
from model_files import Chumpy, python2_pickle

PLAIN = {
    "numbers": [1, -2, 300, 70_000, 2**40, -(2**70), 1.5, float("inf"), None, True, False],
    "text": ["", "é€", "x" * 300, "two\nlines 'quoted' \\"],
    "bytes": [b"", b"\xff\x00", b"y" * 300],
    "nested": [(), (1,), (1, (2, [3, {"four": 5}])), {1, 2}],
    7: {None: []},
}
ARRAYS = {
    "c": np.arange(6.0).reshape(2, 3),
    "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(6, dtype=">i4"),
    "half": np.arange(3, dtype=np.float16),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "none": np.array(4, np.uint8),
}


def saved(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_are_what_pickle_makes_of_them(protocol: int, tmp_path: Path) -> None:
    shared: list[int] = [1]
    value = {**PLAIN, "twice": [shared, shared]}
    read = load_pickle(saved(tmp_path, pickle.dumps(value, protocol=protocol)))
    assert repr(read) == repr(value)
    assert read["twice"][0] is read["twice"][1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_what_pickle_makes_of_them(protocol: int, tmp_path: Path) -> None:
    value = {**ARRAYS, "scalar": np.float32(3), "again": ARRAYS["c"]}
    read = load_pickle(saved(tmp_path, pickle.dumps(value, protocol=protocol)))
    for name, array in value.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert (read[name] == array).all()
    assert read["again"] is read["c"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_sparse_matrices_and_lists_of_arrays(protocol: int, tmp_path: Path) -> None:
    matrix = sparse.random(5, 7, 0.3, "csc", random_state=1)
    ragged = np.array([np.arange(3), np.arange(2)], dtype=object)
    value = {"csc": matrix, "csr": matrix.tocsr(), "array": sparse.csr_array(matrix), "ragged": ragged}
    read = load_pickle(saved(tmp_path, pickle.dumps(value, protocol=protocol)))
    for name in ("csc", "csr", "array"):
        assert (array_of(read[name]) == matrix.toarray()).all()
    assert [row.tolist() for row in read["ragged"]] == [[0, 1, 2], [0, 1]]


@pytest.mark.parametrize("protocol", [0, 2])
def test_python_2_and_chumpy(protocol: int, tmp_path: Path) -> None:
    every_byte = np.frombuffer(bytes(range(256)), np.uint8)
    content = {"a": Chumpy(every_byte), "b": Chumpy(Chumpy(ARRAYS["f"])), "c": sparse.csc_matrix(np.eye(3)), "d": "lbs"}
    read = load_pickle(saved(tmp_path, python2_pickle(content, protocol)))
    assert isinstance(read["a"], Inert)
    assert (array_of(read["a"]) == every_byte).all()
    assert (array_of(read["b"]) == ARRAYS["f"]).all()
    assert (array_of(read["c"]) == np.eye(3)).all()
    assert read["d"] == "lbs"


def test_npy_and_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "dict.npy", np.array({"a": ARRAYS["c"]}, dtype=object), allow_pickle=True)
    assert (load_npy(tmp_path / "dict.npy")["a"] == ARRAYS["c"]).all()
    np.save(tmp_path / "array.npy", ARRAYS["f"])
    assert (load_npy(tmp_path / "array.npy") == ARRAYS["f"]).all()
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "both.npz", a=ARRAYS["c"], m=sparse.csc_matrix(np.eye(3)), unread=np.zeros(3))
        read = load_npz(tmp_path / "both.npz", ("a", "m", "missing"))
        assert set(read) == {"a", "m"}
        assert (read["a"] == ARRAYS["c"]).all()
        assert (array_of(read["m"]) == np.eye(3)).all()


class Calls:
    """Pickles as a call."""

    def __init__(self, called: Any, *arguments: Any) -> None:
        self.call = (called, arguments)

    def __reduce__(self) -> Any:
        return self.call


def command(trace: Path) -> str:
    return f"touch {trace}"


def as_dict(payload: Any, protocol: int = 2) -> bytes:
    return pickle.dumps({"v_template": np.zeros((2, 3)), "f": payload}, protocol=protocol)


def opener(trace: Path) -> str:
    return f"open({str(trace)!r}, 'w').close()"


class GetAttr:
    """Pickles as `getattr(__import__('os'), 'system')`."""

    def __call__(self) -> None: ...

    def __reduce__(self) -> Any:
        return getattr, (Calls(__import__, "os"), "system")


def system(trace: Path) -> bytes:
    """The opcodes of the call, protocol 0."""
    return b"cos\nsystem\n(S" + repr(command(trace)).encode() + b"\ntR"


def dotted(trace: Path) -> bytes:
    """A name with dots, which protocol 4 follows through attributes."""
    text = command(trace).encode()
    names = b"".join(b"\x8c" + bytes([len(name)]) + name for name in (b"numpy", b"ctypeslib.os.system"))
    return b"\x80\x04" + names + b"\x93X" + struct.pack("<I", len(text)) + text + b"\x85R."


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    **{f"system, protocol {p}": lambda t, p=p: as_dict(Calls(os.system, command(t)), p) for p in range(6)},  # type: ignore[misc]
    "eval": lambda t: as_dict(Calls(eval, opener(t))),
    "exec": lambda t: as_dict(Calls(exec, opener(t))),
    "getattr": lambda t: as_dict(Calls(GetAttr(), command(t))),
    "subprocess": lambda t: as_dict(Calls(subprocess.check_call, ["touch", str(t)])),
    "nested": lambda t: as_dict([Calls(list, (Calls(os.system, command(t)),))]),
    "as a key": lambda t: pickle.dumps({Calls(os.system, command(t)): 1}),
    "in an array of objects": lambda t: as_dict(np.array([Calls(os.system, command(t))], dtype=object)),
    "in the state of chumpy": lambda t: b"cchumpy.ch\nCh\n)\x81}S'x'\n" + system(t) + b"sb.",
    "in the type of an array": lambda t: b"cnumpy\ndtype\n(" + system(t) + b"0S'f8'\nI0\nI1\ntR.",
    "in place of an array": lambda t: b"cnumpy.core.multiarray\n_reconstruct\n(" + system(t) + b"I0\ntR.",
    "inst": lambda t: b"(S" + repr(command(t)).encode() + b"\nios\nsystem\n.",
    "obj": lambda t: b"(cos\nsystem\nS" + repr(command(t)).encode() + b"\no.",
    "thrown away": lambda t: b"(l" + system(t) + b"0.",
    "dotted name": dotted,
    "numpy's runstring": lambda t: as_dict(Calls(runstring, opener(t), {})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_leaves_no_trace(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ch:
        pass

    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", types.SimpleNamespace(Ch=Ch))
    trace = tmp_path / "trace"
    payload = HOSTILE[name](trace)
    with contextlib.suppress(TypeError):  # what the call returns may be of no use
        pickle.loads(payload, encoding="latin1")
    assert trace.exists(), "the payload would do nothing"
    trace.unlink()
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("f.npy", _object_header() + payload)
    (tmp_path / "model.npy").write_bytes(_object_header() + payload)
    path = saved(tmp_path, payload)
    for load in (
        lambda: load_pickle(path),
        lambda: load_npy(tmp_path / "model.npy"),
        lambda: load_npz(tmp_path / "model.npz", ["f"]),
    ):
        with pytest.raises(ModelFileError, match=r"refused, because it .*; nothing of it was run") as caught:
            load()
        assert "\n" not in str(caught.value)
        assert not trace.exists()


def _object_header() -> bytes:
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


REFUSED = {
    "persistent id of text": b"Pname\n.",
    "persistent id": b"\x80\x02K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "new with keywords": b"\x80\x04cos\nsystem\n)}\x92.",
    "buffer outside": b"\x80\x05\x97.",
    "name alone": b"cos\nsystem\n.",
    "name that is not called": b"}S'a'\ncos\nsystem\ns.",
    "reconstructor of another class": b"ccopy_reg\n_reconstructor\n(c__builtin__\neval\nc__builtin__\nobject\nNtR.",
    "reconstruct of another class": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmemmap\n(I0\ntS'b'\ntR.",
    "records": b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.",
    "numpy.load": b"cnumpy\nload\n(S'x'\ntR.",
    "ctypes": b"cnumpy.ctypeslib\nload_library\n(S'x'\nS'.'\ntR.",
    "calling what was read": b"(lI1\n\x85R.",
    "bytearray of a size": b"c__builtin__\nbytearray\n(L99999999999L\ntR.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_numbers_do_not_need_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model\.pkl: refused, because it "):
        load_pickle(saved(tmp_path, REFUSED[name]))


def test_the_message_names_what_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model\.pkl: refused, because it asks for 'os\.system', which"):
        load_pickle(saved(tmp_path, system(tmp_path / "trace") + b"."))


def nested_tuples(depth: int) -> bytes:
    """A tuple of which each half is the same tuple; its hash takes 2^depth steps."""
    return b"K\x01" + b"2\x86" * depth


DAMAGED = {
    "empty": b"",
    "no end": b"\x80\x02}",
    "no pickle": b"hello\nworld\n",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",
    "frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "memo that is not there": b"j" + struct.pack("<I", 5) + b".",
    "protocol of the future": b"\x80\x09N.",
    "costly key": b"}" + nested_tuples(64) + b"K\x01s.",
    "costly set": b"\x80\x04\x8f(" + nested_tuples(64) + b"\x90.",
    "mark as a value": b"(\x85.",
    "list of nothing": b"N(I1\ne.",
    "text mode": b"S'a\r\n.",
    "number of many digits": b"L" + b"9" * 5000 + b"L\n.",
    "array without its numbers": python2_pickle(np.zeros(3), 2).replace(b"I3\nt", b"I999999999999\nt"),
    "array of a negative size": python2_pickle(np.zeros(3), 2).replace(b"I3\nt", b"I-3\nt"),
    "array without a type": b"cnumpy\nndarray\n)\x81(I1\n(I1\ntNI00\nS''\ntb.",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickle_is_one_clear_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model\.pkl: (a truncated or damaged|not a usable) pickle") as caught:
        load_pickle(saved(tmp_path, DAMAGED[name]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_truncation_is_one_clear_line(protocol: int, tmp_path: Path) -> None:
    value = {"a": np.arange(4.0), "b": [1, "two"]}
    whole = pickle.dumps(value, protocol=protocol)
    for end in range(len(whole)):
        with pytest.raises(ModelFileError):
            load_pickle(saved(tmp_path, whole[:end]))


def test_every_flipped_byte_is_read_or_refused(tmp_path: Path) -> None:
    whole = python2_pickle({"a": Chumpy(np.arange(2.0)), "m": sparse.csc_matrix(np.eye(2))}, 2)
    for k in range(len(whole)):
        content = whole[:k] + bytes([whole[k] ^ (1, 0x80, 0xFF)[k % 3]]) + whole[k + 1 :]
        with contextlib.suppress(ModelFileError, ValueError, KeyError, TypeError):
            array_of(load_pickle(saved(tmp_path, content))["a"])


def test_repeated_conversions_run_out_of_budget(tmp_path: Path) -> None:
    # one text of 100 kB, encoded a thousand times, would take 100 MB
    text = b"\x80\x02X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x000"
    encode = b"c_codecs\nencode\nh\x00U\x06latin1\x86R"
    with pytest.raises(ModelFileError, match="unpacks to far more than its size"):
        load_pickle(saved(tmp_path, text + encode * 1000 + b"."))


def test_opcodes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fit3d.morphable.restricted_pickle.MOST_OPCODES", 100)
    with pytest.raises(ModelFileError, match="more than 100 opcodes"):
        load_pickle(saved(tmp_path, b"N0" * 200 + b"N."))


@pytest.mark.parametrize(
    "change",
    [
        {"_shape": (10**9, 10**9)},
        {"_shape": (3, -3)},
        {"indices": np.array([0, 1, 9], np.int32)},
        {"indices": np.array([0, 1, -1], np.int32)},
        {"indptr": np.array([0, 2, 1, 3], np.int32)},
        {"indptr": np.array([0, 1, 2], np.int32)},
        {"indptr": np.array([0, 1, 2, 2], np.int32)},
        {"indptr": np.array([1, 1, 2, 3], np.int32)},
        {"data": np.zeros(2)},
        {"data": None},
    ],
)
def test_damaged_sparse_matrix(change: dict[str, Any]) -> None:
    matrix = sparse.csc_matrix(np.eye(3))
    state = {"_shape": (3, 3), "data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    assert (array_of(Inert("scipy.sparse.csc.csc_matrix", dict(state))) == np.eye(3)).all()
    with pytest.raises(ValueError, match=r"sparse matrix|no array"):
        array_of(Inert("scipy.sparse.csc.csc_matrix", {**state, **change}))


def test_zip_bomb_and_damaged_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(5_000_000))
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr("fit3d.morphable.restricted_pickle.LARGEST_FILE", 1_000_000)
    with pytest.raises(ModelFileError, match=r"bomb\.npz: 'a' would unpack to"):
        load_npz(bomb, ["a"])
    with pytest.raises(ModelFileError, match=r"truncated or damaged \.npz"):
        load_npz(saved(tmp_path, bomb.read_bytes()[:-30]), ["a"])
    (tmp_path / "large.pkl").write_bytes(bytes(1_000_001))
    with pytest.raises(ModelFileError, match="no face model is larger"):
        load_pickle(tmp_path / "large.pkl")
    with pytest.raises(ModelFileError, match="cannot read it"):
        load_pickle(tmp_path / "missing.pkl")


def test_arrays_of_text_become_lists(tmp_path: Path) -> None:
    path = tmp_path / "names.pkl"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"names": np.array(["jawOpen", "süß"]), "bytes": np.array([b"ab"])}, protocol))
        assert load_pickle(path) == {"names": ["jawOpen", "süß"], "bytes": [b"ab"]}
