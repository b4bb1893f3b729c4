"""TFRecord files of `Example`s, read and written without TensorFlow.

A record is its length (u64), a checksum of these 8 bytes (u32), the payload and a checksum of it (u32), all little
endian; a checksum is CRC-32C, turned and shifted. The payload is a protobuf message: an `Example` has `Features`, a map
from names to lists of bytes, floats or whole numbers. Fields that are not known are passed over, as protobuf wants it.

Payloads' checksums are computed with the package crc32c (`pip install raymeta[meta-dataset]`); without it those of the
lengths only, since in Python alone it takes longer than all the rest.
"""

import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

from raymeta.errors import UserError, shown

HEADER, CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")
_POLYNOMIAL, _MASK = 0x82F63B78, 0xA282EAD8
Value = list[bytes] | list[float] | list[int]


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def slow_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), byte by byte."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


CHECKS_PAYLOADS = find_spec("crc32c") is not None
crc32c: Callable[[bytes], int] = import_module("crc32c").crc32c if CHECKS_PAYLOADS else slow_crc32c


def masked(data: bytes) -> int:
    """The checksum that stands in a file."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


class Record(NamedTuple):
    """A record: which of its file, at which byte it starts, and its payload; None: it was passed over."""

    number: int
    at: int
    payload: bytes | None


def records(path: Path, wanted: Collection[int] | None = None, *, payloads: bool = CHECKS_PAYLOADS) -> Iterator[Record]:
    """The records of a file.

    Args:
        path: of the file.
        wanted: numbers of those whose payloads are read; None: all. Of the others the length is checked only.
        payloads: compute the checksums of payloads, not only those of lengths.

    Raises:
        UserError: it can't be read, or is cut off or damaged; the sentence has the byte.
    """
    try:
        with open(path, "rb", buffering=2**20) as file:
            yield from _records(file, path, wanted, payloads)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error


def _records(file: BinaryIO, path: Path, wanted: Collection[int] | None, payloads: bool) -> Iterator[Record]:
    at = number = 0
    size = os.fstat(file.fileno()).st_size
    while at < size:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise damaged(path, at, f"is cut off in its header, after {len(header)} of {HEADER.size} bytes")
        length, check = HEADER.unpack(header)
        if masked(header[:8]) != check:
            raise damaged(path, at, "has a length whose checksum is wrong: the file is damaged, or no TFRecord file")
        end = at + HEADER.size + length + CHECKSUM.size
        if end > size:
            there = size - at - HEADER.size
            raise damaged(path, at, f"is cut off: {there:,} of {length + CHECKSUM.size:,} bytes are there")
        if wanted is None or number in wanted:
            body = file.read(length + CHECKSUM.size)
            if payloads and masked(body[:length]) != CHECKSUM.unpack(body[length:])[0]:
                raise damaged(path, at, "has a payload whose checksum is wrong")
            yield Record(number, at, body[:length])
        else:
            file.seek(end)
            yield Record(number, at, None)
        at, number = end, number + 1


def damaged(path: Path, at: int, what: str) -> UserError:
    """The sentence for a record that is not what it should be."""
    return UserError(f"{shown(path)}: the record at byte {at:,} {what}")


def write_records(path: Path, payloads: Iterable[bytes]) -> None:
    """A file of records."""
    with open(path, "wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            file.write(length + CHECKSUM.pack(masked(length)) + payload + CHECKSUM.pack(masked(payload)))


def parse_example(payload: bytes) -> dict[str, Value]:
    """The features of an `Example`, by name.

    Raises:
        ValueError: it is none.
    """
    found: dict[str, Value] = {}
    for number, features in _fields(payload):
        if number == 1:
            for inner, entry in _fields(_bytes(features)):
                if inner == 1:
                    parts = dict(_fields(_bytes(entry)))
                    found[_bytes(parts.get(1, b"")).decode()] = _feature(_bytes(parts.get(2, b"")))
    return found


def _feature(message: bytes) -> Value:
    for kind, value in _fields(message):
        if kind not in (1, 2, 3):
            continue
        values = [one for number, one in _fields(_bytes(value)) if number == 1]
        if kind == 1:
            return [_bytes(one) for one in values]
        if kind == 2:
            packed = b"".join(_bytes(one) for one in values)
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        return [_signed(number) for one in values for number in ([one] if isinstance(one, int) else _varints(one))]
    return []


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers of a message's fields and what is in them: a number, or bytes."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
        if size < 0 or at + size > end:
            raise ValueError("a field that ends behind its message, or of a kind that protobuf does not have")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number that does not end")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varints(packed: bytes) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def example(features: Mapping[str, bytes | int]) -> bytes:
    """An `Example` of single values, bytes or whole numbers from 0 on."""
    entries = b""
    for name, value in features.items():
        inner = _field(1, value) if isinstance(value, bytes) else _field(1, _number(value))  # of whole numbers: packed
        feature = _field(1 if isinstance(value, bytes) else 3, inner)
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
