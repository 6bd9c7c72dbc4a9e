"""The training loop, from a source of subjects to a checkpoint."""

__all__ = ["StepEvent", "Trainer", "pretrain"]

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.io.json_files import write_json
from brainfeat.models.device import resolve_training_device
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.heads import AnatomyHead
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.export import export_checkpoint, start_from
from brainfeat.pretraining.monitor import Monitor, relative_entropy
from brainfeat.pretraining.optimizer import build_optimizer, set_schedule
from brainfeat.pretraining.parallel import (
    distributed,
    shared_between_ranks,
)
from brainfeat.pretraining.ranks import all_ranks_mean, rank, world_size
from brainfeat.pretraining.run_checks import (
    CONFIG_NAME,
    STATE_NAME,
    check_fit,
    check_grid,
    check_run_folder,
)
from brainfeat.pretraining.run_log import RunLog
from brainfeat.pretraining.run_state import (
    load_run_state,
    save_run_state,
    whole_tensor,
)
from brainfeat.pretraining.schedules import cosine, linear_warmup
from brainfeat.pretraining.seeds import derive_seed, seeded_generator
from brainfeat.pretraining.self_distillation import (
    LossTerms,
    SelfDistillation,
    unwrapped,
)
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.subjects import SubjectSource
from brainfeat.pretraining.views import DrawnViews, Views
from brainfeat.workers import Prefetch

logger = logging.getLogger(__name__)

_N_CALIBRATION = 12  # batches that the units of the anatomy are measured on
Probe = Callable[[SlabEncoder], float]


class StepEvent(NamedTuple):
    """A step that is done.

    Attributes
    ----------
    n_done, n_steps : int
        Steps done so far, and steps of the run.
    measures : dict of str to float or None
        Losses, signs of a collapse and pace, as in the log.
    """

    n_done: int
    n_steps: int
    measures: dict[str, float | None]


