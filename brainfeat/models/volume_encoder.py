"""A vision transformer over the 3D patches of volumes."""

__all__ = ["VolumeConfig", "VolumeEncoder"]

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from brainfeat.models.inputs import check_blocks, check_patches, check_volumes
from brainfeat.models.layers import Block, BlockConfig
from brainfeat.models.modalities import SingleModalities, average_modalities
from brainfeat.models.packing import Packing
from brainfeat.models.protocol import Encoder, EncoderOutput, EncoderState
from brainfeat.models.rotary import Rotation, rotate_volume
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.models.volume_patches import VolumePatchEmbed, cut_patches, list_places

_ROTARY_BASE = 10_000.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Tokens:
    """Tokens of a batch, before, between or after the blocks."""

    x: Tensor  # (B, N, D), or (T, D) if packed
    grid: tuple[int, int, int, int, int]  # B streams i j k
    packing: Packing | None = None
    rotation: Rotation | None = None


class VolumeEncoder(Encoder):
    """A vision transformer over the 3D patches of volumes.

    Public encoders of brain MRI are configurations of it: it has the parts by which
    they differ, of which `VolumeConfig` chooses. Patches that are not encoded, of the
    background or of a missing modality, have no influence on the others, and their
    tokens are zero.

    Parameters
    ----------
    config : VolumeConfig
        Sizes and parts of the network.
    """

    config: VolumeConfig

    def __init__(self, config: VolumeConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.ModuleList(
            VolumePatchEmbed(config) for _ in range(config.n_streams)
        )
        if config.has_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, config.embed_dim))
        self.blocks = nn.ModuleList(
            Block(_block_config(config, index)) for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

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
            Normalised voxels; sizes are multiples of the patch size.
        present : bool Tensor of shape (B, n_modalities), optional
            Modalities of each subject; all by default. Voxels of a missing modality are
            ignored.
        foreground : bool Tensor of shape (B, i, j, k), optional
            Patches that are encoded with ``background="skipped"``; all by default.
            Otherwise it has no effect.

        Returns
        -------
        EncoderOutput
            Class token (B, D), or None, and patch tokens (B, i, j, k, D), after the
            final norm; patch tokens are means over the modalities that are present.

        Raises
        ------
        InputError
            If a shape does not fit the configuration.
        """
        last = self.config.depth - 1
        return self.forward_intermediates(
            volumes, [last], present=present, foreground=foreground
        )[0]

    def forward_intermediates(
        self,
        volumes: Tensor,
        /,
        blocks: Sequence[int],
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> list[EncoderOutput]:
        """Encode volumes and return the output of some of the blocks.

        Parameters
        ----------
        volumes : Tensor of shape (B, n_modalities, I, J, K)
            Normalised voxels.
        blocks : sequence of int
            Indices of blocks, counted from 0; negative ones from the end.
        present : bool Tensor of shape (B, n_modalities), optional
            Modalities of each subject.
        foreground : bool Tensor of shape (B, i, j, k), optional
            Patches that are encoded, as for `forward`.

        Returns
        -------
        list of EncoderOutput
            Tokens after the final norm, in the order of ``blocks``.

        Raises
        ------
        InputError
            If a block does not exist or a shape does not fit.
        """
        outputs = self._encode(volumes, blocks, present, foreground)
        return [
            EncoderOutput(
                None if cls_token is None else average_modalities(cls_token, present),
                average_modalities(patches, present),
            )
            for cls_token, patches in outputs
        ]

    def forward_streams(
        self,
        volumes: Tensor,
        /,
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode volumes, and return the patch tokens of each modality on its own.

        Parameters
        ----------
        volumes : Tensor of shape (B, n_modalities, I, J, K)
            Normalised voxels.
        present : bool Tensor of shape (B, n_modalities), optional
            Modalities of each subject.
        foreground : bool Tensor of shape (B, i, j, k), optional
            Patches that are encoded, as for `forward`.

        Returns
        -------
        EncoderOutput
            Class tokens (B, n_modalities, D) if modalities are encoded alone, (B, 1, D)
            if they are encoded together, or None; and patch tokens
            (B, n_modalities, i, j, k, D), zero for missing modalities.

        Raises
        ------
        InputError
            If a shape does not fit the configuration.
        """
        last = self.config.depth - 1
        return self._encode(volumes, [last], present, foreground)[0]

    def forward_patches(
        self,
        patches: Tensor,
        places: Tensor,
        *,
        grid: tuple[int, int, int] | None = None,
    ) -> EncoderOutput:
        """Encode some patches of one volume, in any order.

        Parameters
        ----------
        patches : Tensor of shape (N, n_voxels)
            Normalised voxels of each patch, flattened.
        places : int Tensor of shape (N, 3)
            Index of each patch along the axes of the grid.
        grid : tuple of int, optional
            Patches of the volume; by default those of ``config.volume_size``.

        Returns
        -------
        EncoderOutput
            Class token (1, D), or None, and tokens (N, D), after the final norm.

        Raises
        ------
        InputError
            If each modality has its own patch embedding, or a shape does not fit.
        """
        config, size = self.config, grid or self.config.grid_size
        check_patches(config, patches, places)
        x = self.patch_embed[0](patches.to(self.norm.weight.dtype), places, size)
        prefix = self._prefix().to(x.dtype)
        rotation = self._rotation(size, x)
        if rotation is not None:
            rotation = rotation.at(places, size).with_prefix(len(prefix))
        tokens = _Tokens(
            torch.cat([prefix, x])[None], (1, 1, len(x), 1, 1), None, rotation
        )
        for block in self.blocks:
            tokens = _run(block, tokens)
        cls_token, encoded = self._output(tokens)
        return EncoderOutput(
            None if cls_token is None else cls_token[:, 0], encoded[0, 0, :, 0, 0]
        )

    def _forward_until(
        self,
        volumes: Tensor,
        n_blocks: int,
        present: Tensor | None,
        foreground: Tensor | None,
    ) -> EncoderState:
        check_volumes(self.config, volumes, present=present, foreground=foreground)
        single, shown = None, present
        if self.config.streams != "joint":
            single, shown = SingleModalities.of(volumes, present), None
            volumes = single.take(volumes)[:, None]
            if foreground is not None:
                foreground = single.take_subjects(foreground)
        tokens = self._embed(volumes, shown, foreground)
        for block in self.blocks[:n_blocks]:
            tokens = _run(block, tokens)
        return EncoderState(tokens.x, (tokens, single, present))

    def _forward_from(self, state: EncoderState, n_blocks: int) -> EncoderOutput:
        tokens, single, present = state.layout
        tokens = dataclasses.replace(tokens, x=state.x)
        for block in self.blocks[n_blocks:]:
            tokens = _run(block, tokens)
        cls_token, patches = self._output(tokens)
        if single is not None:
            cls_token = None if cls_token is None else single.restore(cls_token[:, 0])
            patches = single.restore(patches[:, 0])
        if cls_token is not None:
            cls_token = average_modalities(cls_token, present)
        return EncoderOutput(cls_token, average_modalities(patches, present))

    def _encode(
        self,
        volumes: Tensor,
        blocks: Sequence[int],
        present: Tensor | None,
        foreground: Tensor | None,
    ) -> list[EncoderOutput]:
        """Return class tokens (B, n, D) and patch tokens (B, M, i, j, k, D)."""
        check_volumes(self.config, volumes, present=present, foreground=foreground)
        wanted = check_blocks(blocks, self.config.depth)
        if self.config.streams == "joint":
            return self._encode_sequences(volumes, wanted, present, foreground)
        single = SingleModalities.of(volumes, present)
        if foreground is not None:
            foreground = single.take_subjects(foreground)
        rows = single.take(volumes)[:, None]
        return [
            EncoderOutput(
                None if cls_token is None else single.restore(cls_token[:, 0]),
                single.restore(patches[:, 0]),
            )
            for cls_token, patches in self._encode_sequences(
                rows, wanted, None, foreground
            )
        ]

    def _encode_sequences(
        self,
        volumes: Tensor,
        wanted: Sequence[int],
        present: Tensor | None,
        foreground: Tensor | None,
    ) -> list[EncoderOutput]:
        """Encode the patches of all streams of each row together."""
        tokens = self._embed(volumes, present, foreground)
        outputs: dict[int, EncoderOutput] = {}
        for index in range(max(wanted, default=-1) + 1):
            tokens = _run(self.blocks[index], tokens)
            if index in wanted:
                outputs[index] = self._output(tokens)
        return [outputs[index] for index in wanted]

    def _embed(
        self, volumes: Tensor, present: Tensor | None, foreground: Tensor | None
    ) -> _Tokens:
        """Return class token and patches of volumes (B, streams, I, J, K)."""
        volumes = volumes.to(self.norm.weight.dtype)
        if present is not None:
            # Voxels of a missing modality may be NaN.
            volumes = volumes.masked_fill(~present[:, :, None, None, None], 0.0)
        cut = cut_patches(volumes, self.config.patch_size)  # B streams i j k n_voxels
        n_rows, n_streams, i, j, k, _ = cut.shape
        grid, places = (n_rows, n_streams, i, j, k), list_places((i, j, k), cut.device)
        streams = zip(self.patch_embed, cut.unbind(1), strict=True)
        patches = torch.stack([embed(x, places, (i, j, k)) for embed, x in streams], 1)
        prefix = self._prefix().to(patches.dtype)  # 1 or 0, D
        rotation = self._rotation((i, j, k), patches)
        packing = self._packing(grid, present, foreground, len(prefix))
        if packing is None:
            x = torch.cat([prefix.expand(n_rows, -1, -1), patches.flatten(1, 4)], 1)
            if rotation is not None:
                rotation = rotation.tile(n_streams).with_prefix(len(prefix))
            return _Tokens(x, grid, rotation=rotation)
        prefixes = prefix.expand(len(packing.slabs), -1, -1)
        x = packing.pack(prefixes, patches.flatten(0, 4)[packing.patches])
        if rotation is not None:
            rotation = rotation.pack(packing, packing.patches % (i * j * k))
        return _Tokens(x, grid, packing, rotation)

    def _prefix(self) -> Tensor:
        if self.config.has_cls_token:
            return self.cls_token
        return self.norm.weight.new_zeros(0, self.config.embed_dim)

    def _rotation(self, grid: tuple[int, int, int], like: Tensor) -> Rotation | None:
        if self.config.positions != "rotary":
            return None
        return rotate_volume(
            grid, self.config.head_dim, base=_ROTARY_BASE, device=like.device
        )

    def _packing(
        self,
        grid: tuple[int, int, int, int, int],
        present: Tensor | None,
        foreground: Tensor | None,
        n_prefix: int,
    ) -> Packing | None:
        """Leave out missing modalities and, if it is skipped, the background."""
        is_skipped = foreground is not None and self.config.background == "skipped"
        if present is None and not is_skipped:
            return None
        n_rows, n_streams, i, j, k = grid
        kept = self.norm.weight.new_ones(grid, dtype=torch.bool)
        if present is not None:
            kept = kept & present[:, :, None, None, None]
        if foreground is not None and is_skipped:
            kept = kept & foreground[:, None]
        if bool(kept.all()):
            return None
        return Packing.of(kept.reshape(n_rows, 1, n_streams * i, j * k), n_prefix)

    def _output(self, tokens: _Tokens) -> EncoderOutput:
        x, grid = self.norm(tokens.x), tokens.grid
        n_prefix = int(self.config.has_cls_token)
        if tokens.packing is None:
            prefix, patches = x[:, :n_prefix], x[:, n_prefix:]
        else:
            packed_prefix, patches = tokens.packing.unpack(x)
            prefix = packed_prefix[:, 0]
        patches = patches.reshape(*grid, -1)
        return EncoderOutput(prefix if n_prefix else None, patches)


def _block_config(config: VolumeConfig, index: int) -> BlockConfig:
    experts = config.experts
    return BlockConfig(
        dim=config.embed_dim,
        num_heads=config.num_heads,
        hidden_dim=round(config.embed_dim * config.mlp_ratio),
        gelu=config.gelu,
        experts=experts if experts and index in experts.blocks else None,
        layer_scale=config.layer_scale,
        norm_eps=config.norm_eps,
        qkv_bias=config.qkv_bias,
        proj_bias=config.proj_bias,
        gate=config.gate,
    )


def _run(block: Callable[..., Tensor], tokens: _Tokens) -> _Tokens:
    x, packing, rotation = tokens.x, tokens.packing, tokens.rotation
    if packing is not None or torch.is_grad_enabled() or x.is_cuda:
        return dataclasses.replace(tokens, x=block(x, packing, rotation))
    # A product's rounding may depend on its number of rows: subjects one by one.
    rows = [block(row, None, rotation) for row in torch.split(x, 1)]
    return dataclasses.replace(tokens, x=torch.cat(rows))
