"""Train one encoder per objective, all with the same CPU time.

Each run uses the simulated anatomies of `examples/train_brainfound_tiny.py` and one
thread.

    python examples/benchmarks/ablations.py OUTPUT --seconds 600

trains all encoders and prints the options with which `label_scarce.py` compares them.
The same command resumes an interrupted run.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.run import pretrain
from brainfeat.pretraining.simulated import SimulatedSource
from brainfeat.pretraining.source import SubjectSource
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.slabs.crops import CropConfig
from brainfeat.slabs.intensity import IntensityConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_brainfound_tiny as recipe

N_PACE_STEPS = 6
PAIRS = dataclasses.replace(
    recipe.VIEWS,
    n_global=2,
    global_crops=dataclasses.replace(
        recipe.VIEWS.global_crops, area=(0.5, 1.0), rotation=15.0
    ),
    local_crops=CropConfig(size=(48, 48), n_slabs=2, area=(0.15, 0.35)),
    intensity=IntensityConfig(),
)
NONE = {
    f"{name}_weight": 0.0 for name in ("dino", "ibot", "koleo", "infonce", "anatomy")
}
SINGLE_SLICE = dataclasses.replace(
    recipe.ENCODER, thickness=1, slab_mixing=(), slab_positions=80
)
CHANGES = {
    "anatomy": {},
    "dino": {
        "dino_weight": 1.0,
        "koleo_weight": 0.1,
        "views": dataclasses.replace(PAIRS, n_local=2),
    },
    "ibot": {"ibot_weight": 1.0, "views": recipe.VIEWS},
    # With Muon at its learning rate, all projections collapsed.
    "infonce": {
        "infonce_weight": 1.0,
        "views": PAIRS,
        "optimizer": "adamw",
        "learning_rate": 5e-4,
    },
    "single-slice": {"encoder": SINGLE_SLICE},
}
SELF_SUPERVISED = ("dino", "ibot", "infonce")


def configure(name: str) -> PretrainingConfig:
    changes = dict(CHANGES[name])
    if name in SELF_SUPERVISED:
        changes = NONE | {"n_prototypes": 1024} | changes
    return dataclasses.replace(recipe.FIRST, **changes)


def make_source(bases: list[BaseAnatomy], name: str) -> SimulatedSource:
    return SimulatedSource(
        bases,
        modalities=recipe.ENCODER.modalities,
        reuse=12,
        # InfoNCE needs two acquisitions of each subject.
        n_acquisitions=2 if name == "infonce" else 1,
        config=recipe.FIRST_SUBJECTS,
        preprocessing=Preprocessor().to_dict(),
    )


def count_steps(
    source: SubjectSource, config: PretrainingConfig, seconds: float, init: str | None
) -> int:
    """Estimate the number of steps in the CPU time from a few steps."""
    times: list[float] = []
    config = dataclasses.replace(config, n_steps=2 + N_PACE_STEPS)
    with tempfile.TemporaryDirectory() as folder:

        def record(items: Iterable[Any], **_: object) -> Iterator[Any]:
            for item in items:
                times.append(time.process_time())
                yield item

        pretrain(source, config, output=folder, init=init, track=record)
    # Without the first steps, which include the setup.
    return max(1, round(seconds * N_PACE_STEPS / (times[-1] - times[1])))


def train(
    source: SubjectSource,
    config: PretrainingConfig,
    folder: Path,
    seconds: float,
    init: str | None = None,
) -> None:
    """Train for some CPU time, or resume that."""
    if (folder / "model.safetensors").exists():
        return
    budget = folder / "n_steps.txt"
    if not budget.exists():
        n_steps = count_steps(source, config, seconds, init)
        folder.mkdir(parents=True, exist_ok=True)
        budget.write_text(str(n_steps))
    config = dataclasses.replace(config, n_steps=int(budget.read_text()))
    print(f"{folder.name}: {config.n_steps} steps in {folder}", flush=True)
    run = folder / "run"
    resume = (run / "pretraining.json").exists()
    pretrain(source, config, output=run, init=init, resume=resume).save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=600, help="CPU time of each")
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bases = recipe.load_bases()
    for name in options.only:
        source, folder = make_source(bases, name), options.output / name
        train(source, configure(name), folder, options.seconds)
    folders = {name: options.output / name for name in options.only}
    print(*(f"--encoder {name}={folder}" for name, folder in folders.items()))


if __name__ == "__main__":
    main()
