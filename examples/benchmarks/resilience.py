"""Check that kills at random moments and damaged files lose no row.

python resilience.py WORK [--subjects 2000] [--kills 20] [--damaged 1000]
"""

import argparse
import gzip
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from small_cohort import write_checkpoint, write_cohort

from brainfeat import read_embeddings

FIELDS = nib.Nifti1Header.template_dtype.fields
EXTREMES = (0.0, -1.0, 1e30, -1e-30, 3e4, np.nan, np.inf, -np.inf)


def embed(inputs: list[Path], output: Path, checkpoint: Path) -> list[str]:
    command = [sys.executable, "-m", "brainfeat", "embed", *map(str, inputs)]
    return [*command, "-o", str(output), "--checkpoint", str(checkpoint)]


def count_rows(output: Path) -> int:
    """Count the saved rows of an unfinished run."""
    rows = output.parent / f".{output.name}.partial" / "rows"
    return sum(1 for _ in rows.glob("*/*.npy"))


def kill_at_random(command: list[str], output: Path, n_kills: int) -> None:
    """Kill a run repeatedly, while it starts, embeds or writes its table."""
    draw = random.Random(0)
    for index in range(n_kills):
        before, start = count_rows(output), time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        if index % 4:
            while count_rows(output) == before and process.poll() is None:
                time.sleep(0.002)
        time.sleep(draw.uniform(0, 2))
        process.kill()
        process.wait()
        duration = time.perf_counter() - start
        print(f"kill {index + 1:2}: after {duration:4.1f} s", end=", ")
        print(f"rows saved {before} -> {count_rows(output)}", flush=True)


def compare_with_uninterrupted(arguments: argparse.Namespace) -> None:
    work = arguments.work
    checkpoint = write_checkpoint(work / "encoder")
    cohort = write_cohort(work / "cohort", arguments.subjects)
    outputs = [work / name / "table.parquet" for name in ("whole", "killed")]
    start = time.perf_counter()
    subprocess.run(embed([cohort], outputs[0], checkpoint), check=True, stderr=-3)
    print(f"uninterrupted: {time.perf_counter() - start:.0f} s")
    kill_at_random(embed([cohort], outputs[1], checkpoint), outputs[1], arguments.kills)
    subprocess.run(embed([cohort], outputs[1], checkpoint), check=True, stderr=-3)
    same = outputs[0].read_bytes() == outputs[1].read_bytes()
    files = sorted(path.name for path in outputs[1].parent.iterdir())
    print(f"same bytes: {same}; files: {', '.join(files)}")
    if not same or files != ["table.json", "table.parquet", "table.parquet.previews"]:
        sys.exit("the killed run left other files or another table.")


def damage(content: bytes, draw: np.random.Generator) -> tuple[str, bytes]:
    """Truncate a NIfTI file, flip bits of it, or corrupt its header."""
    kind = draw.choice(["cut", "flipped", "header"])
    block = bytearray(gzip.compress(content, 1) if kind != "header" else content)
    if kind == "cut":
        return ".nii.gz", bytes(block[: draw.integers(len(block))])
    if kind == "flipped":
        for position in draw.integers(len(block), size=draw.integers(1, 20)):
            block[position] ^= 1 << draw.integers(8)
        return ".nii.gz", bytes(block)
    for name in draw.choice(sorted(FIELDS), size=draw.integers(1, 4)):
        dtype, offset = FIELDS[name]
        extreme = draw.choice(EXTREMES)
        values = draw.bytes(dtype.itemsize)
        if dtype.base.kind in "iuf" and draw.random() < 0.5:
            with np.errstate(all="ignore"):
                values = np.full(dtype.shape, extreme).astype(dtype.base).tobytes()
        block[offset : offset + dtype.itemsize] = values
    return ".nii", bytes(block)


def survive_damage(arguments: argparse.Namespace) -> None:
    work = arguments.work
    good = write_cohort(work / "good", 100)
    content = gzip.decompress(next(good.rglob("*.nii.gz")).read_bytes())
    draw, bad = np.random.default_rng(0), work / "bad"
    bad.mkdir(exist_ok=True)
    for index in range(arguments.damaged):
        suffix, block = damage(content, draw)
        (bad / f"bad-{index:04d}{suffix}").write_bytes(block)
    output = work / "damaged" / "table.parquet"
    start = time.perf_counter()
    run = subprocess.run(
        embed([good, bad], output, write_checkpoint(work / "encoder")),
        capture_output=True,
        text=True,
    )
    # Of the largest child process so far, in kilobytes.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    names = set(read_embeddings(output)[0]["participant_id"])
    n_good = sum(path.name in names for path in good.iterdir())
    print(run.stdout.strip())
    print(f"exit {run.returncode}, {time.perf_counter() - start:.0f} s", end=", ")
    print(f"peak {peak:.2f} GB, {n_good} of 100 good rows", end=", ")
    print(f"{(run.stdout + run.stderr).count('Traceback')} tracebacks")
    if run.returncode != 1 or n_good != 100 or "Traceback" in run.stderr:
        sys.exit("damaged files affected good rows.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--subjects", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damaged", type=int, default=1000)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    survive_damage(arguments)
    compare_with_uninterrupted(arguments)


if __name__ == "__main__":
    main()