def pretrain(
    data: SubjectSource | str | os.PathLike[str],
    config: PretrainingConfig,
    *,
    output: str | os.PathLike[str],
    init: str | os.PathLike[str] | Checkpoint | None = None,
    resume: bool = False,
    device: str = "auto",
    probe: Probe | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Checkpoint:
    """Train an encoder on brain volumes, without labels or with known anatomy.

    Under torchrun every process calls this, and they train together.

    Parameters
    ----------
    data : SubjectSource or path
        Where subjects come from, or the folder of a `VolumeStore`.
    config : PretrainingConfig
        Hyperparameters.
    output : path-like
        Folder that becomes a checkpoint. It also holds ``pretraining.json``, the
        log ``log.jsonl``, the state ``state.safetensors`` that a run is resumed
        from, and the checkpoint ``best`` where a probe is given.
    init : path-like, str or Checkpoint, optional
        Checkpoint, or foreign DINOv2 weights, to start from.
    resume : bool
        Whether to go on where a run in `output` stopped. The result equals that
        of an uninterrupted run of as many processes, unless the scans are others
        now, which is warned of.
    device : str
        A torch device; ``"auto"`` takes the fastest there is. It changes the
        result by rounding only.
    probe : callable, optional
        Scores an encoder, which is on the device of the run; higher is better.
        Called every ``config.probe_every`` steps, and its best encoder is kept.
    on_step : callable, optional
        Called with a `StepEvent` after each step.

    Returns
    -------
    Checkpoint
        The teacher's encoder, also saved in `output`.

    Raises
    ------
    ConfigError
        If the configuration does not fit the data, the number of processes, or
        the run that is resumed.
    TrainingError
        If `output` holds a run and `resume` is false, or training cannot go on.
    """
    source = VolumeStore(data) if isinstance(data, str | os.PathLike) else data
    target = resolve_training_device(device)
    cards = [target] if target.type == "cuda" else []
    # The caller's random numbers are left as they are.
    with distributed(target), torch.random.fork_rng(cards):
        trainer = Trainer(source, config, Path(output), device=target, probe=probe)
        trainer.prepare(init=init, resume=resume)
        trainer.run(on_step)
        return trainer.export(trainer.folder)


class Trainer:
    """One run: the networks, their optimizer, and where things are written.

    Parameters
    ----------
    source : SubjectSource
        Where subjects come from.
    config : PretrainingConfig
        Hyperparameters.
    folder : Path
        Folder of the run.
    device : torch.device
        Where the networks are.
    probe : callable, optional
        Scores an encoder.

    Raises
    ------
    ConfigError
        If the configuration does not fit the data or the number of processes.
    """

    def __init__(
        self,
        source: SubjectSource,
        config: PretrainingConfig,
        folder: Path,
        *,
        device: torch.device,
        probe: Probe | None = None,
    ) -> None:
        check_fit(source, config)
        check_grid(source.shape, config)
        self.source, self.config, self.folder = source, config, folder
        self.device, self.probe = device, probe
        self.next_step = 0
        self.best_score: float | None = None
        torch.manual_seed(config.seed)  # the same first weights in every process
        self.model = SelfDistillation(config, len(source.quantities)).to(device)
        self.monitor = Monitor(round(0.2 * config.n_steps))

    def prepare(
        self, *, init: str | os.PathLike[str] | Checkpoint | None, resume: bool
    ) -> None:
        """Set the first weights, or those of an interrupted run.

        Parameters
        ----------
        init : path-like, str or Checkpoint, optional
            Checkpoint or weights to start from.
        resume : bool
            Whether to go on where the run in the folder stopped.

        Raises
        ------
        TrainingError
            If there is a run already and `resume` is false.
        ConfigError
            If the run was begun with another configuration.
        """
        goes_on = check_run_folder(self.folder, self.config, resume=resume)
        if not goes_on:
            if init is not None:
                start_from(self.model, init)
            self._remember_config()
            head = unwrapped(self.model.student).anatomy_head
            if head is not None:
                self._calibrate(head)
        self.model = shared_between_ranks(self.model, self.config)
        network = unwrapped(self.model.student)
        self.optimizer = build_optimizer(network, self.config)
        if goes_on:
            path = self.folder / STATE_NAME
            facts = load_run_state(path, self.model, self.optimizer)
            self.next_step = facts["next_step"]
            self.best_score = facts["best_score"]
            if facts.get("scans", self._scans) != self._scans and rank() == 0:
                logger.warning(
                    "%s: the run was begun with other scans; it goes on with these.",
                    self.folder,
                )
        self.log = RunLog(self.folder / "log.jsonl", self.next_step)

    def run(self, on_step: Callable[[StepEvent], None] | None = None) -> None:
        """Train to the last step.

        Parameters
        ----------
        on_step : callable, optional
            Called after each step.
        """
        config = self.config
        with self._batches() as batches:
            started = time.perf_counter()
            for step, parts in enumerate(batches, self.next_step):
                # Everything random depends on the step, so that a resumed run
                # takes the values of its own step.
                torch.manual_seed(derive_seed(config.seed, step, rank(), 1))
                learning_rate = set_schedule(self.optimizer, step, config)
                self.optimizer.zero_grad(set_to_none=True)
                losses, signs = self.backward(parts, step)
                norm = self._clip_gradient()
                self.monitor.check_finite(step, loss=losses["total"], gradient=norm)
                self.optimizer.step()
                momentum = cosine(step, config.n_steps, *config.teacher_momentum)
                self.model.update_teacher(momentum)
                self.monitor.check_collapse(step, **signs)
                self.next_step = step + 1
                # Waiting for data counts, writing checkpoints does not.
                pace = config.batch_size / (time.perf_counter() - started)
                measures = {
                    **losses,
                    **signs,
                    "gradient_norm": norm,
                    "learning_rate": learning_rate,
                    "subjects_per_second": pace,
                }
                if step % config.log_every == 0 or self.next_step == config.n_steps:
                    self.log.write(step, **measures)
                if on_step is not None:
                    on_step(StepEvent(self.next_step, config.n_steps, measures))
                self._keep()
                started = time.perf_counter()

    def export(self, folder: Path) -> Checkpoint:
        """Write the teacher's encoder as a checkpoint.

        Parameters
        ----------
        folder : Path
            Folder to write.

        Returns
        -------
        Checkpoint
            What was written.
        """
        checkpoint = self._teacher_checkpoint()
        if rank() == 0:
            checkpoint.save(folder)
        return checkpoint

    def _teacher_checkpoint(self) -> Checkpoint:
        return export_checkpoint(
            self.model.teacher.get_submodule("encoder"),
            self.config,
            self.source.preprocessing,
            n_steps=self.next_step,
            anatomy_head=self.model.teacher.anatomy_head,
            quantities=self.source.quantities,
            tissues=self.source.tissues,
        )

    def make_views(self, step: int) -> list[Views]:
        """Draw and cut the views of one step.

        Parameters
        ----------
        step : int
            Number of the step, from 0.

        Returns
        -------
        list of Views
            One for each accumulated part.
        """
        config, n_parts = self.config, self.config.accumulation_steps
        n_subjects = config.batch_size // world_size()
        n_local = config.views.n_local if config.uses_local_views else 0
        views = dataclasses.replace(config.views, n_local=n_local)
        # All parts at once: a source may give a subject again in the next draw.
        batch = self.source.draw(
            step,
            n_subjects,
            seed=derive_seed(config.seed, 0, 2),  # that of the first process, for all
            process=rank(),
            n_processes=world_size(),
        )
        parts = []
        for number, subjects in enumerate(batch.split(n_parts), step * n_parts):
            generator = seeded_generator(config.seed, number, rank(), 3)
            drawn = DrawnViews.draw(
                views, config.encoder, subjects, step=step, generator=generator
            )
            parts.append(drawn.apply(subjects.to(self.device), config.encoder))
        return parts

    def _batches(self) -> contextlib.AbstractContextManager[Iterable[list[Views]]]:
        """Make the views of each step that is left, on a GPU ahead of their use."""
        steps = range(self.next_step, self.config.n_steps)
        if self.device.type == "cuda":
            return Prefetch(self.make_views, steps, n_threads=1, n_ahead=3)
        # On a CPU a thread would take from the products what it gives the data.
        return contextlib.nullcontext(map(self.make_views, steps))

    def backward(
        self, parts: list[Views], step: int
    ) -> tuple[dict[str, float], dict[str, float | None]]:
        """Add up the gradients of all parts of a step.

        Parameters
        ----------
        parts : list of Views
            What `make_views` gave.
        step : int
            Number of the step, from 0.

        Returns
        -------
        dict of str to float
            Losses by name, means over parts and processes.
        dict of str to float or None
            Effective rank and teacher entropy (before centring), the signs of a
            collapse.
        """
        config = self.config
        warmup = round(config.temperature_warmup_fraction * config.n_steps)
        temperature = linear_warmup(step, warmup, *config.teacher_temperature)
        terms_of_parts = []
        entropy = effective_rank = None
        for number, views in enumerate(parts):
            is_last = number == len(parts) - 1
            sync = _gradient_sync(self.model.student, is_last)
            with sync, _fast_attention(self.device):
                with _precision(config, self.device):
                    terms, student, teacher = self.model(
                        views, teacher_temperature=temperature
                    )
                (terms.total / len(parts)).backward()
            terms_of_parts.append(torch.stack(terms).detach())
            if config.uses_teacher:
                effective_rank = self.monitor.observe(student.class_tokens.mean(dim=0))
            if teacher is not None and teacher.class_logits is not None:
                entropy = relative_entropy(teacher.class_logits, temperature)
        means = all_ranks_mean(torch.stack(terms_of_parts).mean(dim=0)).tolist()
        signs = {"effective_rank": effective_rank, "teacher_entropy": entropy}
        return dict(zip(LossTerms._fields, means, strict=True)), signs

    def _clip_gradient(self) -> float:
        norm = nn.utils.clip_grad_norm_(
            self.model.student.parameters(), self.config.clip_grad
        )
        return float(whole_tensor(norm))

    def _keep(self) -> None:
        """Probe, and write checkpoints, when it is time."""
        config, at_end = self.config, self.next_step == self.config.n_steps
        if self.probe is not None and (
            self.next_step % config.probe_every == 0 or at_end
        ):
            checkpoint = self._teacher_checkpoint()
            score = self.probe(checkpoint.build_encoder().to(self.device))
            self.log.write(self.next_step - 1, probe=score)
            logger.info("step %d: the probe scores %.3f.", self.next_step, score)
            if self.best_score is None or score > self.best_score:
                self.best_score = score
                if rank() == 0:
                    checkpoint.save(self.folder / "best")
        if self.next_step % config.checkpoint_every == 0 or at_end:
            facts = {
                "next_step": self.next_step,
                "best_score": self.best_score,
                "scans": self._scans,
            }
            path = self.folder / STATE_NAME
            save_run_state(path, self.model, self.optimizer, facts)
            self.export(self.folder)

    @property
    def _scans(self) -> str | None:
        """What tells scans from others; None where subjects are made as they come."""
        return self.source.fingerprint if isinstance(self.source, VolumeStore) else None

    def _remember_config(self) -> None:
        if rank() == 0:
            write_json(self.folder / CONFIG_NAME, self.config.to_dict())

    def _calibrate(self, head: AnatomyHead) -> None:
        """Find mean and spread of the true quantities in a few batches."""
        # After the last step and far apart: each shows other subjects.
        steps = [self.config.n_steps + 1000 * batch for batch in range(_N_CALIBRATION)]
        views = [self.make_views(step)[0].large for step in steps]
        truth = [group.truth for group in views if group.truth is not None]
        head.emphasis.copy_(torch.tensor(self.source.emphasis))
        head.calibrate(torch.cat(truth), torch.cat([g.fractions for g in views]))
        for name in ("mean", "spread"):
            # Every process must use the same units.
            value = all_ranks_mean(getattr(head, name))
            getattr(head, name).copy_(value)
        self.model.update_teacher(1.0)


def _precision(
    config: PretrainingConfig, device: torch.device
) -> contextlib.AbstractContextManager[Any]:
    enabled = config.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _fast_attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    # On the CPU, torch's fused attention is slower backwards than plain products
    # for short sequences in bfloat16: 4200 against 5300 tokens a second.
    if device.type != "cpu":
        return contextlib.nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def _gradient_sync(
    network: nn.Module, wanted: bool
) -> contextlib.AbstractContextManager[Any]:
    """Let processes exchange gradients only in the last part of a step."""
    if isinstance(network, DistributedDataParallel) and not wanted:
        return network.no_sync()
    return contextlib.nullcontext()
