"""The encoder: DINOv2's vision transformer over slabs of several modalities."""

__all__ = ["EncoderConfig", "EncoderOutput", "SlabEncoder"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brainfeat.models.config import EncoderConfig
from brainfeat.models.inputs import check_blocks, check_inputs
from brainfeat.models.layers import (
    Block,
    BlockConfig,
    SlabMixing,
    interpolate_positions,
    interpolate_slab_positions,
)
from brainfeat.models.packing import Packing
from brainfeat.models.protocol import Encoder, EncoderOutput, EncoderState
from brainfeat.models.rotary import Rotation, rotate_image
from brainfeat.models.stem import HierarchicalStem, build_stem

_TOKENS_IN_CACHE = 1280
_ROTARY_BASE = 100.0  # DINOv3's

# Shape of dense patch tokens (B, S, h, w), or the packing of the foreground.
_Grid = tuple[int, int, int, int]
_Layout = _Grid | Packing


class SlabEncoder(Encoder):
    """DINOv2's vision transformer [1]_ over slabs of several modalities.

    Channel ``m * thickness + s`` of a slab is slice ``s`` of modality ``m``, so that
    one patch embedding over all channels is the sum of one per modality. Each
    modality adds a learned vector to every patch token: ``modality_embed`` where it
    is present, ``absent_embed`` in place of its pixels where it is missing. With
    three channels and one slab this is DINOv2 itself. Registers follow [2]_.
    With rotary positions it is DINOv3 [3]_.
    Extensions of DINOv2 are off by default: slab mixing, slab position embeddings,
    the hierarchical stem, skipping the background, a projection of the tokens, and
    ``anatomy``, a linear map from a patch token to the fraction of each tissue, which
    `forward` does not use.

    Parameters
    ----------
    config : EncoderConfig
        Sizes of the network.

    References
    ----------
    .. [1] Oquab et al., "DINOv2: Learning Robust Visual Features without
       Supervision", TMLR 2024.
    .. [2] Darcet et al., "Vision Transformers Need Registers", ICLR 2024.
    .. [3] Siméoni et al., "DINOv3", 2025.
    """

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim, n_modalities = config.embed_dim, len(config.modalities)
        n_patches = config.grid_size[0] * config.grid_size[1]
        self.patch_embed = build_stem(config)
        self.modality_embed = nn.Parameter(torch.zeros(n_modalities, dim))
        self.absent_embed = nn.Parameter(torch.zeros(n_modalities, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + n_patches, dim))
        if config.num_register_tokens:
            shape = (1, config.num_register_tokens, dim)
            self.register_tokens = nn.Parameter(torch.zeros(shape))
        if config.slab_positions:
            self.slab_embed = nn.Parameter(torch.zeros(config.slab_positions, dim))
        last = max(config.depth - 1, 1)
        drop_rates = [config.drop_path * i / last for i in range(config.depth)]
        self.blocks = nn.ModuleList(_block(config, rate) for rate in drop_rates)
        self.slab_mixing = nn.ModuleDict(
            {str(index): SlabMixing(dim) for index in config.slab_mixing}
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        if config.projection:
            self.projection = nn.Linear(dim, dim)
        if config.anatomy_names:
            self.anatomy = nn.Linear(dim, len(config.anatomy_names))
        self.activation_checkpointing = False
        self._init_weights()

    def forward(
        self,
        slabs: Tensor,
        /,
        *,
        present: Tensor | None = None,
        masks: Tensor | None = None,
        positions: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode stacks of neighbouring slabs.

        Parameters
        ----------
        slabs : Tensor of shape (B, S, C, H, W)
            Normalised pixels; H and W are multiples of the patch size.
        present : bool Tensor of shape (B, n_modalities), optional
            Modalities of each subject; all by default. Pixels of a missing modality are
            ignored.
        masks : bool Tensor of shape (B, S, h, w), optional
            Patches that the mask token replaces.
        positions : Tensor of shape (B, S), optional
            Position of each slab along the slab axis, from 0 to 1; by default the slabs
            are evenly spaced.
        foreground : bool Tensor of shape (B, S, h, w), optional
            Patches that contain brain; all by default. With ``background="skipped"``,
            other patches, and slabs without foreground, are left out and their tokens
            are zero. Otherwise it has no effect.

        Returns
        -------
        EncoderOutput
            Class and patch tokens after the final norm and projection.

        Raises
        ------
        InputError
            If a shape does not fit the configuration.
        """
        x, layout = self._embed(slabs, present, masks, positions, foreground)
        rotation = self._rotation(layout, x.device)
        return self._forward_from(EncoderState(x, (layout, rotation)), 0)

    def forward_intermediates(
        self,
        slabs: Tensor,
        /,
        blocks: Sequence[int],
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> list[EncoderOutput]:
        """Encode slabs and return the output of some of the blocks.

        Parameters
        ----------
        slabs : Tensor of shape (B, S, C, H, W)
            Normalised pixels.
        blocks : sequence of int
            Indices of blocks, counted from 0; negative ones from the end.
        present : bool Tensor of shape (B, n_modalities), optional
            Modalities of each subject.
        foreground : bool Tensor of shape (B, S, h, w), optional
            Patches that contain brain, as for `forward`.

        Returns
        -------
        list of EncoderOutput
            Tokens after the final norm, in the order of ``blocks``.

        Raises
        ------
        InputError
            If a block does not exist or a shape does not fit.
        """
        wanted = check_blocks(blocks, self.config.depth)
        x, (layout, rotation) = self._forward_until(slabs, 0, present, foreground)
        outputs: dict[int, EncoderOutput] = {}
        for index in range(max(wanted, default=-1) + 1):
            x = self._run_block(index, x, layout, rotation)
            if index in wanted:
                outputs[index] = self._output(x, layout)
        return [outputs[index] for index in wanted]

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute blocks in the backward pass, to save memory.

        Parameters
        ----------
        enabled : bool
            Whether blocks discard their activations while training.
        """
        self.activation_checkpointing = enabled

    def _forward_until(
        self,
        slabs: Tensor,
        n_blocks: int,
        present: Tensor | None,
        foreground: Tensor | None,
    ) -> EncoderState:
        x, layout = self._embed(slabs, present, foreground=foreground)
        rotation = self._rotation(layout, x.device)
        for index in range(n_blocks):
            x = self._run_block(index, x, layout, rotation)
        return EncoderState(x, (layout, rotation))

    def _forward_from(self, state: EncoderState, n_blocks: int) -> EncoderOutput:
        x, (layout, rotation) = state
        for index in range(n_blocks, len(self.blocks)):
            x = self._run_block(index, x, layout, rotation)
        return self._output(x, layout)

    def _init_weights(self) -> None:
        if self.cls_token.is_meta:  # initialising meta tensors takes a second
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        # Otherwise z-scored pixels dominate the positions, and a random or barely
        # trained encoder mostly encodes the interpolation of a scan.
        if isinstance(self.patch_embed, HierarchicalStem):
            self.patch_embed.reset_parameters()
        else:
            nn.init.trunc_normal_(self.patch_embed.proj.weight, std=0.002)
        self._init_parameters()

    def _init_parameters(self) -> None:
        """Initialise what is no layer, and the projection as identity."""
        if self.config.projection:
            nn.init.eye_(self.projection.weight)
        own = dict(self.named_parameters(recurse=False))
        for name in ("pos_embed", "modality_embed", "absent_embed", "slab_embed"):
            if name in own:
                nn.init.trunc_normal_(own[name], std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if "register_tokens" in own:
            nn.init.normal_(self.register_tokens, std=1e-6)

    def _embed(
        self,
        slabs: Tensor,
        present: Tensor | None = None,
        masks: Tensor | None = None,
        positions: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> tuple[Tensor, _Layout]:
        """Return all tokens and their layout: (BS, N, D), or (T, D) if packed."""
        optional = {"present": present, "masks": masks, "foreground": foreground}
        grid = check_inputs(self.config, slabs, positions=positions, **optional)
        if foreground is not None and self.config.background == "skipped":
            packing = Packing.of(foreground, 1 + self.config.num_register_tokens)
            x = self._embed_packed(slabs, present, masks, positions, packing)
            return x, packing
        rows = None if present is None else present.repeat_interleave(grid[1], 0)
        patches = self._embed_images(slabs.flatten(0, 1), rows).reshape(*grid, -1)
        if masks is not None:
            patches = self._hide(patches, masks)  # B S h w D
        if self.config.positions == "learned":
            patches = patches + self._patch_positions(grid)
        patches = patches.flatten(2, 3).flatten(0, 1)
        prefix = self._prefix_tokens().to(patches.dtype)
        x = torch.cat([prefix.expand(len(patches), -1, -1), patches], 1)
        if self.config.slab_positions:
            x = x + self._slab_positions(grid, positions)
        return x, grid

    def _embed_packed(
        self,
        slabs: Tensor,
        present: Tensor | None,
        masks: Tensor | None,
        positions: Tensor | None,
        packing: Packing,
    ) -> Tensor:
        """Return the tokens of the foreground, of shape (T, D)."""
        grid, size = packing.shape, self.config.patch_size
        row, slab, i, j = torch.unravel_index(packing.patches, grid)
        n_rows, n_slabs, height, width = grid
        shape = (n_rows, n_slabs, slabs.shape[2], height, size, width, size)
        cut = slabs.reshape(shape)  # B S C h p w p
        pixels = cut.permute(0, 1, 3, 5, 2, 4, 6)[row, slab, i, j]  # P C p p
        patches = self._embed_images(pixels, None if present is None else present[row])
        patches = patches.flatten(1)  # P D
        if masks is not None:
            patches = self._hide(patches, masks[row, slab, i, j])
        if self.config.positions == "learned":
            patches = patches + self._patch_positions(grid)[i, j]
        prefix = self._prefix_tokens().to(patches.dtype)
        prefix = prefix.expand(len(packing.slabs), -1, -1)
        if self.config.slab_positions:
            embeddings = self._slab_positions(grid, positions)  # BS 1 D
            prefix = prefix + embeddings[packing.slabs]
            patches = patches + embeddings[row * grid[1] + slab, 0]
        return packing.pack(prefix, patches)

    def _embed_images(self, pixels: Tensor, present: Tensor | None) -> Tensor:
        """Embed images of shape (n, C, H, W) without positions: (n, h, w, D)."""
        pixels = pixels.to(self.cls_token.dtype)
        modality_vector = self.modality_embed.sum(0)  # D
        if present is not None:
            has = present[..., None]  # n M 1
            keep = has.repeat_interleave(self.config.thickness, 1)  # n C 1
            # Not a product: pixels of a missing modality may be NaN.
            pixels = pixels.masked_fill(~keep[..., None], 0.0)
            vectors = torch.where(has, self.modality_embed, self.absent_embed)
            modality_vector = vectors.sum(1)[:, None, None]  # n 1 1 D
        if isinstance(self.patch_embed, HierarchicalStem):
            patches = self.patch_embed(pixels, present)  # n h w D
        else:
            patches = self.patch_embed(pixels)  # n h w D
        tokens: Tensor = patches + modality_vector
        return tokens

    def _hide(self, patches: Tensor, masks: Tensor) -> Tensor:
        mask_token = self.mask_token.to(patches.dtype)
        return torch.where(masks[..., None], mask_token, patches)

    def _patch_positions(self, grid: _Grid) -> Tensor:
        stored = self.pos_embed[0, 1:].reshape(*self.config.grid_size, -1)
        return interpolate_positions(stored, grid[2:], self.config.position_mode)

    def _slab_positions(self, grid: _Grid, positions: Tensor | None) -> Tensor:
        """Return the position embedding of each slab, of shape (BS, 1, D)."""
        n_rows, n_slabs = grid[:2]
        if positions is None:
            centers = torch.arange(n_slabs, device=self.slab_embed.device) + 0.5
            positions = (centers / n_slabs).expand(n_rows, -1)
        embeddings = interpolate_slab_positions(self.slab_embed, positions.flatten())
        return embeddings.to(self.slab_embed.dtype)[:, None]

    def _prefix_tokens(self) -> Tensor:
        """Return class and register tokens, of shape (1, 1 + R, D)."""
        cls_token: Tensor = self.cls_token
        if self.config.positions == "learned":
            cls_token = cls_token + self.pos_embed[:, :1]
        if not self.config.num_register_tokens:
            return cls_token
        return torch.cat([cls_token, self.register_tokens], 1)

    def _rotation(self, layout: _Layout, device: torch.device) -> Rotation | None:
        """Return the rotation of all tokens, the same in each slab, unless packed."""
        config = self.config
        if config.positions == "learned":
            return None
        height, width = (layout.shape if isinstance(layout, Packing) else layout)[2:]
        head_dim = config.embed_dim // config.num_heads
        rotation = rotate_image(
            (height, width), head_dim, base=_ROTARY_BASE, device=device
        )
        if isinstance(layout, Packing):
            return rotation.pack(layout, layout.patches % (height * width))
        return rotation.with_prefix(1 + config.num_register_tokens)

    def _run_block(
        self, index: int, x: Tensor, layout: _Layout, rotation: Rotation | None
    ) -> Tensor:
        block = self.blocks[index]
        packing = layout if isinstance(layout, Packing) else None
        if self.activation_checkpointing and self.training:
            x = checkpoint(block, x, packing, rotation, use_reentrant=False)
        elif isinstance(layout, Packing) or torch.is_grad_enabled() or x.is_cuda:
            x = block(x, packing, rotation)
        else:
            # A few slabs at a time fit in the CPU's caches; never of two subjects,
            # since a product's rounding may depend on its number of rows.
            n_slabs = max(1, _TOKENS_IN_CACHE // x.shape[1])
            rows = torch.split(x, layout[1])
            parts = [part for row in rows for part in torch.split(row, n_slabs)]
            x = torch.cat([block(part, None, rotation) for part in parts])
        if str(index) not in self.slab_mixing:
            return x
        mixing = self.slab_mixing[str(index)]
        if isinstance(layout, Packing):
            packed: Tensor = mixing(x, layout)
            return packed
        prefix, patches = self._split(x, layout)
        return torch.cat([prefix, mixing(patches).flatten(2, 3).flatten(0, 1)], 1)

    def _split(self, x: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
        """Return prefix tokens (BS, 1 + R, D) and patch tokens (B, S, h, w, D)."""
        n_prefix = 1 + self.config.num_register_tokens
        return x[:, :n_prefix], x[:, n_prefix:].reshape(*grid, -1)

    def _output(self, x: Tensor, layout: _Layout) -> EncoderOutput:
        x = self.norm(x)
        if self.config.projection:
            x = self.projection(x)
        if isinstance(layout, Packing):
            prefix, patches = layout.unpack(x)
            return EncoderOutput(prefix[:, :, 0], patches)
        prefix, patches = self._split(x, layout)
        return EncoderOutput(prefix[:, 0].reshape(*layout[:2], -1), patches)


def _block(config: EncoderConfig, drop_rate: float) -> Block:
    return Block(
        BlockConfig(
            dim=config.embed_dim,
            num_heads=config.num_heads,
            hidden_dim=round(config.embed_dim * config.mlp_ratio),
            ffn=config.ffn,
            layer_scale=config.layer_scale,
            norm_eps=config.norm_eps,
            drop_rate=drop_rate,
        )
    )
