"""The saved state of a long training, from which it resumes bit-equal."""

__all__ = ["SavedRun"]

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from brainfeat.exceptions import TrainingError, brief_reason
from brainfeat.io.atomic import atomic_write

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class SavedRun:
    """A file with weights, moments of the optimizer, random state and losses."""

    path: Path
    every: int = 50  # steps between writes

    def is_due(self, n_done: int, n_steps: int) -> bool:
        """Whether the state is to be written after some steps."""
        return n_done % self.every == 0 or n_done == n_steps

    def save(
        self,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        generator: Generator,
        curve: Sequence[float],
    ) -> None:
        """Write the state after a step; readers see the old file or the new one."""
        tensors = {"random": generator.get_state()}
        for number, (name, parameter) in enumerate(_parameters(modules)):
            tensors[f"weights.{name}"] = parameter.detach().cpu().contiguous()
            for moment in _MOMENTS:
                value = optimizer.state[parameter][moment]
                tensors[f"{moment}.{number}"] = value.detach().cpu().contiguous()
        facts = {"curve": json.dumps(list(curve))}
        with atomic_write(self.path) as partial:
            save_file(tensors, partial, metadata=facts)

    def restore(
        self,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        generator: Generator,
    ) -> list[float]:
        """Load the state, if there is one; return the losses of the steps so far."""
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                curve: list[float] = json.loads(file.metadata()["curve"])
                for number, (name, parameter) in enumerate(_parameters(modules)):
                    with torch.no_grad():
                        parameter.copy_(file.get_tensor(f"weights.{name}"))
                    optimizer.state[parameter] = {
                        moment: _like(file.get_tensor(f"{moment}.{number}"), parameter)
                        for moment in _MOMENTS
                    }
                generator.set_state(file.get_tensor("random"))
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise TrainingError(
                f"{self.path}: expected the state of this training, got another or a "
                f"damaged file ({brief_reason(error)})."
            ) from error
        return curve


def _parameters(modules: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{number}.{name}", parameter)
        for number, module in enumerate(modules)
        for name, parameter in module.named_parameters()
    ]


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Move a moment to the device of its parameter; counts of steps stay here."""
    return value if not value.ndim else value.to(parameter.device)
