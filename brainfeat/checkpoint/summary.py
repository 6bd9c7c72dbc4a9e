"""A checkpoint in words: its network, input, features and licence."""

__all__ = ["checkpoint_facts", "headline"]

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.known import find_known
from brainfeat.models.config import EncoderConfig

State = Mapping[str, Tensor]


def headline(config: CheckpointConfig, state: State) -> str:
    """Return name, size and input of an encoder in less than a line."""
    encoder = config.encoder
    name = config.origin.title or f"{encoder.kind} encoder"
    trained = "" if config.trained else "untrained "
    return (
        f"{trained}{name}, {_count(state)} parameters, {', '.join(encoder.modalities)}"
        f" to {encoder.embed_dim} features"
    )


def checkpoint_facts(
    config: CheckpointConfig, state: State, fingerprint: str
) -> Iterator[tuple[str, str]]:
    """Yield the properties of a checkpoint with their names."""
    encoder = config.encoder
    missing = "any may be missing" if config.missing_modalities else "all needed"
    yield "description", config.description or "none"
    yield "state", "trained" if config.trained else "not trained: random weights"
    yield "licence", config.origin.licence or "not known"
    yield "origin", config.origin.source or "not known"
    yield "modalities", f"{', '.join(encoder.modalities)} ({missing})"
    if isinstance(encoder, EncoderConfig):
        yield "slabs", f"{config.plane}, {encoder.thickness} slices"
        yield "anatomy", ", ".join(encoder.tissues) or "none"
        yield "structures", ", ".join(encoder.structures)
    yield "network", encoder.summary
    yield "parameters", _count(state)
    yield "features", _describe_features(config)
    yield "pooling", f"{config.pooling} is recommended"
    yield "preprocessing", _describe_preprocessing(config.preprocessing)
    yield "written by", f"brainfeat {config.library_version}"
    yield "fingerprint", fingerprint
    yield from _describe_authors(config)


def _count(state: State) -> str:
    n_parameters = sum(value.numel() for value in state.values())
    return f"{n_parameters / 1e6:.1f} million"


def _describe_features(config: CheckpointConfig) -> str:
    features = f"{config.encoder.embed_dim} a subject"
    both = " (cls+mean: twice as many)" if config.encoder.has_cls_token else ""
    return features + both


def _describe_authors(config: CheckpointConfig) -> Iterator[tuple[str, str]]:
    """Yield the feature of a known encoder's authors, and the traps."""
    known = find_known(config.origin.name)
    if known is not None and known.layout:
        yield "default", known.feature
        yield from (("note", caveat) for caveat in known.caveats)


def _describe_preprocessing(values: Mapping[str, Any]) -> str:
    if values.get("kind") == "recipe":
        steps = " > ".join(str(step["step"]) for step in values["steps"])
        return f"recipe {values['name']}: {steps}"
    known = {"shape", "spacing"} & values.keys()
    parts = []
    if len(known) == 2:
        sizes = " x ".join(map(str, values["shape"]))
        parts.append(f"{sizes} voxels of {values['spacing']} mm")
    others = (name for name in values if name not in known)
    parts += [f"{name} {_plain(values[name])}" for name in others]
    return ", ".join(parts).replace("_", " ")


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value))
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
