"""Limits on what stands before a picture's pixels: Pillow reads it in Python, piece by piece.

A small file of millions of empty pieces would take minutes. Raises OSError, as Pillow does for a
broken file.
"""

import math
import re
import struct
import zlib

MAX_PIECES = 100_000
"""Segments, blocks, chunks or tags of one picture. An IDAT chunk of libpng holds 8 kB or more."""
MAX_PLAIN = 4 * 2**20  # bytes of a PPM whose numbers are text
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
TRANSPARENT = {b"\0": [2], b"\2": [6]}
"""The length of a tRNS chunk by colour type; others are left out, as libpng does."""
ADAM7 = "0088 4088 0448 2044 0224 1022 0112"
"""The seven passes of an interlaced PNG, each: first column, first row, column step, row step."""
PPM_HEADER = re.compile(rb"P[1-7Ffy](?:(?:\s|#[^\r\n]*+)*+[\d.+-]*+){3}")


def checked_header(data: bytes) -> bytes:
    """Return the file for Pillow to decode: a PNG without its metadata, any other as it is.

    Whether pixels can be shown depends on no text, profile or resolution, but Pillow refuses a PNG
    for these.
    """
    if data.startswith(PNG_SIGNATURE):
        return _png_pixels(data)
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"GIF8"):
        _check_gif(data)
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tiff(data)
    elif header := PPM_HEADER.match(data):
        if header.end() > 2**16:
            raise OSError(f"a header of {header.end():,} bytes")
        if data[:2] in (b"P1", b"P2", b"P3") and len(data) > MAX_PLAIN:
            raise OSError(f"{len(data):,} bytes of numbers as text; {MAX_PLAIN:,} at most")
    return data


def _png_pixels(data: bytes) -> bytes:
    chunks, position, colour = [PNG_SIGNATURE], len(PNG_SIGNATURE), data[25:26]
    for _ in range(MAX_PIECES):
        length = int.from_bytes(data[position : position + 4])
        chunk = data[position : position + length + 12]
        if len(chunk) < length + 12:
            raise OSError("it ends early")
        kind = chunk[4:8]
        if kind in PIXEL_CHUNKS:
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
                raise OSError(f"the checksum of its {kind.decode()} chunk is wrong")
            if kind != b"tRNS" or length in TRANSPARENT.get(colour, range(257)):
                chunks.append(chunk)
        if kind == b"IEND":
            return b"".join(chunks)
        position += length + 12
    raise OSError(f"over {MAX_PIECES:,} chunks")


def check_png_rows(data: bytes) -> None:
    """Raise OSError if the pixel data of a PNG (from `checked_header`) end early: Pillow would
    show black rows."""
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits *= {2: 3, 4: 2, 6: 4}.get(colour, 1)
    missing = 0
    for one_pass in (ADAM7 if interlaced else "0011").split():
        x, y, dx, dy = map(int, one_pass)
        columns, rows = -((x - width) // dx), -((y - height) // dy)
        if columns > 0 and rows > 0:
            missing += rows * (1 + math.ceil(columns * bits / 8))
    inflate = zlib.decompressobj()
    position = len(PNG_SIGNATURE)
    while missing > 0 and position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        compressed = data[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        while compressed and missing > 0:
            missing -= len(inflate.decompress(compressed, 2**20))
            compressed = inflate.unconsumed_tail
        position += length + 12
    if missing > 0:
        raise OSError(f"pixel data ends {missing} bytes early")


def _check_jpeg(data: bytes) -> None:
    position = 2
    for _ in range(MAX_PIECES):
        marker, code = data[position : position + 1], data[position + 1 : position + 2]
        if marker != b"\xff" or code in (b"\xda", b""):  # the pixels, or nothing that Pillow reads
            return
        if code == b"\xff":
            position += 1
        elif code in b"\0\1" or 0xD0 <= code[0] <= 0xD9:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    raise OSError(f"over {MAX_PIECES:,} segments before its pixels")


def _check_gif(data: bytes) -> None:
    palette = 3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0
    position, in_extension = 13 + palette, False
    for _ in range(MAX_PIECES):
        byte = data[position : position + 1]
        if in_extension and byte:
            position += 1 + byte[0]
            in_extension = byte != b"\0"
        elif byte == b"!":
            position, in_extension = position + 2, True
        else:
            return
    raise OSError(f"over {MAX_PIECES:,} blocks before its pixels")


def _check_tiff(data: bytes) -> None:
    order = "<" if data[:2] == b"II" else ">"
    big = b"+" in data[2:4]
    offset = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    if big and struct.unpack_from(order + "Q", data, offset)[0] > MAX_PIECES:
        raise OSError(f"over {MAX_PIECES:,} tags")
