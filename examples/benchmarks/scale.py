"""Measure memory at 100 and 2,000 subjects, planning of 5,000, and a no-op rerun.

python scale.py WORK [--subjects 2000] [--planned 5000]
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from resilience import embed
from small_cohort import write_checkpoint, write_cohort

from brainfeat.subjects.manifest import collect_rows

MODALITIES = ("T1w", "T2w", "FLAIR")


def run(command: list[str]) -> tuple[float, float]:
    """Return seconds and the peak memory in megabytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: status {status}.")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def plan(folder: Path, n_subjects: int) -> float:
    """Return the seconds to index a tree of empty files."""
    for index in range(n_subjects):
        name = f"sub-{index:05d}"
        anat = folder / name / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        for modality in MODALITIES:
            (anat / f"{name}_{modality}.nii.gz").touch()
    start = time.perf_counter()
    manifest = collect_rows([str(folder)], modalities=MODALITIES)
    seconds = time.perf_counter() - start
    if len(manifest.rows) != n_subjects:
        sys.exit(f"{len(manifest.rows)} rows of {n_subjects} subjects.")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--subjects", type=int, default=2000)
    parser.add_argument("--planned", type=int, default=5000)
    arguments = parser.parse_args()
    work = arguments.work
    checkpoint = write_checkpoint(work / "encoder")
    peaks = []
    for n_subjects in (min(100, arguments.subjects // 2), arguments.subjects):
        cohort = write_cohort(work / f"cohort-{n_subjects}", n_subjects)
        command = embed([cohort], work / f"table-{n_subjects}.parquet", checkpoint)
        seconds, peak = run(command)
        peaks.append(peak)
        print(f"{n_subjects} subjects: {seconds:.1f} s, peak {peak:.0f} MB", flush=True)
    print(f"memory: {peaks[1] / peaks[0]:.3f} times that of few subjects")
    seconds, _ = run(command)
    print(f"rerun, all complete: {seconds:.1f} s")
    seconds = plan(work / "empty", arguments.planned)
    print(f"plan of {arguments.planned} subjects: {seconds:.2f} s")


if __name__ == "__main__":
    main()
