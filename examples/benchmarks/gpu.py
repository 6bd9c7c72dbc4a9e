"""Measure embedding and pretraining on a GPU, in one command.

Prints, for each size of encoder, volumes a second that it encodes from memory and from
files, subjects a second that products alone and the whole loop of training take, the
share of the peak, the memory in use, and what bounds the loop. Without a GPU it says so
and ends with status 0.

    python examples/benchmarks/gpu.py [tiny] [small] [base] [large]
"""

import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.config import PretrainingConfig, read_config
from brainfeat.pretraining.estimate import step_flops
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.trainer import Trainer
from brainfeat.pretraining.warm_start import Start
from brainfeat.slabs.crops import stack_to_slabs
from brainfeat.workers import Prefetch

SHAPE = (80, 104, 80)
SIZES = ("tiny", "small", "base", "large")
N_STEPS = 12
N_VOLUMES, N_BATCHES = 16, 8  # of a batch that is encoded
# Operations a second in bfloat16, or float16 before Ampere, without sparsity.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "V100": 112e12, "T4": 65e12}
# Subjects of a training step by the gigabytes of memory, on paper.
BATCHES = {
    "tiny": {16: 64, 80: 384, 140: 640},
    "small": {16: 32, 80: 192, 140: 320},
    "base": {16: 12, 80: 80, 140: 144},
    "large": {16: 2, 80: 24, 140: 48},
}
SPEED = runpy.run_path(str(Path(__file__).with_name("pretraining_speed.py")))


def choose_batch(size: str, gigabytes: float) -> int:
    """Return the largest batch of the table that fits."""
    fitting = [n for memory, n in BATCHES[size].items() if memory <= gigabytes + 2]
    return fitting[-1] if fitting else 2


def find_peak(name: str) -> float | None:
    """Return the peak of a GPU that the table has."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def seconds_of(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_encoding(
    config: PretrainingConfig, store: VolumeStore, device: torch.device
) -> tuple[float, float]:
    """Return volumes a second, from memory and from files."""
    checkpoint = CheckpointConfig(
        encoder=config.encoder, preprocessing={}, trained=False
    )
    encoder = Checkpoint.untrained(checkpoint).build_encoder().to(device).eval()
    names = [*store.subjects][:N_VOLUMES]
    half = store.in_half_precision()

    @torch.inference_mode()
    def encode(batch: SubjectBatch) -> None:
        stacks = batch.volumes[:, 0].permute(0, 1, 4, 3, 2)  # B M slices H W
        slabs = stack_to_slabs(stacks, config.encoder.thickness)
        with torch.autocast(device.type, torch.bfloat16):
            output = encoder(slabs)
        pool_tokens(output, torch.ones(output.patch_tokens.shape[:4]), "mean")

    def encode_files() -> None:
        options = {"n_threads": 4, "n_ahead": 5}
        read = Prefetch(lambda _: half.load(names), range(N_BATCHES), **options)
        with read as batches:
            for batch in batches:
                encode(batch.to(device))

    ready = half.load(names).to(device)
    encode(ready)
    memory = statistics.median(seconds_of(lambda: encode(ready)) for _ in range(5))
    files = seconds_of(encode_files) / N_BATCHES
    return len(names) / memory, len(names) / files


def measure_training(
    config: PretrainingConfig, store: VolumeStore, folder: Path, device: torch.device
) -> tuple[float, float]:
    """Return subjects a second of products alone, and of the whole loop from files."""
    trainer = Trainer(store, config, folder / "run", device=device)
    trainer.prepare(Start(resumes=False))
    views = trainer.make_views(0)
    trainer.backward(views, 0)
    alone = statistics.median(
        seconds_of(lambda: trainer.backward(views, 0)) for _ in range(4)
    )
    speeds = [step.measures["subjects_per_second"] or 0.0 for step in trainer.steps()]
    return config.batch_size / alone, statistics.median(speeds[2:])


def measure(size: str, device: torch.device) -> None:
    """Print the line of one size."""
    properties = torch.cuda.get_device_properties(device)
    room = properties.total_memory / 1e9
    config = read_config(None, size=size, n_steps=N_STEPS)
    config = replace(
        config, batch_size=choose_batch(size, room), checkpoint_every=10**6
    )
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = SPEED["make_store"](folder, SHAPE)
        memory, files = measure_encoding(config, store, device)
        products, loop = measure_training(config, store, folder, device)
    used = torch.cuda.max_memory_allocated() / 1e9
    flops = step_flops(config, SHAPE) / config.batch_size
    peak = find_peak(properties.name)
    share = "" if peak is None else f"{100 * loop * flops / peak:.0f} %"
    bound = "files and views" if loop < 0.85 * products else "products"
    print(
        f"{size:<6} {memory:>9.1f} {files:>9.1f} {config.batch_size:>6} "
        f"{products:>10.1f} {loop:>8.1f} {share:>6} {used:>6.1f}  {bound}"
    )


def main(names: list[str]) -> None:
    if not torch.cuda.is_available():
        print("No GPU: nothing was measured.")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    print(torch.cuda.get_device_name(device))
    print(
        f"{'size':<6} {'memory/s':>9} {'files/s':>9} {'batch':>6} "
        f"{'products/s':>10} {'loop/s':>8} {'peak':>6} {'GB':>6}  bound by"
    )
    for size in names or SIZES:
        measure(size, device)


if __name__ == "__main__":
    main(sys.argv[1:])
