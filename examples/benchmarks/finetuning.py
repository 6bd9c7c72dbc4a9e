"""Compare fine-tuning with its linear probe and a network trained from scratch.

A classifier of patients against controls is trained on 10 to 160 labelled people of
`drawn_people.py` and tested on all others:

- `BrainFoundClassifier` as it is by default, whose steps are chosen by people that are
  held out of the labelled ones;
- the linear probe that it starts from: logistic regression on the mean token, with the
  penalty of the least held-out loss;
- the same with scikit-learn's penalty;
- the 3D network of `supervised_cnn.py`, trained from scratch.

    python examples/benchmarks/finetuning.py WORK_FOLDER
    python examples/benchmarks/finetuning.py WORK_FOLDER --labels 40 --repeats 3

People are drawn and encoded once, and each cell of the table is kept: the same command
resumes.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from drawn_people import DrawnPeople, Person
from few_labels import CLASSIFIER, draw_splits
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from torch import Generator
from torch.nn import functional as F

from brainfeat import BrainFoundClassifier
from brainfeat.checkpoint.sharing import shared_checkpoint
from brainfeat.finetuning.adapters import merge_updates
from brainfeat.finetuning.fitting import finetune, pool_features
from brainfeat.finetuning.network import FinetuningNetwork, FrozenTrunk, View
from brainfeat.finetuning.plan import FinetuningPlan
from brainfeat.finetuning.probe import fit_probe
from brainfeat.finetuning.reading import SubjectReader
from brainfeat.finetuning.targets import ClassTargets
from brainfeat.finetuning.training import TrainingData, score_views

LABELS = (10, 20, 40, 80, 160)
METHODS = ("fine-tuned", "linear probe", "probe, fixed penalty", "3D CNN")
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("work_folder", type=Path, help="cache of people, tokens and cells")
    add("--checkpoint", default="brainfound-tiny")
    add("--labels", type=int, nargs="+", default=LABELS)
    add("--repeats", type=int, default=3, help="random splits by person")
    add("--subjects", type=int, default=240)
    add("--seed", type=int, default=7, help="of the cohort")
    add("--set", nargs="*", default=[], metavar="NAME=JSON", help="parameters")
    add("--no-cnn", action="store_true", help="leave the 3D CNN out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pairs = (text.partition("=")[::2] for text in options.set)
    changes = {name: json.loads(value) for name, value in pairs}
    people = DrawnPeople(options.work_folder, options.subjects, options.seed)
    cohort = EncodedPeople(people, options.checkpoint, changes)
    table = {
        n_labels: [
            cohort.run_cell(n_labels, repeat, train, test, with_cnn=not options.no_cnn)
            for repeat, (train, test) in enumerate(
                draw_splits(cohort.diagnosis, n_labels, options.repeats)
            )
        ]
        for n_labels in options.labels
    }
    print_table(table)


@dataclass(frozen=True, eq=False)
class EncodedPeople:
    """The people of a cohort, before the trained blocks."""

    people: DrawnPeople
    checkpoint: str
    changes: dict[str, Any]  # of the parameters of the classifier

    @cached_property
    def _listed(self) -> list[Person]:
        return list(self.people)

    @cached_property
    def diagnosis(self) -> NDArray[np.int64]:
        """1 for patients, 0 for controls."""
        return np.array([person.diagnosis for person in self._listed])

    @cached_property
    def reader(self) -> SubjectReader:
        """The checkpoint, which cuts volumes."""
        return SubjectReader(shared_checkpoint(self.checkpoint))

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder."""
        return self.reader.checkpoint.build_encoder().requires_grad_(False)

    @cached_property
    def plan(self) -> FinetuningPlan:
        """The defaults of the classifier, changed."""
        model = BrainFoundClassifier(random_state=0).set_params(**self.changes)
        return FinetuningPlan.from_parameters(model.get_params(), self.encoder.config)

    @cached_property
    def views(self) -> list[list[View]]:
        """Tokens of each person and of changed copies, kept in the folder."""
        first = self.plan.first_block(self.encoder.config.depth)
        if first is None:
            raise SystemExit("adapt='all' keeps no tokens: use 'lora' or 'last'.")
        digest = self.reader.checkpoint.fingerprint[:8]
        folder = self.people.folder / f"tokens_{digest}_{first}_{self.people.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        trunk = FrozenTrunk(self.encoder, first, CPU)
        return [
            [
                self._view(trunk, person, folder / f"{number:04d}_{copy}.npz", copy)
                for copy in range(self.plan.n_views + 1)
            ]
            for number, person in enumerate(self._listed)
        ]

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """Mean tokens of the frozen encoder: (N, views, D)."""
        first = self.plan.first_block(self.encoder.config.depth)
        return pool_features(
            self.encoder, self.views, FrozenTrunk(self.encoder, first, CPU)
        )

    @cached_property
    def scans(self) -> torch.Tensor:
        """Scans at half their resolution, for the CNN: (N, 1, I, J, K)."""
        volumes = [
            F.avg_pool3d(torch.from_numpy(p.volume * p.foreground).float()[None], 2)
            for p in self._listed
        ]
        return torch.stack(volumes)

    def run_cell(
        self,
        n_labels: int,
        repeat: int,
        train: NDArray[np.int64],
        test: NDArray[np.int64],
        *,
        with_cnn: bool,
    ) -> dict[str, float]:
        """Return the AUC of each method on one split, from the folder if it is kept."""
        changed = "".join(f"_{name}={v}" for name, v in sorted(self.changes.items()))
        name = f"{self.people.seed}_{len(self.diagnosis)}_{n_labels}_{repeat}{changed}"
        path = self.people.folder / "cells" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        cell = json.loads(path.read_text()) if path.exists() else {}
        if "fine-tuned" not in cell:
            cell |= self._measure(train, test)
            path.write_text(json.dumps(cell))
        if with_cnn and "3D CNN" not in cell:
            cell["3D CNN"] = self._measure_cnn(train, test)
            path.write_text(json.dumps(cell))
        shown = ", ".join(f"{key} {value:.3f}" for key, value in cell.items())
        print(f"{n_labels} labels, split {repeat}: {shown}", flush=True)
        return cell

    def _measure(
        self, train: NDArray[np.int64], test: NDArray[np.int64]
    ) -> dict[str, float]:
        views, rows = self.views, self.features[:, 0]
        y, start = self.diagnosis, time.perf_counter()
        targets = ClassTargets(y[train], np.ones(len(train)), 2)
        alone = np.arange(len(train))
        data = TrainingData(
            [views[i] for i in train], targets, alone, self.features[train]
        )
        fitted = finetune(self.encoder, data, self.plan, CPU)
        encoder = self.reader.checkpoint.build_encoder().requires_grad_(False)
        state = merge_updates(self.reader.checkpoint.state, fitted.updates)
        encoder.load_state_dict(state)
        first = self.plan.first_block(encoder.config.depth)
        network = FinetuningNetwork(encoder, fitted.head, first)
        scores = score_views(network, [views[i][0] for i in test]).numpy()
        seconds = time.perf_counter() - start
        probe = fit_probe(rows[train], targets, alone, seed=self.plan.seed)
        fixed = clone(CLASSIFIER).fit(rows[train], y[train])
        return {
            "fine-tuned": _area(y[test], scores),
            "linear probe": _area(y[test], probe.score(rows[test])),
            "probe, fixed penalty": float(
                roc_auc_score(y[test], fixed.decision_function(rows[test]))
            ),
            "steps": fitted.n_steps,
            "seconds": seconds,
        }

    def _measure_cnn(self, train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
        from supervised_cnn import CnnConfig, train_and_predict

        y = self.diagnosis
        (found,) = train_and_predict(
            self.scans[train], y[train], [self.scans[test]], CnnConfig()
        )
        return float(roc_auc_score(y[test], found))

    def _view(self, trunk: FrozenTrunk, person: Person, path: Path, copy: int) -> View:
        """Encode a person or a changed copy, or read the tokens that were kept."""
        modalities = self.reader.checkpoint.config.encoder.modalities
        data = np.zeros((len(modalities), *person.volume.shape), np.float32)
        data[modalities.index("T1w")] = person.volume
        present = np.array([name == "T1w" for name in modalities])
        subject = SimpleNamespace(
            data=data, foreground=person.foreground, present=present
        )
        if not path.exists():
            generator = Generator().manual_seed(int(path.name[:4]) * 100 + copy)
            one = (
                self.reader.augment(subject, generator)
                if copy
                else self.reader.input_of(subject)
            )
            view = trunk.encode(*one)
            np.savez(path, x=view.state.x.numpy(), fractions=one.fractions.numpy())
            return view
        with np.load(path) as kept:
            x, fractions = (
                torch.from_numpy(kept["x"]),
                torch.from_numpy(kept["fractions"]),
            )
        # The layout of the tokens depends on the foreground alone.
        inputs = self.reader.input_of(subject)
        state = self.encoder.forward_until(
            torch.zeros_like(inputs.inputs),
            0,
            present=inputs.present,
            foreground=fractions > 0,
        )
        return View(state._replace(x=x), fractions)


def _area(truth: NDArray[np.int64], scores: NDArray[Any]) -> float:
    return float(roc_auc_score(truth, scores[:, 1] - scores[:, 0]))


def print_table(table: dict[int, list[dict[str, float]]]) -> None:
    """Print means and standard errors over splits, and paired differences."""
    first = next(iter(table.values()))[0]
    methods = [name for name in METHODS if name in first]
    print("\n| labels | " + " | ".join(methods) + " | gain over the probe | steps |")
    print("|---" * (len(methods) + 3) + "|")
    for n_labels, cells in table.items():
        columns = [_summarise([cell[name] for cell in cells]) for name in methods]
        gains = [cell["fine-tuned"] - cell["linear probe"] for cell in cells]
        steps = ", ".join(f"{cell['steps']:.0f}" for cell in cells)
        row = [str(n_labels), *columns, _summarise(gains, sign="+"), steps]
        print("| " + " | ".join(row) + " |")


def _summarise(values: Sequence[float], sign: str = "") -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):{sign}.3f} ± {error:.3f}"


if __name__ == "__main__":
    main()
