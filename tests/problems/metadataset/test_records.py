"""TFRecord files against an independent writer, the checksum's published values, and damage of every kind."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadataset.written import encoded, picture
from tfrecord.reader import tfrecord_loader
from tfrecord.writer import TFRecordWriter

from raymeta.errors import UserError
from raymeta.problems.metadataset.records import (
    crc32c,
    example,
    masked,
    parse_example,
    records,
    slow_crc32c,
    write_records,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three records, of 40 bytes and more each."""
    path = tmp_path / "0.tfrecords"
    writer = TFRecordWriter(str(path))
    for number in range(3):
        writer.write({"image": (bytes([number]) * (20 + number), "byte"), "label": (number, "int")})
    writer.close()
    return path


def test_checksums_are_the_published_ones() -> None:
    """RFC 3720, B.4, and of TFRecord's form what was computed by others."""
    assert slow_crc32c(b"123456789") == 0xE3069283
    assert slow_crc32c(bytes(32)) == 0x8A9136AA
    assert slow_crc32c(b"\xff" * 32) == 0x62A8AB43
    assert [masked(struct.pack("<Q", length)) for length in (0, 5)] == [0x07980329, 0x3E04B2EA]
    assert masked(b"hello") == 0x191C1FBB


@given(st.binary(max_size=80))
def test_the_fast_and_the_slow_one_agree(data: bytes) -> None:
    assert crc32c(data) == slow_crc32c(data)


def test_what_an_independent_writer_wrote_is_read_back(tmp_path: Path) -> None:
    path, images = tmp_path / "7.tfrecords", [encoded(picture("a", 7, image)) for image in range(5)]
    writer = TFRecordWriter(str(path))
    for image in images:
        writer.write({"label": (7, "int"), "image": (image, "byte"), "size": ([0.5, -1.25], "float")})
    writer.close()
    for payloads in (True, False):
        found = [parse_example(record.payload or b"") for record in records(path, payloads=payloads)]
        assert found == [{"image": [image], "label": [7], "size": [0.5, -1.25]} for image in images]


@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 2**40)), max_size=4))
def test_what_is_written_here_is_read_back_by_an_independent_reader(written: list[tuple[bytes, int]]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "1.tfrecords"
        write_records(path, (example({"image": image, "label": label}) for image, label in written))
        assert [parse_example(one.payload or b"") for one in records(path)] == [
            {"image": [image], "label": [label]} for image, label in written
        ]
        if written:  # the independent one maps the file into memory, which an empty one can't be
            theirs = [(bytes(one["image"]), int(one["label"][0])) for one in tfrecord_loader(str(path), None)]
            assert theirs == written


def test_some_are_read_and_the_others_passed_over(file: Path) -> None:
    everything = list(records(file))
    some = list(records(file, {1}))
    assert [(one.number, one.at) for one in some] == [(one.number, one.at) for one in everything]
    assert [one.payload for one in some] == [None, everything[1].payload, None]


def refusal(path: Path, **how: Any) -> str:
    with pytest.raises(UserError) as refused:
        list(records(path, **how))
    return str(refused.value)


def test_a_file_that_is_cut_off_is_refused_at_its_last_record_wherever_it_ends(file: Path) -> None:
    whole = file.read_bytes()
    starts = [record.at for record in records(file)]
    for end in range(1, len(whole)):
        if end in starts:
            continue  # whole records: their number is compared with the specification's
        file.write_bytes(whole[:end])
        last = max(start for start in starts if start < end)
        for how in ({}, {"payloads": False}, {"wanted": set()}):
            assert re.fullmatch(rf".*0\.tfrecords: the record at byte {last} is cut off.*", refusal(file, **how))


def test_a_flipped_bit_is_found_wherever_it_is(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    starts = [record.at for record in records(file)]
    for place in range(len(whole)):
        whole[place] ^= 16
        file.write_bytes(whole)
        at = max(start for start in starts if start <= place)
        assert f"0.tfrecords: the record at byte {at} has a " in refusal(file)
        assert "checksum is wrong" in refusal(file)
        whole[place] ^= 16


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a picture, perhaps, or a text, but no records at all")
    assert refusal(tmp_path / "a").endswith(
        "the record at byte 0 has a length whose checksum is wrong: the file is damaged, or no TFRecord file"
    )
    assert refusal(tmp_path / "b").endswith("b: cannot be read: No such file or directory")


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value % 128 + 128])
        value //= 128
    return found + bytes([value])


def piece(number: int, content: bytes) -> bytes:
    return varint(8 * number + 2) + varint(len(content)) + content


def test_fields_in_any_order_packed_or_not_and_unknown_ones() -> None:
    """By hand: value before key, numbers one by one, negative ones, a field of every other kind in between."""
    unknown = (
        varint(8 * 9) + varint(300) + varint(8 * 10 + 1) + bytes(8) + varint(8 * 11 + 5) + bytes(4) + piece(12, b"x")
    )
    numbers = piece(3, varint(8) + varint(5) + varint(8) + varint(2**64 - 2))
    packed = piece(3, piece(1, varint(5) + varint(2**64 - 2)))
    for feature in (numbers, packed):
        entry = unknown + piece(2, unknown + feature) + piece(1, b"label")
        assert parse_example(unknown + piece(1, piece(1, entry) + unknown)) == {"label": [5, -2]}
    assert parse_example(b"") == {}


@given(st.binary(max_size=60))
def test_bytes_that_are_no_example_are_refused_or_read_and_nothing_else(content: bytes) -> None:
    try:
        found = parse_example(content)
    except ValueError:
        return
    assert isinstance(found, dict)
