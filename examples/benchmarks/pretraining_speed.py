"""Measure the overhead of the training loop over its forward and backward passes.

The upper limit of the speed is the forward and backward pass of the same networks on
views in memory. The loop also draws subjects from a store, crops views, updates weights
and teacher, and writes its log.

    python examples/benchmarks/pretraining_speed.py [tiny] [small] [base]
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
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore
from brainfeat.pretraining.trainer import Trainer
from brainfeat.pretraining.warm_start import Start

N_STEPS = 12
N_SUBJECTS = 16
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


def main(names: list[str]) -> None:
    print(f"{'size':<6} {'on':<5} {'loop/s':>8} {'limit/s':>8} {'ratio':>6}")
    for name in names or ["tiny"]:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
