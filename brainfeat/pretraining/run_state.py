"""The saved state of a run, from which it resumes bit-equal, its log and checkpoint."""

__all__ = [
    "CONFIG_NAME",
    "FAILURES_NAME",
    "LOG_NAME",
    "STATE_NAME",
    "RunLog",
    "export_checkpoint",
    "load_run_state",
    "open_run_state",
    "save_run_state",
    "saved_step",
    "whole_tensor",
]

import dataclasses
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
from torch.optim import Optimizer

from brainfeat.checkpoint.card import write_card
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.origin import Origin
from brainfeat.exceptions import TrainingError, brief_reason
from brainfeat.io.atomic import atomic_write
from brainfeat.models.heads import AnatomyHead
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.ranks import rank
from brainfeat.pretraining.self_distillation import HeadedEncoder
from brainfeat.pretraining.source import SubjectSource

CONFIG_NAME = "pretraining.json"
FAILURES_NAME = "failures.tsv"
LOG_NAME = "log.jsonl"
STATE_NAME = "state.safetensors"

_MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")
_DISTILLATION = ("DINO", "iBOT", "KoLeo", "InfoNCE")
_OBJECTIVES = (*_DISTILLATION, "anatomy", "agreement", "consistency")


def save_run_state(
    path: Path, model: nn.Module, optimizer: Optimizer, facts: dict[str, Any]
) -> None:
    """Write weights, optimizer state and JSON facts as one safetensors file.

    Every rank must call it, since sharded tensors are joined; rank 0 alone copies them
    to the CPU and writes. Readers see the old file or the new one.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in _saved_tensors(model, optimizer):
        if rank() == 0:
            tensors[name] = whole_tensor(value).contiguous()
        elif isinstance(value, DTensor):
            value.full_tensor()
    if rank() == 0:
        with atomic_write(path) as partial:
            save_file(tensors, partial, metadata={"facts": json.dumps(facts)})


def load_run_state(
    path: Path, model: nn.Module, optimizer: Optimizer
) -> dict[str, Any]:
    """Load a state into a model and an optimizer without state; return the facts."""
    with open_run_state(path) as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
        names = file.keys()  # a safe_open is no mapping
        tensors = {name: file.get_tensor(name) for name in names}
    model_state = dict(_named_state(model))
    weights = [name for name in tensors if name.startswith("model.")]
    saved = {(name, tensors[name].shape) for name in weights}
    expected = {(name, value.shape) for name, value in model_state.items()}
    if saved != expected:
        raise TrainingError(
            f"{path}: the run has other parameters than this configuration: "
            f"{sorted({name for name, _ in saved ^ expected})[:8]}."
        )
    with torch.no_grad():
        for name, value in model_state.items():
            value.copy_(_like(tensors[name], value))
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
    """Open a state; its tensors and facts are read on demand."""
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


def saved_step(folder: Path) -> int:
    """Return the number of steps that a run in a folder resumes after; 0 for none."""
    path = folder / STATE_NAME
    if not path.exists():
        return 0
    with open_run_state(path) as file:
        return int(json.loads(file.metadata()["facts"])["next_step"])


def whole_tensor(value: Tensor) -> Tensor:
    """Return a tensor on the CPU that is not sharded."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu()


class RunLog:
    """A JSONL file that rank 0 appends to.

    Lines of `next_step` and later, from before an interruption, are removed.
    """

    def __init__(self, path: Path, next_step: int) -> None:
        self._path = path
        if rank() == 0:
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if _step(line) < next_step]
            with atomic_write(path) as partial:
                partial.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, **values: Any) -> None:
        """Append one line of JSON values by name; None is left out."""
        if rank() == 0:
            present = {name: v for name, v in values.items() if v is not None}
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **present}) + "\n")


def _saved_tensors(
    model: nn.Module, optimizer: Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a state, in the same order in all ranks."""
    yield from _named_state(model)
    for name, parameter in _named_parameters(model):
        for moment in _MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                yield f"{moment}.{name}", optimizer.state[parameter][moment]


def _named_state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(f"model.{_plain_name(n)}", v) for n, v in model.state_dict().items()]


def _named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [
        (_plain_name(name), parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


def _plain_name(name: str) -> str:
    """Drop the prefix that `DistributedDataParallel` adds."""
    return name.replace("student.module.", "student.")


def _like(value: Tensor, target: Tensor) -> Tensor:
    """Move an unsharded tensor to the device and sharding of another."""
    value = value.to(target.device)
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value, target.device_mesh, target.placements)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off by a crash


def export_checkpoint(
    teacher: HeadedEncoder,
    config: PretrainingConfig,
    source: SubjectSource,
    *,
    n_steps: int,
    origin: Origin | None = None,
    scores: tuple[float | None, float | None] = (None, None),
) -> Checkpoint:
    """Make a checkpoint of the teacher's encoder, in float32 on the CPU.

    An anatomy head becomes the encoder's read-out of tissues and structures. `scores`
    are those of a probe before the first step and of the best encoder. Every rank must
    call this.
    """
    encoder, head = teacher.get_submodule("encoder"), teacher.anatomy_head
    state = {name: whole_tensor(v) for name, v in encoder.state_dict().items()}
    tissues: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    if head is not None:
        tissues, structures = tuple(source.tissues), tuple(source.structures)
        names = tissues + structures
        state |= _read_out(head, [source.targets.index(name) for name in names])
    objectives = [
        f"{name} {weight:g}"
        for name in _OBJECTIVES
        if (weight := getattr(config, f"{name.lower()}_weight")) > 0
    ]
    description = (
        f"Pretrained for {n_steps} steps of {config.batch_size} subjects, with "
        f"objectives {', '.join(objectives)}."
    )
    checkpoint_config = CheckpointConfig(
        # Stochastic depth belongs to the training, not to the encoder.
        encoder=dataclasses.replace(
            config.encoder, drop_path=0.0, tissues=tissues, structures=structures
        ),
        plane=config.views.planes[0],
        preprocessing=dict(source.preprocessing),
        pooling="mean",
        missing_modalities=config.views.hidden_modalities > 0
        and len(config.encoder.modalities) > 1,
        trained=True,
        description=description,
        origin=origin or Origin(),
    )
    card = write_card(checkpoint_config, state=_describe_training(n_steps, *scores))
    return Checkpoint(checkpoint_config, state, card)


def _describe_training(n_steps: int, initial: float | None, best: float | None) -> str:
    """Say "trained" only where a probe found that the encoder became better."""
    steps = f"{n_steps} step{'' if n_steps == 1 else 's'}"
    if initial is None or best is None:
        return f"{steps}; nothing was measured"
    change = f"probe {best:.3f}, {initial:.3f} before the first step"
    return f"trained for {steps}: {change}" if best > initial else f"{steps}; {change}"


def _read_out(head: AnatomyHead, indices: list[int]) -> dict[str, Tensor]:
    """Fold the standardisation of a head into its weights."""
    if not indices:
        return {}
    values = {name: whole_tensor(value) for name, value in head.state_dict().items()}
    weight = values["linear.weight"] * values["spread"][:, None]
    bias = values["linear.bias"] * values["spread"] + values["mean"]
    return {"anatomy.weight": weight[indices], "anatomy.bias": bias[indices]}
