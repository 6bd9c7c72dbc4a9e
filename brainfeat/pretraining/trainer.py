"""The training loop, from a source of subjects to a checkpoint.

Imports torch, numpy and safetensors only, so that clusters can train from a store.
"""

__all__ = ["Probe", "Trainer", "TrainingStep", "train"]

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.origin import Origin
from brainfeat.io.json_files import write_json
from brainfeat.models.device import fast_attention, resolve_precision
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.encoders import require_slabs
from brainfeat.pretraining import run_state, warm_start
from brainfeat.pretraining.agreement import mean_tokens
from brainfeat.pretraining.calibration import calibrate
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.interrupts import Interrupts
from brainfeat.pretraining.loader import Loaded, view_batches
from brainfeat.pretraining.loss_scale import LossScale
from brainfeat.pretraining.monitor import Monitor, relative_entropy
from brainfeat.pretraining.optimizer import (
    build_optimizer,
    cosine,
    linear_warmup,
    set_schedule,
)
from brainfeat.pretraining.parallel import (
    gradient_sync,
    joined_ranks,
    wrap_for_ranks,
)
from brainfeat.pretraining.ranks import (
    all_ranks_max,
    all_ranks_mean,
    new_patient_group,
    rank,
    world_size,
)
from brainfeat.pretraining.self_distillation import (
    LossTerms,
    SelfDistillation,
    unwrapped,
)
from brainfeat.pretraining.source import (
    PairedSource,
    SubjectSource,
    derive_seed,
    seeded_generator,
)
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.tracking import Tracker, untracked
from brainfeat.pretraining.views import DrawnViews, Views
from brainfeat.pretraining.warm_start import Start

logger = logging.getLogger(__name__)

_N_CALIBRATION = 12  # batches that standardise the anatomy targets
Probe = Callable[[SlabEncoder], float]


class TrainingStep(NamedTuple):
    """A finished step: the number of steps done, and the measures of the log."""

    n_done: int
    measures: dict[str, float | None]


def train(
    source: SubjectSource,
    config: PretrainingConfig,
    *,
    output: str | os.PathLike[str],
    init: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    probe: Probe | None = None,
    track: Tracker = untracked,
) -> Checkpoint:
    """Train from a source, such as a `VolumeStore`, as `brainfeat.pretrain` does.

    Unlike `brainfeat.pretrain` it reads no images and needs no library that does.
    """
    folder = Path(output)
    if isinstance(source, VolumeStore):
        used = [n for n in config.encoder.modalities if n in source.modalities]
        source = source.select(used or source.modalities)
    with joined_ranks(device) as target:
        warm_start.check_fit(source, config)
        warm_start.check_grid(source.shape, config)
        start = warm_start.choose_start(folder, config, init=init, resume=resume)
        with warm_start.run_lock(folder):
            trainer = Trainer(source, config, folder, device=target, probe=probe)
            return trainer.train(start, track)


