"""``brainfeat info``."""

__all__ = ["format_checkpoint", "info"]

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainfeat.exceptions import UntrainedCheckpointWarning

if TYPE_CHECKING:
    from brainfeat.checkpoint.checkpoint import Checkpoint


def info(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Bundled name, folder, weights, or hf-hub:org/name.",
        ),
    ],
) -> None:
    """Describe a checkpoint."""
    from brainfeat.checkpoint.checkpoint import Checkpoint

    # The summary has it as its state.
    warnings.simplefilter("ignore", UntrainedCheckpointWarning)
    typer.echo(format_checkpoint(Checkpoint.load(checkpoint)))


def format_checkpoint(checkpoint: "Checkpoint") -> str:
    """Format the properties of a checkpoint, one a line."""
    config, encoder = checkpoint.config, checkpoint.config.slab_encoder
    n_parameters = sum(value.numel() for value in checkpoint.state.values())
    missing = "any may be missing" if config.missing_modalities else "all needed"
    network = (
        f"{encoder.depth} blocks of width {encoder.embed_dim}, {encoder.num_heads} "
        f"heads, patches of {encoder.patch_size} pixels"
    )
    if encoder.slab_mixing:
        network += f", slabs mixed after blocks {encoder.slab_mixing}"
    state = "trained" if config.trained else "not trained: random weights"
    lines = {
        "description": config.description or "none",
        "state": state,
        "modalities": f"{', '.join(encoder.modalities)} ({missing})",
        "slabs": f"{config.plane}, {encoder.thickness} slices",
        "network": network,
        "parameters": f"{n_parameters / 1e6:.1f} million",
        "features": f"{encoder.embed_dim} a subject (cls+mean: twice as many)",
        "anatomy": ", ".join(encoder.tissues) or "none",
        "preprocessing": _describe_preprocessing(config.preprocessing),
        "written by": f"brainfeat {config.library_version}",
        "fingerprint": checkpoint.fingerprint,
    }
    return "\n".join(f"{name + ':':<15} {text}" for name, text in lines.items())


def _describe_preprocessing(values: Mapping[str, Any]) -> str:
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
