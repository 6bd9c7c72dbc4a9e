"""Where the weights of a checkpoint come from, and what their licence allows."""

__all__ = ["Origin", "announce_licence", "bundled_origin", "check_sha256"]

import dataclasses
import logging
import multiprocessing
from pathlib import Path

from brainfeat.checkpoint.known import find_known
from brainfeat.checkpoint.known_encoder import KnownEncoder
from brainfeat.configs import JsonConfig, check_fields
from brainfeat.exceptions import CheckpointError

_LOGGER = logging.getLogger(__name__)
_announced: set[tuple[str, str]] = set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin(JsonConfig):
    """The origin of weights; empty texts are not known.

    Parameters
    ----------
    name : str
        Name of a known encoder.
    licence : str
        Its licence, with what it forbids in words.
    source : str
        Where the file is from: a repository on the hub, or a page.
    file : str
        Name of the file.
    revision : str
        Commit on the hub.
    sha256 : str
        SHA-256 of the file.

    Raises
    ------
    ConfigError
        If a value is no text.
    """

    name: str = ""
    licence: str = ""
    source: str = ""
    file: str = ""
    revision: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def title(self) -> str:
        """How people call the encoder, "" if it is not known."""
        known = find_known(self.name)
        return known.title if known else self.name


def bundled_origin(known: KnownEncoder | None) -> Origin:
    """Return the origin of a checkpoint of ours that does not state it."""
    if known is None or known.layout:
        return Origin()
    return Origin(name=known.name, licence=str(known.licence), source=known.page)


def announce_licence(origin: Origin) -> None:
    """Log the licence of others' weights, once in a run."""
    key = origin.name or origin.sha256, origin.licence
    is_worker = multiprocessing.parent_process() is not None
    if not (origin.file and origin.licence) or key in _announced or is_worker:
        return
    _announced.add(key)
    known = find_known(origin.name)
    is_free = known is not None and known.licence.is_free
    page = f" ({origin.source})" if origin.source else ""
    _LOGGER.log(
        logging.INFO if is_free else logging.WARNING,
        "%s: licence %s%s",
        origin.title or origin.file,
        origin.licence,
        page,
    )


def check_sha256(path: Path, sha256: str, known: KnownEncoder | None) -> None:
    """Raise a CheckpointError if a file is not the one that was released.

    The cache of the hub names large files by their SHA-256.
    """
    stored = path.resolve().name
    is_hash = len(stored) == len(sha256) and not set(stored) - set("0123456789abcdef")
    expected = stored if is_hash else known and known.sha256.get(path.name)
    if expected and sha256 != expected:
        raise CheckpointError(
            f"{path}: expected the SHA-256 {expected[:12]}..., got {sha256[:12]}...; "
            "the file is damaged or was replaced: delete it and fetch it again."
        )
