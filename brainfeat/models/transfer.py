"""Transfer weights between encoders: strict checks, other channels, other sizes."""

__all__ = [
    "KeyProblems",
    "adapt_state",
    "check_state",
    "parameter_shapes",
    "transfer_weights",
]

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from brainfeat.exceptions import CheckpointError, list_names
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoders import EncoderKind, build_encoder
from brainfeat.models.layers import interpolate_positions, interpolate_slab_positions

# Parameters that DINOv2 does not have, one row per modality.
_MODALITY_VECTORS = ("modality_embed", "absent_embed")


def parameter_shapes(config: EncoderKind) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of an encoder, without allocating them."""
    with torch.device("meta"):
        encoder = build_encoder(config)
    return {name: tuple(value.shape) for name, value in encoder.state_dict().items()}


def check_state(state: Mapping[str, Tensor], config: EncoderKind) -> None:
    """Raise a CheckpointError with all keys that do not fit a configuration."""
    shapes = parameter_shapes(config)
    problems = KeyProblems(unexpected=[name for name in state if name not in shapes])
    for name, shape in shapes.items():
        problems.check([name], state, shape)
    problems.raise_if_any()


def transfer_weights(
    state: Mapping[str, Tensor],
    config: EncoderConfig,
    *,
    modalities: Sequence[str],
    thickness: int,
) -> dict[str, Tensor]:
    """Return weights for other channels, whatever their number.

    Each new kernel is the mean of the old ones, times their number over that of the new
    channels: one slice repeated over all channels gives the same tokens in both (for
    DINOv2, as a grey RGB image). The stem must be linear.
    """
    check_state(state, config)
    if config.stem != "linear":
        raise CheckpointError(
            f"a {config.stem} stem cannot be transferred: expected {config.modalities} "
            f"in slabs of {config.thickness} slices, got {tuple(modalities)} in "
            f"{thickness}."
        )
    names = tuple(modalities)
    target = dataclasses.replace(config, modalities=names, thickness=thickness)
    n_channels, n_modalities = target.in_channels, len(names)
    kernels = state["patch_embed.proj.weight"]  # D C p p
    kernel = kernels.sum(1, keepdim=True) / n_channels
    # Tokens are sums over modalities, too, so each gets its part of the old sum.
    shared = {
        name: (state[name].sum(0) / n_modalities).repeat(n_modalities, 1)
        for name in _MODALITY_VECTORS
    }
    weight = kernel.repeat(1, n_channels, 1, 1)
    return {**state, "patch_embed.proj.weight": weight, **shared}


def adapt_state(
    state: Mapping[str, Tensor], config: EncoderConfig, target: EncoderConfig
) -> dict[str, Tensor]:
    """Return initial weights of an encoder from those of a related one.

    Fewer modalities keep their own kernels; other channels are made by
    `transfer_weights`, another image size or number of slab positions by interpolation;
    new slab mixing and slab positions start at zero, a new projection as identity. Both
    encoders give the same tokens for inputs that both accept, but for a projection that
    only the first has. The anatomy map is dropped unless what it reads is
    the same. Raises a CheckpointError if the encoders differ in more than this.
    """
    check_state(state, config)
    state = _adapt_projection(state, config, target)
    result = dict(state)
    channels = (target.modalities, target.thickness)
    if channels != (config.modalities, config.thickness):
        is_part = set(target.modalities) <= set(config.modalities)
        if is_part and target.thickness == config.thickness:
            result = _select_modalities(state, config, target.modalities)
        else:
            result = transfer_weights(
                state, config, modalities=target.modalities, thickness=target.thickness
            )
    reads_same = target.tissues == config.tissues
    if not reads_same or target.structures != config.structures:
        result = {k: v for k, v in result.items() if not k.startswith("anatomy.")}
    if config.positions == "learned":
        stored = state["pos_embed"][0]
        grid = stored[1:].reshape(*config.grid_size, -1)
        grid = interpolate_positions(grid, target.grid_size, config.position_mode)
        result["pos_embed"] = torch.cat([stored[:1], grid.flatten(0, 1)])[None]
    result |= _adapt_slab_positions(state, target)
    for name, shape in parameter_shapes(target).items():
        if name.startswith("slab_mixing.") and name not in result:
            result[name] = torch.full(shape, float(name.endswith("norm.weight")))
    check_state(result, target)
    return result


def _adapt_projection(
    state: Mapping[str, Tensor], config: EncoderConfig, target: EncoderConfig
) -> dict[str, Tensor]:
    """Add an identity, or drop the projection; anatomy is read from what is left."""
    result = dict(state)
    if target.projection and not config.projection:
        result["projection.weight"] = torch.eye(config.embed_dim)
        result["projection.bias"] = torch.zeros(config.embed_dim)
    elif config.projection and not target.projection:
        weight, bias = result.pop("projection.weight"), result.pop("projection.bias")
        if config.anatomy_names:
            read = state["anatomy.weight"]
            result["anatomy.weight"] = read @ weight
            result["anatomy.bias"] = state["anatomy.bias"] + read @ bias
    return result


def _select_modalities(
    state: Mapping[str, Tensor], config: EncoderConfig, modalities: Sequence[str]
) -> dict[str, Tensor]:
    """Drop modalities: tokens are those of a subject without them."""
    kept = [config.modalities.index(name) for name in modalities]
    others = [i for i in range(len(config.modalities)) if i not in kept]
    result = {k: v for k, v in state.items() if not k.startswith("patch_embed.")}
    # The vectors of dropped modalities are always added.
    absent = state["absent_embed"][others].sum(0) / len(kept)
    for name in _MODALITY_VECTORS:
        result[name] = state[name][kept] + absent
    if config.stem == "linear":
        n = config.thickness
        channels = [index * n + number for index in kept for number in range(n)]
        kernels = state["patch_embed.proj.weight"]
        result["patch_embed.proj.weight"] = kernels[:, channels]
        result["patch_embed.proj.bias"] = state["patch_embed.proj.bias"]
        return result
    for new, old in enumerate(kept):
        prefix = f"patch_embed.modalities.{old}."
        for name in state:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                result[f"patch_embed.modalities.{new}.{rest}"] = state[name]
    return result


def _adapt_slab_positions(
    state: Mapping[str, Tensor], target: EncoderConfig
) -> dict[str, Tensor]:
    n = target.slab_positions
    if n == 0:
        return {}
    if "slab_embed" not in state:
        return {"slab_embed": torch.zeros(n, target.embed_dim)}
    positions = (torch.arange(n) + 0.5) / n
    return {"slab_embed": interpolate_slab_positions(state["slab_embed"], positions)}


@dataclasses.dataclass
class KeyProblems:
    """Keys that do not fit, collected so that one error lists them."""

    unexpected: list[str]
    missing: list[str] = dataclasses.field(default_factory=list)
    misshaped: list[str] = dataclasses.field(default_factory=list)

    def check(
        self, names: Sequence[str], state: Mapping[str, Tensor], shape: tuple[int, ...]
    ) -> bool:
        """Check that tensors, stacked along their first axis, have a shape."""
        self.missing += [name for name in names if name not in state]
        expected = (shape[0] // len(names), *shape[1:])
        shapes = {name: tuple(state[name].shape) for name in names if name in state}
        self.misshaped += [
            f"{name} {actual} instead of {expected}"
            for name, actual in shapes.items()
            if actual != expected
        ]
        return all(shapes.get(name) == expected for name in names)

    def raise_if_any(self, layout: str = "") -> None:
        """Raise a CheckpointError with the recorded keys, ten of a kind."""
        kinds = ("missing", "unexpected", "misshaped")
        names_of = {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}
        if names_of:
            lists = "; ".join(
                f"{kind} keys: {list_names(names)}" for kind, names in names_of.items()
            )
            what = f"nearest layout, {layout}" if layout else "architecture"
            raise CheckpointError(f"the weights do not fit the {what}: {lists}.")
