"""PNG images with few colours, and a text in them."""

__all__ = ["png_size", "png_text", "write_png"]

import struct
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = b"tEXt"


def write_png(
    header: tuple[int, int, int, int],  # width, height, bits a pixel, kind of colour
    lines: NDArray[np.uint8],  # height, bytes of a line
    chunks: Mapping[bytes, bytes],
    *,
    text: tuple[str, str] | None = None,  # a keyword and what it names
    level: int = 9,
) -> bytes:
    """Write lines of packed pixels, after further chunks such as a palette."""
    # PNG specification, https://www.w3.org/TR/png-3/
    # Each line starts with its filter: 0 is none.
    pixels = np.pad(lines, ((0, 0), (1, 0))).tobytes()
    begin = {b"IHDR": struct.pack(">IIBBBBB", *header, 0, 0, 0)}
    words = {} if text is None else {_TEXT: "\0".join(text).encode("latin-1")}
    end = {b"IDAT": zlib.compress(pixels, level), b"IEND": b""}
    content = _SIGNATURE
    for kind, data in (begin | dict(chunks) | words | end).items():
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height; raises ValueError if the file is damaged or another."""
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            width, height = struct.unpack(">II", data[:8])
            return int(width), int(height)
    raise ValueError("expected a PNG image.")


def png_text(content: bytes, keyword: str) -> str | None:
    """Read a text; raises ValueError if the file is damaged or another."""
    start = keyword.encode("latin-1") + b"\0"
    texts = [data for kind, data in _chunks(content) if kind == _TEXT]
    for data in texts:
        if data.startswith(start):
            return data.removeprefix(start).decode("latin-1")
    return None


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not content.startswith(_SIGNATURE):
        raise ValueError("expected a PNG image.")
    start = len(_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if len(content) < start + 12:
            raise ValueError("the PNG image is cut short.")
        (length,) = struct.unpack(">I", content[start : start + 4])
        kind, data = content[start + 4 : start + 8], content[start + 8 :][:length]
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        if content[start + 8 + length :][:4] != checksum:
            raise ValueError("the PNG image is damaged.")
        yield kind, data
        start += 12 + length
