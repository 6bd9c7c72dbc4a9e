"""Everything that a run needs to go on exactly where it was."""

__all__ = ["load_run_state", "open_run_state", "save_run_state", "whole_tensor"]

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from brainfeat.exceptions import TrainingError, brief_reason
from brainfeat.io.atomic import atomic_write
from brainfeat.pretraining.ranks import rank

_MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")


def save_run_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> None:
    """Write weights, optimizer and facts as one safetensors file.

    Every process must call it; rank 0 writes. A reader sees the old file or the
    new one.

    Parameters
    ----------
    path : Path
        File to write.
    model : nn.Module
        Student, teacher and centrings.
    optimizer : Optimizer
        What `build_optimizer` gives.
    facts : dict
        JSON values, such as the number of the next step.
    """
    tensors = {
        f"model.{_plain_name(name)}": whole_tensor(value)
        for name, value in model.state_dict().items()
    }
    for name, parameter in _named_parameters(model):
        for moment in _MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                value = optimizer.state[parameter][moment]
                tensors[f"{moment}.{name}"] = whole_tensor(value)
    if rank() == 0:
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        with atomic_write(path) as partial:
            save_file(tensors, partial, metadata={"facts": json.dumps(facts)})


def load_run_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Read what `save_run_state` wrote, into a model of the same configuration.

    Parameters
    ----------
    path : Path
        File to read.
    model : nn.Module
        Student, teacher and centrings; overwritten.
    optimizer : Optimizer
        What `build_optimizer` gives, without state yet; filled.

    Returns
    -------
    dict
        The facts.

    Raises
    ------
    TrainingError
        If the file is damaged, or does not fit the model.
    """
    with open_run_state(path) as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    targets = {
        f"model.{_plain_name(name)}": value
        for name, value in model.state_dict().items()
    }
    saved = {
        (name, value.shape)
        for name, value in tensors.items()
        if name.startswith("model.")
    }
    wanted = {(name, value.shape) for name, value in targets.items()}
    if saved != wanted:
        raise TrainingError(
            f"{path}: the run has other parameters than this configuration: "
            f"{sorted({name for name, _ in saved ^ wanted})[:8]}."
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(_like(tensors[name], target))
        for name, parameter in _named_parameters(model):
            state = {
                moment: _like(tensors[f"{moment}.{name}"], parameter)
                if moment != "step"
                else tensors[f"{moment}.{name}"]
                for moment in _MOMENTS
                if f"{moment}.{name}" in tensors
            }
            if state:
                optimizer.state[parameter] = state
    return facts


@contextmanager
def open_run_state(path: Path) -> Iterator[Any]:
    """Open what `save_run_state` wrote; tensors and facts are read when asked for.

    Parameters
    ----------
    path : Path
        File to read.

    Yields
    ------
    safe_open
        The file.

    Raises
    ------
    TrainingError
        If the file is damaged or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if "facts" not in (file.metadata() or {}):
                raise TrainingError(
                    f"{path}: expected the state of a run, got other tensors."
                )
            yield file
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"{path}: expected the state of a run, got a file that cannot be read "
            f"({brief_reason(error)})."
        ) from error


def whole_tensor(value: Tensor) -> Tensor:
    """Return a tensor on the CPU that is not spread over processes."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu()


def _named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [
        (_plain_name(name), parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


def _plain_name(name: str) -> str:
    """Drop what `DistributedDataParallel` puts into names."""
    return name.replace("student.module.", "student.")


def _like(value: Tensor, target: Tensor) -> Tensor:
    """Give a whole tensor the device and distribution of another."""
    value = value.to(target.device)
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value, target.device_mesh, target.placements)
