"""Seeded mutations of files, and the law for whoever reads them.

The law: a mutated file gives a result or an InputError, within SECONDS and MEMORY; it gives no
other exception. tests/test_fuzz.py has the table of targets.
"""

import copy
import io
import json
import os
import resource
import signal
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from captioner.errors import InputError
from tests.helpers.pictures import chunk

SECONDS, MEMORY = 30, 2**30  # for one mutation, on a machine that others use too; bytes

NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 8, 2**31, 2**63, -(2**63), 10**400, 100_000, 0.5, -0.0,
    1e-300, 1e308, float("nan"), float("inf"), "", " ", "a", "5", "\ud800", "\0", "\x1b[2J", "\n",
    "../..", "/dev/zero", "\u202e", "a" * 5000, [], {}, [5], [None], ["a"] * 50, [[]], [1e400] * 3,
    {"_target_": "os.system"}, "captioner.encoders.CNN", "captioner.decoders.base.WordDecoder",
]  # fmt: skip
"""Values that a JSON file may hold where something else is expected."""

Mutate = Callable[[bytes, Random], bytes]


class Target(NamedTuple):
    """A kind of file. make: writes right files into an empty folder and returns the one to mutate.
    read: what a user does with it. count: mutations in the test suite."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    mutate: Mutate
    count: int


def attack(target: Target, folder: Path, seeds: Iterable[int]) -> list[str]:
    """Read one mutation of the file per seed. Returns a line for each that breaks the law."""
    path = target.make(folder)
    original, broken = path.read_bytes(), []
    signal.signal(signal.SIGALRM, _interrupt)
    for seed in seeds:
        path.write_bytes(target.mutate(original, Random(seed)))
        peak = _peak_memory()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with warnings.catch_warnings(), mock.patch.object(os, "fsync"):
                warnings.simplefilter("ignore")
                target.read(path)
        except InputError:
            pass
        except (Exception, _Hang) as error:
            broken.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if _peak_memory() - peak > MEMORY:
            broken.append(f"seed {seed}: {(_peak_memory() - peak) >> 20} MB of memory")
    path.write_bytes(original)
    target.read(path)  # the law means nothing if no file is right
    return broken


class _Hang(BaseException):
    """Not an Exception, which a reader may turn into an InputError."""


def _interrupt(*_: object) -> None:
    raise _Hang(f"over {SECONDS} s")


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Mutations


def mutate_bytes(data: bytes, draw: Random) -> bytes:
    """Flip bits, cut, insert, delete, repeat or swap pieces, one to four times."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        c = min(len(data), a + draw.choice((1, 2, 4, 16)))
        kind = draw.randrange(6)
        if kind == 0 and a < len(data):
            data = data[:a] + bytes([data[a] ^ 1 << draw.randrange(8)]) + data[a + 1 :]
        elif kind == 1:
            data = data[: draw.choice((a, b))]
        elif kind == 2:
            piece = draw.choice((b"\0", b"\xff" * 4, b'"', b"[", b"{", b"\n", b",", b"9" * 30))
            data = data[:a] + piece + data[a:]
        elif kind == 3:
            data = data[:a] + data[c:]
        elif kind == 4:
            data = data[:c] + data[a:]
        else:
            data = data[:a] + data[b : b + c - a] + data[c:b] + data[a:c] + data[b + c - a :]
    return data


def mutate_value(content: Any, draw: Random) -> Any:
    """Change, remove, double or move one value at any depth of JSON content (in place)."""
    places: list[tuple[Any, Any]] = []

    def visit(item: Any) -> None:
        keys = item if isinstance(item, dict) else range(len(item) if type(item) is list else 0)
        for key in keys:
            places.append((item, key))
            visit(item[key])

    visit(content)
    if not places or draw.random() < 0.02:
        return copy.deepcopy(draw.choice(NASTY))
    item, key = draw.choice(places)
    kind, value = draw.randrange(6), item[key]
    if kind == 0:
        del item[key]
    elif kind == 1 and isinstance(item, dict):
        item[draw.choice(("", "x", "size", "\ud800"))] = value
    elif kind == 1:
        item.insert(key, value)
    elif kind == 2:
        other, place = draw.choice(places)
        item[key] = json.loads(json.dumps(other[place] if _has(other, place) else None))
    elif kind == 3 and type(value) in (int, float):
        item[key] = draw.choice((-value, value * 2, value + 1, value * 10**6, str(value), [value]))
    else:
        item[key] = copy.deepcopy(draw.choice(NASTY))
    return content


