"""Inflates the records of a compressed batch, up to a bound, in time that is linear in what is read and written."""

import zlib
from collections.abc import Callable
from typing import Final

import cramjam

from service.domain.input_limits import InputLimits
from service.kafka.byte_reader import ByteReader, MalformedError

_PIECE: Final = 16 * 1024
"""Bytes of gzip that are inflated at once: what follows the end of a member is copied, and is not all that is left."""
_SNAPPY_BLOCKS: Final = b"\x82SNAPPY\0"


class TooLargeError(MalformedError):
    """It inflates to more than its bound."""


def inflate(codec: int, data: memoryview, most_bytes: int, limits: InputLimits) -> bytes | bytearray:
    """Return the data uncompressed. Raises TooLargeError beyond `most_bytes`, and MalformedError."""
    try:
        match codec:
            case 1:
                return _inflate_gzip(data, most_bytes, limits.compressed_parts)
            case 2:
                return _inflate_snappy(data, most_bytes, limits.compressed_parts)
            case 3:
                return _inflate_into(cramjam.lz4.decompress_into, data, most_bytes)
            case 4:
                return _inflate_into(cramjam.zstd.decompress_into, data, most_bytes)
    except MalformedError:
        raise
    except Exception as error:
        raise MalformedError(f"it can't be inflated: {type(error).__name__}: {error}") from error
    raise MalformedError(f"its compression {codec} is unknown")


def _inflate_gzip(data: memoryview, most_bytes: int, most_members: int) -> bytearray:
    inflated, members = bytearray(), 0
    member = None
    for begin in range(0, len(data), _PIECE):
        rest: bytes | memoryview = data[begin : begin + _PIECE]
        while rest:
            if member is None or member.eof:
                members += 1
                _check_parts(members, most_members)
                member = zlib.decompressobj(wbits=31)
            inflated += member.decompress(rest, most_bytes + 1 - len(inflated))
            _check_size(len(inflated), most_bytes)
            rest = member.unused_data
    if member is None or not member.eof:
        raise MalformedError("its compressed data is cut off")
    return inflated


def _inflate_into(inflate: Callable[[memoryview, bytearray], int], data: memoryview, most_bytes: int) -> bytearray:
    """Inflate into a buffer that grows until the result fits: these codecs do not report the size that they need."""
    room = min(max(64 * 1024, 16 * len(data)), most_bytes)
    while True:
        inflated = bytearray(room)
        try:
            del inflated[inflate(data, inflated) :]
            return inflated
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
        _check_size(room + 1, most_bytes)
        room = min(8 * room, most_bytes)


def _inflate_snappy(data: memoryview, most_bytes: int, most_blocks: int) -> bytes | bytearray:
    """Inflate raw Snappy, or the blocks that Java's library writes: a header of 16 bytes, then each with its length."""
    if bytes(data[: len(_SNAPPY_BLOCKS)]) != _SNAPPY_BLOCKS:
        return _inflate_block(data, most_bytes)
    inflated, reader, blocks = bytearray(), ByteReader(data[16:]), 0
    while not reader.at_end:
        blocks += 1
        _check_parts(blocks, most_blocks)
        inflated += _inflate_block(reader.take(int.from_bytes(reader.take(4))), most_bytes - len(inflated))
    return inflated


def _inflate_block(block: memoryview, most_bytes: int) -> bytes:
    _check_size(cramjam.snappy.decompress_raw_len(block), most_bytes)
    return bytes(cramjam.snappy.decompress_raw(block))


def _check_size(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise TooLargeError(f"it inflates to more than {most_bytes} bytes")


def _check_parts(parts: int, most: int) -> None:
    if parts > most:
        raise MalformedError(f"its compressed data has more than {most} parts")
