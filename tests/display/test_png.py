import base64
import struct
import zlib

import numpy as np
import pytest

from brainfeat.display.png import encode_png


def _read_chunks(content):
    """Read the chunks of a PNG by its specification, and check their sums."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    start, chunks = 8, {}
    while start < len(content):
        (length,) = struct.unpack(">I", content[start : start + 4])
        kind, data = content[start + 4 : start + 8], content[start + 8 :][:length]
        (checksum,) = struct.unpack(">I", content[start + 8 + length :][:4])
        assert checksum == zlib.crc32(kind + data)
        chunks[kind], start = data, start + 12 + length
    return chunks


@pytest.mark.parametrize("width", [7, 16])
def test_png_has_the_nearest_of_sixteen_greys(rng, width):
    pixels = rng.integers(0, 256, (5, width), dtype=np.uint8)
    text = encode_png(pixels).removeprefix("data:image/png;base64,")
    chunks = _read_chunks(base64.b64decode(text))
    header = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert header == (width, 5, 4, 0, 0, 0, 0)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, -1)
    assert (lines[:, 0] == 0).all()
    packed = lines[:, 1:]
    greys = np.stack([packed >> 4, packed & 15], axis=2).reshape(5, -1)[:, :width]
    np.testing.assert_array_equal(greys, np.round(pixels / 17))