class Trainer:
    """One run: its networks, their optimizer and the folder that it writes.

    `probe` scores an encoder every ``config.probe_every`` steps, higher is better; the
    best encoder is kept in the folder ``best``.
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
        if isinstance(source, VolumeStore) and device.type == "cuda":
            source = source.in_half_precision()
        self.source, self.config, self.folder = source, config, folder
        self.device, self.probe = device, probe
        self.next_step = 0
        self.best_score: float | None = None
        self.initial_score: float | None = None  # of the weights before the first step
        self.origin = Origin()  # of the initial weights, whose licence holds on
        torch.manual_seed(config.seed)  # the same initial weights in every rank
        self.model = SelfDistillation(config, len(source.targets)).to(device)
        self.monitor = Monitor(round(0.2 * config.n_steps))
        self.precision = resolve_precision(config.precision, device)
        self.loss_scale = LossScale(enabled=self.precision == torch.float16)
        self.interrupts = Interrupts()
        self.patient_group = new_patient_group()

    def train(self, start: Start, track: Tracker = untracked) -> Checkpoint:
        """Train to the last step; return the checkpoint, which is saved too."""
        self.prepare(start)
        total, n_before = self.config.n_steps, self.next_step
        with closing(self.steps()) as steps:
            for _ in track(
                steps, total=total, description="training", n_before=n_before
            ):
                pass
        checkpoint = self._teacher_checkpoint()
        self._save_checkpoint(checkpoint, self.folder)
        return checkpoint

    def prepare(self, start: Start) -> None:
        """Load the initial weights, or the state of an interrupted run."""
        if not start.resumes:
            if start.checkpoint is not None:
                warm_start.initialise(self.model, start.checkpoint)
                self.origin = start.checkpoint.config.origin
            self._calibrate()
        self.model = wrap_for_ranks(self.model, self.config)
        network = unwrapped(self.model.student)
        self.optimizer = build_optimizer(network, self.config)
        if start.resumes:
            path = self.folder / run_state.STATE_NAME
            facts = run_state.load_run_state(path, self.model, self.optimizer)
            self.next_step = facts["next_step"]
            self.best_score = facts["best_score"]
            self.initial_score = facts.get("initial_score")
            self.loss_scale.value = facts.get("loss_scale", self.loss_scale.value)
            self.origin = Origin.from_dict(facts.get("origin", {}))
            seen = facts.get("teacher_background", self.config.encoder.background)
            warm_start.keep_background(self.model.reference, seen)
            if facts.get("scans", self._scans) != self._scans and rank() == 0:
                logger.warning(
                    "%s: the run began with other scans; it resumes with these.",
                    self.folder,
                )
        if rank() == 0:  # a resumed run may have more steps than before
            write_json(self.folder / run_state.CONFIG_NAME, self.config.to_dict())
        self.log = run_state.RunLog(self.folder / run_state.LOG_NAME, self.next_step)

    def steps(self) -> Generator[TrainingStep, None, None]:
        """Train, and yield each finished step."""
        config = self.config
        if self.probe is not None and self.next_step == 0:
            self.initial_score = self._score(self.probe)[0]
        with self._batches() as batches, self.interrupts:
            started = time.perf_counter()
            for step, parts in enumerate(batches, self.next_step):
                # Randomness depends on the step alone, so that runs can be resumed.
                torch.manual_seed(derive_seed(config.seed, step, rank(), 1))
                learning_rate = set_schedule(self.optimizer, step, config)
                self.optimizer.zero_grad(set_to_none=True)
                losses, indicators = self.backward(parts, step)
                norm = self._update(step, losses["total"])
                self.monitor.check_collapse(step, **indicators)
                pairs = self._measure_pairs(step)
                self.next_step = step + 1
                # Includes waiting for data, excludes writing checkpoints.
                pace = config.batch_size / (time.perf_counter() - started)
                measures: dict[str, float | None] = {
                    **losses,
                    **indicators,
                    **pairs,
                    "gradient_norm": norm,
                    "learning_rate": learning_rate,
                    "subjects_per_second": pace,
                }
                if self._is_logged(step):
                    self.log.write(step, **measures)
                yield TrainingStep(self.next_step, measures)
                signal = all_ranks_max(self.interrupts.pending or 0, self.device)
                self._save_if_due(stops=signal > 0)
                if signal:
                    self.interrupts.act(signal)
                started = time.perf_counter()

    def _is_logged(self, step: int) -> bool:
        is_last = step + 1 == self.config.n_steps
        return step % self.config.log_every == 0 or is_last

    def _save_checkpoint(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Save from rank 0; the others wait, since torchrun ends all with the first."""
        if rank() == 0:
            checkpoint.save(folder)
        if self.patient_group is not None:
            dist.barrier(group=self.patient_group)

    def _teacher_checkpoint(self) -> Checkpoint:
        return run_state.export_checkpoint(
            unwrapped(self.model.teacher),
            self.config,
            self.source,
            n_steps=self.next_step,
            origin=self.origin,
            scores=(self.initial_score, self.best_score),
        )

    def make_views(self, step: int) -> list[Views]:
        """Draw and cut the views of one step, for each accumulated part."""
        return self._cut(self.read_subjects(step))

    def read_subjects(self, step: int) -> Loaded:
        """Read the subjects of a step, and draw their views, on the CPU."""
        config, n_parts = self.config, self.config.accumulation_steps
        n_subjects = config.batch_size // world_size()
        n_local = config.views.n_local if config.uses_local_views else 0
        views = dataclasses.replace(config.views, n_local=n_local)
        # One draw for all parts, since the next one may repeat a subject.
        draw = self.source.draw
        if config.uses_pairs and isinstance(self.source, PairedSource):
            draw = self.source.draw_pairs
        batch = draw(
            step,
            n_subjects,
            seed=derive_seed(config.seed, 0, 2),  # the same in all ranks
            process=rank(),
            n_processes=world_size(),
        )
        if config.anatomy_weight == 0:
            batch = dataclasses.replace(batch, labels=None, members=None, known=None)
        loaded = []
        for number, subjects in enumerate(batch.split(n_parts), step * n_parts):
            generator = seeded_generator(config.seed, number, rank(), 3)
            drawn = DrawnViews.draw(
                views, config.encoder, subjects, step=step, generator=generator
            )
            loaded.append((subjects, drawn))
        return loaded

    def _cut(self, loaded: Loaded) -> list[Views]:
        encoder = self.config.encoder
        return [drawn.apply(part.to(self.device), encoder) for part, drawn in loaded]

    def _batches(self) -> AbstractContextManager[Iterable[list[Views]]]:
        """Make the views of the remaining steps, ahead of their use on a GPU."""
        return view_batches(
            self.read_subjects,
            self._cut,
            range(self.next_step, self.config.n_steps),
            self.device,
            can_read_in_threads=isinstance(self.source, VolumeStore),
        )

    def backward(
        self, parts: list[Views], step: int
    ) -> tuple[dict[str, float], dict[str, float | None]]:
        """Add up the gradients of all parts of a step.

        Returns the losses, means over parts and ranks, and two indicators of collapse,
        the effective rank and the teacher's entropy, which are None between log lines.
        """
        config = self.config
        warmup = round(config.temperature_warmup_fraction * config.n_steps)
        temperature = linear_warmup(step, warmup, *config.teacher_temperature)
        terms_of_parts = []
        entropy = effective_rank = None
        is_mixed = self.precision != torch.float32
        for number, views in enumerate(parts):
            is_last = number == len(parts) - 1
            sync = gradient_sync(self.model.student, is_last)
            with sync, fast_attention(self.device):
                with torch.autocast(self.device.type, self.precision, enabled=is_mixed):
                    terms, student, teacher = self.model(
                        views, teacher_temperature=temperature
                    )
                self.loss_scale.scale(terms.total / len(parts)).backward()
            terms_of_parts.append(torch.stack(terms).detach())
            if config.uses_teacher:
                self.monitor.observe(student.class_tokens.mean(dim=0))
            elif student.tokens is not None:
                means = mean_tokens(student.tokens, views.global_views).mean(dim=0)
                self.monitor.observe(means)
        if self._is_logged(step):
            effective_rank = self.monitor.effective_rank()
            if teacher is not None and teacher.class_logits is not None:
                entropy = relative_entropy(teacher.class_logits, temperature)
        losses = all_ranks_mean(torch.stack(terms_of_parts).mean(dim=0)).tolist()
        indicators = {"effective_rank": effective_rank, "teacher_entropy": entropy}
        return dict(zip(LossTerms._fields, losses, strict=True)), indicators

    def _update(self, step: int, loss: float) -> float:
        """Clip the gradient, and move student and teacher; return the norm."""
        parameters = [p for p in self.model.student.parameters() if p.grad is not None]
        self.loss_scale.unscale([p.grad for p in parameters if p.grad is not None])
        clipped = nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        norm = float(run_state.whole_tensor(clipped))
        if math.isfinite(loss) and not self.loss_scale.accepts(norm, step):
            return norm
        self.monitor.check_finite(step, loss=loss, gradient=norm)
        self.optimizer.step()
        momentum = cosine(step, self.config.n_steps, *self.config.teacher_momentum)
        self.model.update_teacher(momentum)
        return norm

    def _measure_pairs(self, step: int) -> dict[str, float]:
        """Return what the log shows of pairs of acquisitions, if it is written."""
        if not self._is_logged(step):
            return {}
        pairs = {n: float(v) for n, v in self.model.pair_measures.items()}
        self.monitor.check_spread(step, pairs.get("subject_spread"))
        return pairs

    def _score(self, probe: Probe) -> tuple[float, Checkpoint]:
        """Score the encoder, and write the score to the log."""
        checkpoint = self._teacher_checkpoint()
        score = probe(require_slabs(checkpoint.build_encoder().to(self.device)))
        self.log.write(self.next_step - 1, probe=score)
        logger.info("step %d: probe score %.3f.", self.next_step, score)
        return score, checkpoint

    def _keep_best(self, probe: Probe) -> None:
        score, checkpoint = self._score(probe)
        if self.best_score is None or score > self.best_score:
            self.best_score = score
            if rank() == 0:
                checkpoint.save(self.folder / "best")

    def _save_if_due(self, *, stops: bool = False) -> None:
        """Run the probe, and save state and checkpoint, at their steps."""
        config, at_end = self.config, self.next_step == self.config.n_steps
        is_scored = self.next_step % config.probe_every == 0 or at_end
        if self.probe is not None and is_scored:
            self._keep_best(self.probe)
        if self.next_step % config.checkpoint_every == 0 or at_end or stops:
            facts = {
                "next_step": self.next_step,
                "best_score": self.best_score,
                "initial_score": self.initial_score,
                "loss_scale": self.loss_scale.value,
                "scans": self._scans,
                "origin": self.origin.to_dict(),
            }
            if (teacher := self.model.reference) is not None:
                facts["teacher_background"] = teacher.config.background
            path = self.folder / run_state.STATE_NAME
            run_state.save_run_state(path, self.model, self.optimizer, facts)
            self._save_checkpoint(self._teacher_checkpoint(), self.folder)

    @property
    def _scans(self) -> str | None:
        """Fingerprint of the scans of a store; None for another source."""
        return self.source.fingerprint if isinstance(self.source, VolumeStore) else None

    def _calibrate(self) -> None:
        """Set the units of targets and tokens from a few batches."""
        config = self.config
        if config.anatomy_weight == 0 and not config.uses_pairs:
            return
        # After the last step and far apart, so that all have different subjects.
        steps = [config.n_steps + 1000 * batch for batch in range(_N_CALIBRATION)]
        batches = (self.make_views(step)[0] for step in steps)
        calibrate(self.model, batches, self.source.target_weights)
