"""Weights of residual networks over volumes, with batch norms to fold into them."""

__all__ = ["RESNET_LAYOUTS", "ResNetLayout"]

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from brainfeat.checkpoint.layouts.names import likeness, split_encoder
from brainfeat.checkpoint.layouts.sizes import check_values
from brainfeat.models.resnet_config import ResNetConfig
from brainfeat.models.transfer import KeyProblems, parameter_shapes

_Shape = tuple[int, ...]
_NORM_EPS = 1e-5
_STAGES, _BLOCKS, _WIDTH = 4, 2, 64  # of ResNet-18
_STATISTICS = ("weight", "bias", "running_mean", "running_var")
_LAYERS = ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1")
_STEMS = {f"layer{n + 1}.*.{layer}" for n in range(_STAGES) for layer in _LAYERS} | {
    "conv1",
    "bn1",
}
# The first stage keeps the shape.
_ABSENT = {"layer1.*.downsample.0", "layer1.*.downsample.1"}
_COUNTER = ".num_batches_tracked"
_HEADS = re.compile(r"(\w+\.)*(fc|projector|projection\w*)\.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetLayout:
    """How a library stores a residual network, in the names of torchvision.

    The stride of the stem is not in the weights; a bias of the shortcuts tells the
    networks apart.
    """

    name: str  # as in the table of known encoders
    title: str
    stem_stride: int
    has_shortcut_bias: bool
    volume_size: tuple[int, int, int]

    def likeness(self, state: Mapping[str, Tensor]) -> float:
        """Return which fraction of the stems, of a file and of this, are in both."""
        kept = {k: v for k, v in state.items() if not _HEADS.match(k)}
        same = likeness(kept, _STEMS - _ABSENT)
        has_bias = any(name.endswith("downsample.0.bias") for name in state)
        return same if has_bias == self.has_shortcut_bias else 0.9 * same

    def convert(
        self,
        state: Mapping[str, Tensor],
        num_heads: int | None = None,  # noqa: ARG002  as of all layouts
    ) -> tuple[ResNetConfig, dict[str, Tensor], str]:
        """Return configuration and weights, and an empty note."""
        inside, beside = split_encoder(state, _STEMS)
        inside = {k: v for k, v in inside.items() if not _HEADS.match(k)}
        config = self._infer(inside)
        problems = KeyProblems([name for name in beside if not _HEADS.match(name)])
        used: set[str] = set()
        result: dict[str, Tensor] = {}
        for name, shape in parameter_shapes(config).items():
            layer, _, kind = name.rpartition(".")
            if kind == "bias":
                continue
            expected = self._their_shapes(layer, shape, config)
            used.update(expected)
            fits = [problems.check([k], inside, s) for k, s in expected.items()]
            if all(fits):
                tensors = {name: inside[name] for name in expected}
                check_values(tensors)
                result[name], result[f"{layer}.bias"] = _fold(*tensors.values())
        problems.unexpected += [
            name for name in inside if name not in used and not name.endswith(_COUNTER)
        ]
        problems.raise_if_any(self.title)
        return config, result, ""

    def _infer(self, state: Mapping[str, Tensor]) -> ResNetConfig:
        stages = [f"layer{stage + 1}.0.conv2.weight" for stage in range(_STAGES)]
        usual = [_WIDTH << stage for stage in range(_STAGES)]
        return ResNetConfig(
            volume_size=self.volume_size,
            widths=tuple(
                len(state[name]) if name in state else width
                for name, width in zip(stages, usual, strict=True)
            ),
            num_blocks=_BLOCKS,
            stem_stride=self.stem_stride,
        )

    def _their_shapes(
        self, layer: str, shape: _Shape, config: ResNetConfig
    ) -> dict[str, _Shape]:
        """Return names and shapes of a kernel, its batch norm, and perhaps its bias."""
        conv, norm = _their_names(layer, config.num_blocks)
        shapes = {f"{conv}.weight": shape}
        shapes |= {f"{norm}.{part}": shape[:1] for part in _STATISTICS}
        if layer.endswith("shortcut") and self.has_shortcut_bias:
            shapes[f"{conv}.bias"] = shape[:1]
        return shapes


RESNET_LAYOUTS = (
    ResNetLayout(
        name="neuro-simclr",
        title="3D-Neuro-SimCLR",
        stem_stride=1,
        has_shortcut_bias=True,
        volume_size=(150, 192, 192),
    ),
    ResNetLayout(
        name="anatcl",
        title="AnatCL",
        stem_stride=2,
        has_shortcut_bias=False,
        volume_size=(121, 128, 121),
    ),
)


def _their_names(layer: str, n_blocks: int) -> tuple[str, str]:
    """Return their names of a convolution and of its batch norm, for ours."""
    match = re.match(r"blocks\.(\d+)\.(\w+)", layer)
    if match is None:
        return "conv1", "bn1"
    stage, index = divmod(int(match[1]), n_blocks)
    block = f"layer{stage + 1}.{index}."
    if match[2] == "shortcut":
        return f"{block}downsample.0", f"{block}downsample.1"
    return f"{block}{match[2]}", f"{block}bn{match[2][-1]}"


def _fold(
    kernel: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of a convolution and the batch norm that follows it."""
    # In float64, so that one rounding is left.
    factor = gamma.double() / (variance.double() + _NORM_EPS).sqrt()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    folded = kernel.double() * factor.reshape(-1, *[1] * (kernel.ndim - 1))
    return folded.float(), (beta.double() + shift * factor).float()
