"""Measure the time from files to vectors, by stage and against a lower bound.

The lower bound of a volume is the arithmetic of the encoder at the speed of the
machine's matrix products, and the decompression of its file. Loops that a user might
write are timed in the same run; they need the test extra and einops.

    python examples/benchmarks/embed_speed.py
    python examples/benchmarks/embed_speed.py --sizes tiny base large --device cuda
    python examples/benchmarks/embed_speed.py --rivals 0 --scaling 10 100 1000
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from speed_floor import inflate_seconds, matrix_rate
from speed_rivals import AS_OURS, COARSE, monai_loop, slice_loop
from speed_scans import write_scans
from speed_stages import Stages

from brainfeat import BrainFoundEmbedder, Checkpoint, Preprocessor
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder

# The grid that a converted DINOv2 gets: the brain at 1 mm, in patches of 14.
FINE = Preprocessor(shape=(154, 196, 152), spacing=1.0)


@dataclass(frozen=True)
class Machine:
    """The machine and the speed of its matrix products."""

    device: torch.device
    n_cores: int
    dtype: torch.dtype  # of the fastest products
    rate: float  # multiplications and additions per second in this dtype

    @classmethod
    def measure(cls, device: torch.device) -> "Machine":
        rates = {t: matrix_rate(t, device) for t in (torch.float32, torch.bfloat16)}
        n_cores = len(os.sched_getaffinity(0))
        print(f"{device.type}, {n_cores} cores, torch {torch.__version__}")
        for name, rate in rates.items():
            print(f"matrix products in {name}: {rate / 1e9:.0f} GFLOP/s")
        dtype = max(rates, key=rates.__getitem__)
        return cls(device, n_cores, dtype, rates[dtype])


def make_checkpoint(name: str, folder: Path) -> str:
    """Return the bundled encoder, or a random one: ``small``, ``small-skipped``."""
    size, _, background = name.partition("-")
    if size == "tiny":
        return "brainfound-tiny"
    config = EncoderConfig.preset(
        size,
        modalities=("T1w",),
        image_size=(196, 154),
        layer_scale=0.1,
        background=background or "kept",
    )
    weights = SlabEncoder(config).state_dict()
    settings = CheckpointConfig(encoder=config, preprocessing=FINE.to_dict())
    return str(Checkpoint(settings, weights).save(folder / name))


def measure_files(
    checkpoint: str, paths: list[Path], options: argparse.Namespace
) -> tuple[float, float]:
    """Return seconds of the first volume, and of each following one."""
    embedder = BrainFoundEmbedder(
        checkpoint, modality="T1w", device=options.device, n_jobs=options.jobs
    ).fit()
    times = []
    for batch in (paths[:1], paths[:1], paths):
        started = time.perf_counter()
        embedder.transform([str(path) for path in batch])
        times.append(time.perf_counter() - started)
    return times[0], (times[2] - times[1]) / max(len(paths) - 1, 1)


def show_size(
    name: str,
    checkpoint: str,
    paths: list[Path],
    machine: Machine,
    options: argparse.Namespace,
) -> float:
    """Print the time of each stage of one encoder; return seconds per volume."""
    stages = Stages(Checkpoint.load(checkpoint), paths[0])
    before = stages.before_encoder()
    after = stages.from_encoder(machine.device, machine.dtype, options.batch_size)
    first, each = measure_files(checkpoint, paths, options)
    inflate = inflate_seconds(paths[0])
    arithmetic = stages.operations / machine.rate
    shared = inflate / machine.n_cores
    on_cpu = machine.device.type == "cpu"
    floor = arithmetic + shared if on_cpu else max(arithmetic, shared)
    config, fraction = (
        stages.config.encoder,
        float((stages.fractions > 0).float().mean()),
    )
    print(
        f"\n{name}: {config.embed_dim} x {config.depth}, {stages.fractions.numel()} "
        f"patches, {fraction:.0%} of them brain, background {config.background}\n"
        f"  arithmetic {stages.operations / 1e9:.0f} GFLOP, file "
        f"{paths[0].stat().st_size / 1e6:.1f} MB\n"
        f"  lower bound {floor:7.3f} s per volume: arithmetic {arithmetic:.3f}, "
        f"decompression {shared:.3f}"
    )
    for stage, seconds in (before | after).items():
        print(f"  {stage:<22} {seconds:8.3f} s")
    print(
        f"  encoder at {arithmetic / after['encode']:.2f} of the matrix rate, "
        f"{1 / after['encode']:.1f} volumes/s from memory\n"
        f"  from files: first volume {first:.3f} s, each following {each:.3f} s; "
        f"sum of stages {sum((before | after).values()):.3f} s; "
        f"lower bound / measured {floor / each:.2f}"
    )
    return each


def time_rivals(
    paths: list[Path], device: torch.device, n_volumes: int
) -> dict[str, float]:
    """Return seconds per volume of loops that a user might write."""
    make = {
        "(a) slice by slice, float32": lambda: slice_loop(
            half=False, device=device, batch_size=1
        ),
        "(b) batches of 16, bfloat16": lambda: slice_loop(
            half=True, device=device, batch_size=16
        ),
        "(c) monai": lambda: monai_loop(*COARSE, fused=False, device=device),
        "(d) monai, our patch count": lambda: monai_loop(
            *AS_OURS, fused=True, device=device
        ),
    }
    seconds = {}
    for name, build in make.items():
        embed = build()
        started = time.perf_counter()
        for path in paths[:n_volumes]:
            embed(path)
        seconds[name] = (time.perf_counter() - started) / n_volumes
    return seconds


def show_table(ours: dict[str, float], rivals: dict[str, float]) -> None:
    print("\n| files to vectors | s / volume |", end="")
    print("".join(f" {name.split()[0]} / this |" for name in rivals))
    print("| :--- | ---: |" + " ---: |" * len(rivals))
    for name, seconds in (ours | rivals).items():
        ratios = [f"{rival / seconds:.1f}" for rival in rivals.values()]
        print(f"| {name} | {seconds:.2f} | " + " | ".join(ratios) + " |")


def show_cache(paths: list[Path], folder: Path) -> None:
    embedder = BrainFoundEmbedder(modality="T1w", memory=folder / "cache").fit()
    files = [str(path) for path in paths]
    embedder.transform(files)
    started = time.perf_counter()
    embedder.transform(files)
    each = (time.perf_counter() - started) / len(files)
    print(f"\nsecond epoch, from the cache: {1000 * each:.1f} ms per subject")


def show_start(path: Path) -> None:
    embed = "from brainfeat import BrainFoundEmbedder as E; E().fit_transform([{!r}])"
    for name, arguments in {
        "import brainfeat": ["-c", "import brainfeat"],
        "brainfeat --help": ["-m", "brainfeat", "--help"],
        "import and first embedding": ["-c", embed.format(str(path))],
    }.items():
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        print(f"{name:<27} {time.perf_counter() - started:6.2f} s")


def show_scaling(paths: list[Path], sizes: list[int], n_jobs: int) -> None:
    """Embed increasing numbers of volumes in one process, with its peak memory."""
    embedder = BrainFoundEmbedder(modality="T1w", n_jobs=n_jobs).fit()
    for size in sizes:
        files = [str(paths[index % len(paths)]) for index in range(size)]
        started = time.perf_counter()
        embedder.transform(files)
        each = (time.perf_counter() - started) / size
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{size:6d} volumes: {each:.3f} s each, peak memory {peak:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sizes", nargs="*", default=["tiny", "small", "small-skipped"]
    )
    parser.add_argument("--volumes", type=int, default=16, help="distinct files")
    parser.add_argument("--rivals", type=int, default=4, help="volumes of each loop")
    parser.add_argument("--scaling", type=int, nargs="*", default=[])
    parser.add_argument("--jobs", type=int, default=-1, help="threads that load")
    parser.add_argument("--batch-size", type=int, default=1, help="from memory")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--folder", type=Path, help="keeps the scans")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = write_scans(folder, options.volumes)
        machine = Machine.measure(torch.device(options.device))
        ours = {
            name: show_size(
                name, make_checkpoint(name, Path(temporary)), paths, machine, options
            )
            for name in options.sizes
        }
        rivals = {}
        if options.rivals:
            rivals = time_rivals(paths, machine.device, options.rivals)
        show_table({f"brainfeat, {name}": each for name, each in ours.items()}, rivals)
        show_cache(paths, Path(temporary))
        show_start(paths[0])
        show_scaling(paths, options.scaling, options.jobs)


if __name__ == "__main__":
    main()
