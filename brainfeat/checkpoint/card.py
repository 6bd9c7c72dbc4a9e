"""The model card of a checkpoint: its README.md."""

__all__ = ["write_card"]

from collections.abc import Iterator

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.known import find_known
from brainfeat.checkpoint.known_encoder import KnownEncoder
from brainfeat.checkpoint.origin import Origin
from brainfeat.models.config import EncoderConfig


def write_card(config: CheckpointConfig, *, state: str = "") -> str:
    """Return a card with what a configuration says, and the licence of others.

    `state` says how far the encoder is trained, where more is known of it.
    """
    origin = config.origin
    known = find_known(origin.name)
    paragraphs = [
        f"# {origin.title or 'brainfeat checkpoint'}",
        config.description or "No description was given.",
        _list_items(_describe_network(config, state)),
    ]
    if origin.file or origin.licence:
        paragraphs += ["## Origin and licence", _list_items(_describe_origin(origin))]
    if known is not None and known.layout:
        paragraphs += ["## Use", _list_items(_describe_use(known))]
    paragraphs.append("For research. Not a medical device.")
    return "\n\n".join(paragraphs) + "\n"


def _describe_network(
    config: CheckpointConfig, state: str
) -> Iterator[tuple[str, str]]:
    encoder = config.encoder
    known = state or "trained"
    yield "state", known if config.trained else "**not trained: random weights**"
    yield "modalities", ", ".join(encoder.modalities)
    if isinstance(encoder, EncoderConfig):
        yield "plane of slabs", config.plane
    yield "network", encoder.summary
    yield "recommended pooling", config.pooling
    yield "written by", f"brainfeat {config.library_version}"


def _describe_origin(origin: Origin) -> Iterator[tuple[str, str]]:
    yield "licence", origin.licence or "not known; ask those the file is from"
    yield "from", origin.source
    yield "file", origin.file
    yield "revision", origin.revision
    yield "SHA-256", origin.sha256


def _describe_use(known: KnownEncoder) -> Iterator[tuple[str, str]]:
    yield "trained on", known.trained_on
    yield "takes", known.takes
    yield "the authors prepare", known.prepared
    yield "the authors' feature", known.feature
    yield "reported", known.reported
    for caveat in known.caveats:
        yield "note", caveat


def _list_items(items: Iterator[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in items if text)
