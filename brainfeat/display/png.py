"""Pictures as PNG in a ``data:`` address, which a page or a notebook can hold."""

__all__ = ["encode_palette_png", "encode_png"]

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(pixels: NDArray[np.uint8]) -> str:
    """Encode an image of 0 to 255 in 16 greys, as a ``data:`` address."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)  # 4 bits a pixel
    greys = np.round(pixels / 17.0).astype(np.uint8)
    greys = np.pad(greys, ((0, 0), (0, width % 2)))
    packed = np.bitwise_or(greys[:, ::2] * np.uint8(16), greys[:, 1::2])
    return _png_address({b"IHDR": header}, packed)


def encode_palette_png(
    indices: NDArray[np.uint8], colors: Sequence[tuple[int, int, int, int]]
) -> str:
    """Encode an image of indices of colours (red, green, blue, opacity)."""
    height, width = indices.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # of a palette
    table = np.array(colors, np.uint8)
    chunks = {
        b"IHDR": header,
        b"PLTE": np.ascontiguousarray(table[:, :3]).tobytes(),
        b"tRNS": np.ascontiguousarray(table[:, 3]).tobytes(),
    }
    return _png_address(chunks, indices)


def _png_address(chunks: dict[bytes, bytes], lines: NDArray[np.uint8]) -> str:
    """Write chunks and lines of pixels as a PNG in a ``data:`` address."""
    # PNG specification, https://www.w3.org/TR/png-3/
    # Each line starts with its filter: 0 is none.
    pixels = np.pad(lines, ((0, 0), (1, 0))).tobytes()
    content = _SIGNATURE
    end = {b"IDAT": zlib.compress(pixels, 9), b"IEND": b""}
    for kind, data in (chunks | end).items():
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
