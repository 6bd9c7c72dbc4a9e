"""Weights of one encoder for another: strict checks, other channels, other sizes."""

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

from brainfeat.exceptions import CheckpointError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.layers import interpolate_positions, interpolate_slab_positions

# What our encoder learns beside DINOv2's parameters, one row a modality.
_MODALITY_VECTORS = ("modality_embed", "absent_embed")


def parameter_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter, without making them.

    Parameters
    ----------
    config : EncoderConfig
        Sizes of the network.

    Returns
    -------
    dict of str to tuple of int
        In the order of ``SlabEncoder(config).state_dict()``.
    """
    with torch.device("meta"):
        encoder = SlabEncoder(config)
    return {name: tuple(value.shape) for name, value in encoder.state_dict().items()}


def check_state(state: Mapping[str, Tensor], config: EncoderConfig) -> None:
    """Refuse weights that are not exactly those of a configuration.

    Parameters
    ----------
    state : mapping of str to Tensor
        Parameters of a `SlabEncoder`.
    config : EncoderConfig
        Sizes of the network.

    Raises
    ------
    CheckpointError
        With every missing, unexpected and mis-shaped key.
    """
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
    """Give an encoder other channels, whatever their number.

    Each new kernel is the mean of the old ones, times their number over that of
    the new channels: one slice repeated over all channels gives the tokens that
    it gave, repeated, in the old ones (for DINOv2, as a grey RGB image).

    Parameters
    ----------
    state : mapping of str to Tensor
        Parameters of a `SlabEncoder`; left as they are.
    config : EncoderConfig
        Its configuration.
    modalities : sequence of str
        BIDS suffixes of the new encoder.
    thickness : int
        Slices a slab of the new encoder.

    Returns
    -------
    dict of str to Tensor
        Parameters for ``config`` with these modalities and this thickness.

    Raises
    ------
    CheckpointError
        If ``state`` does not fit ``config``, or its stem is not linear.
    ConfigError
        If modalities or thickness are impossible.
    """
    check_state(state, config)
    if config.stem != "linear":
        raise CheckpointError(
            f"a {config.stem} stem knows {config.modalities} in slabs of "
            f"{config.thickness} slices, not {tuple(modalities)} in {thickness}."
        )
    target = dataclasses.replace(
        config, modalities=tuple(modalities), thickness=thickness
    )
    kernels = state["patch_embed.proj.weight"]  # D C p p
    kernel = kernels.sum(1, keepdim=True) / target.in_channels
    # The vectors of all modalities are summed too, so they share their sum.
    n_modalities = len(target.modalities)
    shared = {
        name: (state[name].sum(0) / n_modalities).repeat(n_modalities, 1)
        for name in _MODALITY_VECTORS
    }
    weight = kernel.repeat(1, target.in_channels, 1, 1)
    return {**state, "patch_embed.proj.weight": weight, **shared}


def adapt_state(
    state: Mapping[str, Tensor], config: EncoderConfig, target: EncoderConfig
) -> dict[str, Tensor]:
    """Start an encoder from the weights of a related one.

    Fewer modalities keep their own kernels; other channels are reached by
    `transfer_weights`, another image size or number of slab positions by interpolation;
    new slab mixing and slab positions start at zero. The two encoders give the same
    tokens wherever both can be asked. What the old one reads from its tokens is left
    behind unless the new one reads the same tissues.

    Parameters
    ----------
    state : mapping of str to Tensor
        Parameters of a `SlabEncoder`; left as they are.
    config : EncoderConfig
        Its configuration.
    target : EncoderConfig
        Configuration of the encoder to start.

    Returns
    -------
    dict of str to Tensor
        Parameters for ``target``.

    Raises
    ------
    CheckpointError
        If the encoders differ in more than this.
    """
    check_state(state, config)
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
    if target.tissues != config.tissues:
        result = {k: v for k, v in result.items() if not k.startswith("anatomy.")}
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


def _select_modalities(
    state: Mapping[str, Tensor], config: EncoderConfig, modalities: Sequence[str]
) -> dict[str, Tensor]:
    """Leave modalities out: tokens are those of a subject that lacks them."""
    places = [config.modalities.index(name) for name in modalities]
    others = [i for i in range(len(config.modalities)) if i not in places]
    result = {k: v for k, v in state.items() if not k.startswith("patch_embed.")}
    # What stands for those left out is always added.
    absent = state["absent_embed"][others].sum(0) / len(places)
    for name in _MODALITY_VECTORS:
        result[name] = state[name][places] + absent
    if config.stem == "linear":
        n = config.thickness
        channels = [place * n + number for place in places for number in range(n)]
        kernels = state["patch_embed.proj.weight"]
        result["patch_embed.proj.weight"] = kernels[:, channels]
        result["patch_embed.proj.bias"] = state["patch_embed.proj.bias"]
        return result
    for new, old in enumerate(places):
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
    places = (torch.arange(n) + 0.5) / n
    return {"slab_embed": interpolate_slab_positions(state["slab_embed"], places)}


@dataclasses.dataclass
class KeyProblems:
    """Keys that do not fit, gathered so that one error tells them all.

    Parameters
    ----------
    unexpected, missing, misshaped : list of str
        Names found so far, the mis-shaped ones with both shapes.
    """

    unexpected: list[str]
    missing: list[str] = dataclasses.field(default_factory=list)
    misshaped: list[str] = dataclasses.field(default_factory=list)

    def check(
        self, names: Sequence[str], state: Mapping[str, Tensor], shape: tuple[int, ...]
    ) -> bool:
        """Note what keeps tensors, stacked, from having a shape.

        Parameters
        ----------
        names : sequence of str
            Tensors that are stacked along their first axis.
        state : mapping of str to Tensor
            Where they are looked up.
        shape : tuple of int
            What their stack should have.

        Returns
        -------
        bool
            Whether they are all there with equal parts of the shape.
        """
        self.missing += [name for name in names if name not in state]
        expected = (shape[0] // len(names), *shape[1:])
        self.misshaped += [
            f"{name} {tuple(state[name].shape)} instead of {expected}"
            for name in names
            if name in state and tuple(state[name].shape) != expected
        ]
        return all(
            name in state and tuple(state[name].shape) == expected for name in names
        )

    def raise_if_any(self) -> None:
        """Refuse the weights if anything was noted.

        Raises
        ------
        CheckpointError
            With every missing, unexpected and mis-shaped key.
        """
        kinds = ("missing", "unexpected", "misshaped")
        found = {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}
        if found:
            lists = "; ".join(
                f"{kind} keys: {', '.join(names)}" for kind, names in found.items()
            )
            raise CheckpointError(f"the weights do not fit the architecture: {lists}.")
