"""Find a checkpoint: bundled, known by name, a local folder or file, or on the hub."""

__all__ = [
    "CONFIG_NAME",
    "absolute_source",
    "find_downloaded",
    "home_folder",
    "locate_checkpoint",
]

import os
from pathlib import Path

from brainfeat.checkpoint.hub import cached_file, download
from brainfeat.checkpoint.known import find_known, suggest_known
from brainfeat.checkpoint.known_encoder import KnownEncoder
from brainfeat.checkpoint.weight_names import WEIGHTS_SUFFIXES
from brainfeat.exceptions import CheckpointError, MissingDependencyError, list_names
from brainfeat.io.file_kinds import describe_absence, is_address
from brainfeat.io.paths import expand_home

CONFIG_NAME = "config.json"
_BUNDLED = Path(__file__).parents[1] / "weights"
_HOME = "BRAINFEAT_HOME"


def locate_checkpoint(source: str | os.PathLike[str]) -> Path:
    """Return the file or folder of a checkpoint; download it if it is on the hub."""
    name = os.fspath(source)
    bundled = _bundled_names()
    if name in bundled:
        return _BUNDLED / name
    known = find_known(name)
    if known is not None:
        return find_downloaded(known) or _fetch(known)
    if name.startswith("hf-hub:"):
        return download(name)
    local = name.removeprefix("local-dir:")
    if is_address(local):
        raise CheckpointError(f"{name}: {describe_absence(local)}.")
    path = expand_home(local)
    # Path.exists raises an error if a name is too long.
    if not name or not os.path.exists(path):  # noqa: PTH110
        similar = suggest_known(name)
        meant = f"; did you mean {list_names(similar)}?" if similar else "."
        raise CheckpointError(
            f"unknown checkpoint {name!r}: expected one of {bundled}, an encoder that "
            "'brainfeat info' lists, an existing file or folder, or "
            f"hf-hub:organisation/name{meant}"
        )
    return path


def absolute_source(source: str | os.PathLike[str]) -> str:
    """Return a name or hub address as it is, a local path as an absolute path."""
    name = os.fspath(source)
    if name in _bundled_names() or name.startswith("hf-hub:"):
        return name
    known = find_known(name)
    return known.name if known else os.fspath(locate_checkpoint(name).absolute())


def home_folder() -> Path:
    """Return the folder for weights of others: $BRAINFEAT_HOME, or ~/.brainfeat."""
    return expand_home(os.environ.get(_HOME) or "~/.brainfeat")


def find_downloaded(known: KnownEncoder) -> Path | None:
    """Return the weights of a known encoder if they are on this machine.

    They may be bundled, in the home folder (a folder or file of the encoder's name, or
    a file of the name that the authors gave it), or in the cache of the hub.
    """
    if known.name in _bundled_names():
        return _BUNDLED / known.name
    suffixes = ("", *WEIGHTS_SUFFIXES)
    names = [*(known.name + suffix for suffix in suffixes), *known.files]
    for name in names:
        if (path := home_folder() / name).exists():
            return path
    return cached_file(_hub_source(known)) if known.hub else None


def _fetch(known: KnownEncoder) -> Path:
    """Download a known encoder from the hub; say where it is if it is not there."""
    file = known.files[0] if known.files else f"{known.name}.pth"
    place = home_folder() / file
    mend = f"download it from {known.page}, and save it as {place} or give its path"
    if known.hub:
        try:
            return download(_hub_source(known))
        except (CheckpointError, MissingDependencyError) as error:
            reason = str(error).rstrip(".")
            message = f"{known.name}: {reason}. Or {mend}."
            raise type(error)(message) from error
    copies = " or ".join(f"hf-hub:{copy}" for copy in known.copies)
    others = f"; others offer copies as {copies}" if copies else ""
    raise CheckpointError(
        f"{known.name}: expected {place}, got no such file; {mend}{others}."
    )


def _hub_source(known: KnownEncoder) -> str:
    revision = f"@{known.revision}" if known.revision else ""
    return f"hf-hub:{known.hub}{revision}"


def _bundled_names() -> list[str]:
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_NAME}"))
