"""An adapted encoder with a head, and what its frozen part computes once."""

__all__ = ["FinetuningNetwork", "FrozenTrunk", "View"]

from typing import NamedTuple

import torch
from torch import Tensor, nn

from brainfeat.finetuning.head import TaskHead
from brainfeat.models.device import resolve_dtype
from brainfeat.models.protocol import Encoder, EncoderOutput, EncoderState


class View(NamedTuple):
    """One subject before the trained blocks, as float16 on the CPU."""

    state: EncoderState
    fractions: Tensor  # 1 and tokens


class FrozenTrunk:
    """The blocks before the trained ones, or none if the input is trained on."""

    def __init__(
        self, encoder: Encoder, first_block: int | None, device: torch.device
    ) -> None:
        self.encoder, self.first_block, self.device = encoder, first_block, device

    @torch.no_grad()
    def encode(self, inputs: Tensor, present: Tensor, fractions: Tensor) -> View:
        """Run the frozen blocks on the input of one subject."""
        inputs, present = inputs.to(self.device), present.to(self.device)
        foreground = fractions.to(self.device) > 0
        if self.first_block is None:
            state = EncoderState(inputs, (present, foreground))
        else:
            with _precision(self.device):
                state = self.encoder.forward_until(
                    inputs, self.first_block, present=present, foreground=foreground
                )
        return View(state._replace(x=state.x.half().cpu()), fractions)


class FinetuningNetwork(nn.Module):
    """The trained blocks and the head."""

    def __init__(
        self, encoder: Encoder, head: TaskHead, first_block: int | None
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.first_block = encoder, head, first_block

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.head.bias.device

    def forward(self, view: View) -> Tensor:
        """Score one subject: float32 (1, K)."""
        return self.head.score(self.pool(view))

    def pool(self, view: View) -> Tensor:
        """Average the tokens of one subject as the head does: float32 (1, D)."""
        return self.head.pool(self.tokens(view), view.fractions.to(self.device))

    def tokens(self, view: View) -> EncoderOutput:
        """Run the trained blocks."""
        state = view.state._replace(x=view.state.x.to(self.device).float())
        with _precision(self.device):
            if self.first_block is not None:
                return self.encoder.forward_from(state, self.first_block)
            present, foreground = state.layout
            output: EncoderOutput = self.encoder(
                state.x, present=present, foreground=foreground
            )
            return output

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters of the encoder by name."""
        named = self.encoder.named_parameters()
        return {name: value for name, value in named if value.requires_grad}

    def updates(self) -> dict[str, Tensor]:
        """Copy the trained parameters of the encoder to the CPU."""
        return {
            name: value.detach().to("cpu", copy=True)
            for name, value in self.trained().items()
        }

    def copy_head(self) -> TaskHead:
        """Copy the head to the CPU."""
        n_outputs, embed_dim = self.head.weight.shape
        head = TaskHead(embed_dim, n_outputs, self.head.pooling)
        state = self.head.state_dict()
        head.load_state_dict({name: value.cpu() for name, value in state.items()})
        return head.requires_grad_(requires_grad=False)


def _precision(device: torch.device) -> torch.autocast:
    """Multiply in bfloat16 in this context, where the device has it natively."""
    is_bfloat16 = resolve_dtype("auto", device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16)