def _has(item: Any, key: Any) -> bool:
    return key in item if isinstance(item, dict) else key < len(item)


def mutate_json(data: bytes, draw: Random) -> bytes:
    """Values of the right form and the wrong kind, or bytes as `mutate_bytes`."""
    if draw.random() < 0.3:
        return mutate_bytes(data, draw)
    content = json.loads(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = mutate_value(content, draw)
    return json.dumps(content).encode()


def mutate_safetensors(data: bytes, draw: Random) -> bytes:
    """The header as `mutate_json`, its length right or not, or the bytes of the whole file."""
    if draw.random() < 0.2:
        return mutate_bytes(data, draw)
    length = struct.unpack("<Q", data[:8])[0]
    header, tensors = data[8 : 8 + length], data[8 + length :]
    types = "F8_E4M3 F8_E5M2 F8_E8M0 BF16 F16 F64 C64 BOOL I8 U8 I64 U64 F4 F6_E2M3 X".split()
    if draw.random() < 0.2:
        content = json.loads(header)
        draw.choice([e for e in content.values() if "dtype" in e])["dtype"] = draw.choice(types)
        header = json.dumps(content).encode()
    else:
        header = mutate_json(header, draw)
    length = len(header) if draw.random() < 0.9 else draw.choice((0, 1, 2**27, 2**63, length + 1))
    return struct.pack("<Q", length) + header + tensors


def mutate_picture(data: bytes, draw: Random) -> bytes:
    """Bytes anywhere, or numbers in the headers; most checksums of a PNG are right again."""
    if draw.random() < 0.5:
        data = mutate_bytes(data, draw)
    else:
        numbers = (0, 1, 2, 3, 7, 14, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
        for _ in range(draw.choice((1, 1, 2, 4))):
            size, at = draw.choice((1, 2, 4, 8)), draw.randrange(draw.choice((40, len(data))))
            number = draw.choice(numbers) & (1 << 8 * size) - 1
            coded = number.to_bytes(size, draw.choice(("big", "little")))
            data = data[:at] + coded + data[at + size :]
    if not data.startswith(b"\x89PNG") or draw.random() < 0.2:
        return data
    mended, at = data[:8], 8
    while (end := at + 12 + int.from_bytes(data[at : at + 4])) <= len(data):
        mended += chunk(data[at + 4 : at + 8], data[at + 8 : end - 4])
        at = end
    return mended + data[at:]


def mutate_npz(data: bytes, draw: Random) -> bytes:
    """Other types, shapes, values and names of arrays, or bytes of the file or of a member."""
    if draw.random() < 0.3:
        return mutate_bytes(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = draw.choice(list(members))
    array = np.load(io.BytesIO(members[name]))
    kind = draw.randrange(6)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = members[draw.choice(list(members))]
    elif kind == 2:
        members[name] = mutate_bytes(members[name], draw)
    else:
        if kind == 3 and array.dtype.kind in "iu":
            values = (-1, 0, 2**31, 2**62, -(2**62)) if array.itemsize > 1 else (0, 10, 255)
            array = array.copy()
            array.reshape(-1)[draw.randrange(array.size)] = draw.choice(values)
        elif kind == 4:
            shaped = (array[..., None], array.reshape(-1)[:1], array.reshape(-1)[:0], array.T)
            array = draw.choice(shaped)
        elif array.dtype.kind in "iu":
            array = array.astype(
                draw.choice(("f4", "f8", "S3", "U4", "c8", "?", "i2", "u8", "M8[s]"))
            )
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        members[name] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as f:
        for name, content in members.items():
            f.writestr(name, content)
    return buffer.getvalue()
