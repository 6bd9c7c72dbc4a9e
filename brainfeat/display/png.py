"""Pictures as PNG in a ``data:`` address, which a page or a notebook can hold."""

__all__ = ["encode_palette_png", "encode_png", "png_address"]

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brainfeat.display.png_file import write_png


def encode_png(pixels: NDArray[np.uint8]) -> str:
    """Encode an image of 0 to 255 in 16 greys, as a ``data:`` address."""
    height, width = pixels.shape
    greys = np.round(pixels / 17.0).astype(np.uint8)
    greys = np.pad(greys, ((0, 0), (0, width % 2)))
    packed = np.bitwise_or(greys[:, ::2] * np.uint8(16), greys[:, 1::2])
    return png_address(write_png((width, height, 4, 0), packed, {}))


def encode_palette_png(
    indices: NDArray[np.uint8], colors: Sequence[tuple[int, int, int, int]]
) -> str:
    """Encode an image of indices of colours (red, green, blue, opacity)."""
    height, width = indices.shape
    table = np.array(colors, np.uint8)
    chunks = {
        b"PLTE": np.ascontiguousarray(table[:, :3]).tobytes(),
        b"tRNS": np.ascontiguousarray(table[:, 3]).tobytes(),
    }
    return png_address(write_png((width, height, 8, 3), indices, chunks))


def png_address(content: bytes) -> str:
    """Return a PNG as a ``data:`` address."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
