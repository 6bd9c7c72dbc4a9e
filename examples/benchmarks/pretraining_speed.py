"""Measure the overhead of the training loop over its forward and backward passes.

The upper limit of the speed is the forward and backward pass of the same networks on
views in memory. The loop also draws subjects from a store, crops views, updates weights
and teacher, and writes its log.

The loader alone is compared with the arithmetic of larger encoders on a GPU, on paper:
subjects that one core reads and draws in a second of its time, times 16, over those
that an H200 at 40 % of its peak would train on.

    python examples/benchmarks/pretraining_speed.py [tiny] [small] [base] [loader]
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from brainfeat.models.config import EncoderConfig
from brainfeat.models.device import resolve_training_device
from brainfeat.pretraining.config import PretrainingConfig, read_config
from brainfeat.pretraining.estimate import step_flops
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore
from brainfeat.pretraining.trainer import Trainer
from brainfeat.pretraining.warm_start import Start

N_STEPS = 12
N_SUBJECTS = 16
PEAK = 989e12  # operations a second of an H200 in bfloat16
N_CORES = 16
SIZES = {"tiny": (104, 80), "small": (112, 84), "base": (112, 84)}


def make_store(folder: Path, shape: tuple[int, int, int]) -> VolumeStore:
    generator = np.random.default_rng(0)
    scans = []
    for number in range(N_SUBJECTS):
        data = generator.standard_normal((4, *shape)).astype(np.float16)
        data[-1] = 1  # everything is foreground
        np.save(folder / f"{number}.npy", data)
        names = {"subject": str(number), "file": f"{number}.npy"}
        scans.append(StoredScan(**names, present=(True, True, True)))
    index = StoreIndex(
        modalities=("T1w", "T2w", "FLAIR"), preprocessing={}, scans=tuple(scans)
    )
    index.save(folder)
    return VolumeStore(folder)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(name: str, folder: Path) -> None:
    device = resolve_training_device("auto")
    size = SIZES[name]
    encoder = EncoderConfig.preset(name, image_size=size)
    config = PretrainingConfig.preset("small_batch", encoder=encoder, n_steps=N_STEPS)
    values = config.to_dict() | {"checkpoint_every": 10**6, "log_every": 1}
    values["views"]["global_crops"]["size"] = list(size)
    patch = encoder.patch_size
    values["views"]["local_crops"]["size"] = [6 * patch, 6 * patch]
    config = PretrainingConfig.from_dict(values)
    store = make_store(folder, (size[1], size[0], 80))
    trainer = Trainer(store, config, folder / name, device=device)
    trainer.prepare(Start(resumes=False))
    ready = [trainer.make_views(step) for step in range(2)]
    trainer.backward(ready[0], 0)  # warm up
    steps = [
        partial(trainer.backward, ready[step % 2], step) for step in range(N_STEPS)
    ]
    # Before and after the loop, as the load of the machine may vary.
    seconds = [seconds_of(step, device) for step in steps]
    for _ in trainer.steps():
        pass
    seconds += [seconds_of(step, device) for step in steps]
    limit = statistics.median(seconds)
    lines = (folder / name / "log.jsonl").read_text().splitlines()
    # The first step waits for the first views.
    speeds = [json.loads(line)["subjects_per_second"] for line in lines[1:]]
    loop, fastest = statistics.median(speeds), config.batch_size / limit
    print(
        f"{name:<6} {device.type:<5} {loop:8.2f} {fastest:8.2f} {loop / fastest:6.2f}"
    )


def loader_config(size: str, spacing: int) -> PretrainingConfig:
    """Return the default views at 2 mm; at 1 mm twice as many voxels on each axis."""
    config = read_config(None, size=size)
    values = config.to_dict() | {"batch_size": 32}
    for name in ("global_crops", "local_crops"):
        crops, factor = values["views"][name], 2 // spacing
        crops["size"] = [factor * length for length in crops["size"]]
        crops["n_slabs"] *= factor
    return PretrainingConfig.from_dict(values)


def measure_loader(folder: Path, spacing: int) -> None:
    """Print how many subjects a core reads, and what encoders on a GPU need."""
    factor = 2 // spacing
    shape = (factor * 80, factor * 104, factor * 80)
    store = make_store(folder, shape).in_half_precision()
    config = loader_config("small", spacing)
    trainer = Trainer(store, config, folder / "run", device=torch.device("cpu"))
    trainer.read_subjects(0)  # into the cache of the system
    started, n_steps = time.process_time(), 4 if spacing == 2 else 2
    for step in range(n_steps):
        trainer.read_subjects(step)
    seconds = time.process_time() - started
    rate = n_steps * config.batch_size / seconds
    for size in ("small", "base", "large"):
        flops = step_flops(loader_config(size, spacing), shape) / config.batch_size
        needed = 0.4 * PEAK / flops
        ratio = N_CORES * rate / needed
        print(f"{spacing} mm  {size:<6} {rate:8.1f} {needed:10.1f} {ratio:6.2f}")


def main(names: list[str]) -> None:
    wanted = names or ["tiny", "loader"]
    print(f"{'size':<6} {'on':<5} {'loop/s':>8} {'limit/s':>8} {'ratio':>6}")
    for name in wanted:
        if name in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                compare(name, Path(folder))
    if "loader" in wanted:
        torch.set_num_threads(1)
        print(f"\n{'grid':<5} {'size':<6} {'core/s':>8} {'H200/s':>10} {'ratio':>6}")
        for spacing in (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                measure_loader(Path(folder), spacing)


if __name__ == "__main__":
    main(sys.argv[1:])
