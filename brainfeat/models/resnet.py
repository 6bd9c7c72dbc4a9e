"""A residual network over volumes."""

__all__ = ["ResNetConfig", "VolumeResNet"]

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from brainfeat.models.inputs import check_blocks, check_volumes
from brainfeat.models.modalities import SingleModalities, average_modalities
from brainfeat.models.protocol import Encoder, EncoderOutput
from brainfeat.models.resnet_config import ResNetConfig


class VolumeResNet(Encoder):
    """A residual network [1]_ over volumes, with its batch norms folded into weights.

    A token is the output of the last stage at a voxel; the mean over all is the feature
    that its authors use.

    Parameters
    ----------
    config : ResNetConfig
        Sizes of the network.

    References
    ----------
    .. [1] He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        self.stem = nn.Conv3d(1, width, 7, stride=config.stem_stride, padding=3)
        self.blocks = nn.Sequential(*_blocks(config))

    def forward(
        self,
        volumes: Tensor,
        /,
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode the volumes of subjects.

        Parameters
        ----------
        volumes : Tensor of shape (B, n_modalities, I, J, K)
            Normalised voxels.
        present : bool Tensor of shape (B, n_modalities), optional
            Modalities of each subject; all by default. Voxels of a missing modality are
            ignored.
        foreground : bool Tensor of shape (B, i, j, k), optional
            Has no effect.

        Returns
        -------
        EncoderOutput
            No class token, and patch tokens (B, i, j, k, D), which are means over the
            modalities that are present.

        Raises
        ------
        InputError
            If a shape does not fit the configuration.
        """
        flags = {"present": present, "foreground": foreground}
        check_volumes(self.config, volumes, **flags)
        single = SingleModalities.of(volumes, present)
        tokens = single.restore(self._encode(single.take(volumes)))
        return EncoderOutput(None, average_modalities(tokens, present))

    def forward_intermediates(
        self,
        volumes: Tensor,
        /,
        blocks: Sequence[int],
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> list[EncoderOutput]:
        """Encode volumes and return the output of the last stage for each block.

        Parameters
        ----------
        volumes : Tensor of shape (B, n_modalities, I, J, K)
            Normalised voxels.
        blocks : sequence of int
            Each is 0 or -1, since stages before the last have shorter tokens.
        present : bool Tensor of shape (B, n_modalities), optional
            Modalities of each subject.
        foreground : bool Tensor of shape (B, i, j, k), optional
            Has no effect.

        Returns
        -------
        list of EncoderOutput
            The same for each of ``blocks``.

        Raises
        ------
        InputError
            If a block does not exist or a shape does not fit.
        """
        wanted = check_blocks(blocks, self.config.depth)
        output = self(volumes, present=present, foreground=foreground)
        return [output for _ in wanted]

    def _encode(self, volumes: Tensor) -> Tensor:
        """Encode volumes (n, I, J, K): (n, i, j, k, D)."""
        x = F.relu_(self.stem(volumes[:, None].to(self.stem.weight.dtype)))
        x = F.max_pool3d(x, 3, stride=2, padding=1)
        tokens: Tensor = self.blocks(x)
        return tokens.permute(0, 2, 3, 4, 1)


class _ResidualBlock(nn.Module):
    """Two convolutions, and a third where the shape changes."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_width, width, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1)
        is_same = stride == 1 and in_width == width
        self.shortcut = None if is_same else nn.Conv3d(in_width, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_width, I, J, K) to the width, at a lower resolution."""
        kept = x if self.shortcut is None else self.shortcut(x)
        update = self.conv2(F.relu_(self.conv1(x)))
        return F.relu_(update + kept)


def _blocks(config: ResNetConfig) -> Iterator[_ResidualBlock]:
    previous = config.widths[0]
    for stage, width in enumerate(config.widths):
        for index in range(config.num_blocks):
            stride = 2 if stage and not index else 1
            yield _ResidualBlock(previous, width, stride)
            previous = width
