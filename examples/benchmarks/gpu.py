"""Measure embedding and pretraining on a GPU, in one command.

Prints volumes a second for each size of encoder, from memory and from files, subjects a
second in training, the share of the peak that products reach, the memory in use, and
what bounds it. Without a GPU it says so and ends with status 0.

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
from brainfeat.pretraining.trainer import Trainer
from brainfeat.pretraining.warm_start import Start

SHAPE = (80, 104, 80)
SIZES = ("tiny", "small", "base", "large")
N_STEPS = 12
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


def measure_encoding(config: PretrainingConfig, device: torch.device) -> float:
    """Return volumes a second from memory, in batches of 16."""
    checkpoint = CheckpointConfig(
        encoder=config.encoder, preprocessing={}, trained=False
    )
    encoder = Checkpoint.untrained(checkpoint).build_encoder().to(device).eval()
    n, thickness = 16, config.encoder.thickness
    grid = (SHAPE[2] // thickness, SHAPE[1] // 8, SHAPE[0] // 8)
    channels = config.encoder.in_channels
    slabs = torch.randn(n, grid[0], channels, SHAPE[1], SHAPE[0], device=device)
    fractions = torch.ones(n, *grid, device=device)

    @torch.inference_mode()
    def encode() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            pool_tokens(encoder(slabs), fractions, "mean")

    encode()
    return n / statistics.median(seconds_of(encode) for _ in range(5))


def measure_training(
    config: PretrainingConfig, folder: Path, device: torch.device
) -> tuple[float, float]:
    """Return subjects a second of products alone, and of the whole loop from files."""
    store = SPEED["make_store"](folder, SHAPE)
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
    memory = properties.total_memory / 1e9
    config = read_config(None, size=size, n_steps=N_STEPS)
    config = replace(
        config, batch_size=choose_batch(size, memory), checkpoint_every=10**6
    )
    torch.cuda.reset_peak_memory_stats()
    encoded = measure_encoding(config, device)
    with tempfile.TemporaryDirectory() as name:
        products, loop = measure_training(config, Path(name), device)
    used = torch.cuda.max_memory_allocated() / 1e9
    flops = step_flops(config, SHAPE) / config.batch_size
    peak = find_peak(properties.name)
    share = "" if peak is None else f"{100 * loop * flops / peak:.0f} %"
    bound = "files and views" if loop < 0.85 * products else "products"
    print(
        f"{size:<6} {config.batch_size:>5} {encoded:>10.1f} {products:>10.1f} "
        f"{loop:>10.1f} {share:>6} {used:>7.1f}  {bound}"
    )


def main(names: list[str]) -> None:
    if not torch.cuda.is_available():
        print("No GPU: nothing was measured.")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    print(torch.cuda.get_device_name(device))
    print(
        f"{'size':<6} {'batch':>5} {'encoded/s':>10} {'products/s':>10} "
        f"{'loop/s':>10} {'peak':>6} {'GB':>7}  bound by"
    )
    for size in names or SIZES:
        measure(size, device)


if __name__ == "__main__":
    main(sys.argv[1:])
