"""Pictures made on the spot, whole and broken."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RAMP = np.add.outer(np.arange(40), np.arange(60))
PHOTO = Image.fromarray(np.stack([RAMP * 2, 255 - RAMP, RAMP[::-1]], axis=-1).astype(np.uint8))
ROWS = (b"\0" + b"\xff" * 30) * 10  # of a PNG of 10 x 10 pixels


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour, rows: bytes, *extra: bytes, interlaced=0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")
