"""Check that shards, two devices, Dask and Ray write the table of one process.

One worker of each run is killed. Needs pip install 'brainfeat[dask,ray]'.
python clusters.py WORK [--subjects 300]
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from resilience import count_rows, embed
from small_cohort import write_checkpoint, write_cohort


def descendants(pid: int) -> dict[int, str]:
    """Find the command lines of all descendants of a process."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
            lines[int(entry.name)] = line.decode(errors="replace")
    children: dict[int, str] = {}
    while True:
        new = {p for p, parent in parents.items() if parent in {pid, *children}}
        if new <= children.keys():
            return children
        children |= {p: lines[p] for p in new}


def kill_a_worker(process: "subprocess.Popen[bytes]", output: Path, word: str) -> bool:
    """Kill one worker once a few rows are saved."""
    while count_rows(output) < 20 and process.poll() is None:
        time.sleep(0.01)
    workers = [p for p, line in descendants(process.pid).items() if word in line]
    if workers:
        os.kill(max(workers), signal.SIGKILL)
    return bool(workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--subjects", type=int, default=300)
    arguments = parser.parse_args()
    work = arguments.work
    checkpoint = write_checkpoint(work / "encoder")
    cohort = write_cohort(work / "cohort", arguments.subjects)
    whole = work / "one-process.parquet"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(embed([cohort], whole, checkpoint), check=True, **quiet)

    parts = [work / f"shard-{index}.parquet" for index in range(1, 5)]
    shards = [
        subprocess.Popen(
            [*embed([cohort], part, checkpoint), "--shard", f"{index}/4"], **quiet
        )
        for index, part in enumerate(parts, start=1)
    ]
    for shard in shards:
        shard.wait()
    merged = work / "merged.parquet"
    command = [sys.executable, "-m", "brainfeat", "merge", *map(str, parts)]
    subprocess.run([*command, "-o", str(merged)], check=True, **quiet)
    print(f"4 shards merged: same bytes {same(whole, merged)}", flush=True)

    for name, options, word in (
        ("devices", ["--device", "cpu,cpu"], "spawn_main"),
        ("dask", ["--backend", "dask", "--jobs", "2"], "spawn_main"),
        ("ray", ["--backend", "ray", "--jobs", "2"], "ray::encode_remotely"),
    ):
        output = work / f"{name}.parquet"
        start = time.perf_counter()
        process = subprocess.Popen(
            [*embed([cohort], output, checkpoint), *options], **quiet
        )
        killed = kill_a_worker(process, output, word)
        status = process.wait()
        print(f"{name}: worker killed {killed}, exit {status}", end=", ")
        print(f"{time.perf_counter() - start:.0f} s", end=", ")
        print(f"same bytes {same(whole, output)}", flush=True)


def same(first: Path, second: Path) -> bool:
    return second.exists() and first.read_bytes() == second.read_bytes()


if __name__ == "__main__":
    main()
