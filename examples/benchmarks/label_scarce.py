"""Compare encoders with other methods on few labelled subjects.

On a simulated cohort of an anatomy that is not in the training data (see
`development_cohort.py`), a classifier of patients against controls is trained on 10 to
80 labelled subjects and tested on all others. The methods are logistic regression on
the embeddings of each checkpoint (mean token, and anatomy), of the same network
untrained, and on principal components of registered voxels, which are those of the
labelled scans or of all scans without their labels; a 3D network trained on the same
labels, with `--cnn-settings` in five settings, of which the best is read from the
table; and, as the ceiling, logistic regression on the true volumes of the structures
that the disease changes.

    python examples/benchmarks/label_scarce.py WORK_FOLDER --json results.json
    python examples/benchmarks/label_scarce.py WORK_FOLDER --checkpoint FOLDER
    python examples/benchmarks/label_scarce.py WORK_FOLDER --encoder mine=FOLDER:cls
    python examples/benchmarks/label_scarce.py --json results.json --card

Slow results are cached in WORK_FOLDER: another encoder only costs its embeddings.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from cohort_features import VOXEL_PREPROCESSOR, Encoder, read_voxels
from development_cohort import MODALITIES, Contrast, DevelopmentCohort
from few_labels import LinearMethod, Method, compare_scanners, learn_and_test
from numpy.typing import NDArray
from result_tables import print_results
from sklearn.decomposition import PCA

from brainfeat import Preprocessor
from brainfeat.simulation.scanner import SCANNERS

BUNDLED = "brainfound-tiny"
SECTIONS = ("few_labels", "across_contrasts", "reliability")
LABELS = (10, 20, 40, 80)
CONTRASTS: tuple[Contrast, ...] = (("T1w",), MODALITIES)
TRAINED_AND_TESTED = {"T1w": ("T2w", "FLAIR"), "FLAIR": ("T1w",)}
LABELS_ACROSS = 40
N_VOXEL_SCORES = 32


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.card:
        print_results(json.loads(options.json.read_text()))
        return
    results = measure(options)
    print_results(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("work_folder", type=Path, nargs="?", help="cache of scans, volumes and rows")
    add("--encoder", action="append", default=[], metavar="NAME=CHECKPOINT[:POOLING]")
    add("--checkpoint", nargs="+", default=[BUNDLED], metavar="[NAME=]CHECKPOINT")
    add("--splits", type=int, default=20, help="random splits by subject")
    add("--subjects", type=int, default=240, help="size of the cohort")
    add("--labels", type=int, nargs="+", default=LABELS, help="labelled subjects")
    add("--travellers", type=int, default=30, help="subjects on every scanner")
    add("--cnn-steps", type=int, help="training steps of the CNN")
    add("--cnn-settings", action="store_true", help="train the CNN in others, too")
    add("--jobs", type=int, default=1, help="processes for preprocessing")
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    add("--json", type=Path, metavar="FILE", help="results")
    add("--card", action="store_true", help="only print the tables of --json")
    options = parser.parse_args(arguments)
    if options.card and not options.json:
        parser.error("--card needs --json FILE")
    if not options.card and not options.work_folder:
        parser.error("WORK_FOLDER is missing")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    cohort = DevelopmentCohort(options.work_folder, options.subjects, options.jobs)
    encoders = list_encoders(options.checkpoint, options.encoder)
    with timed("simulation", seconds):
        results = describe(cohort, encoders, options.splits)
    with timed("preprocessing", seconds):
        prepare_volumes(cohort, encoders)
    methods = make_methods(cohort, encoders, options)
    if "few_labels" in options.only:
        ceiling = ceiling_method(cohort)
        results["few_labels"] = measure_few_labels(
            [ceiling, *methods], cohort, options, seconds
        )
    if "across_contrasts" in options.only:
        results["across_contrasts"] = measure_across(methods, cohort, options, seconds)
    if "reliability" in options.only:
        with timed("reliability", seconds):
            results["reliability"] = measure_reliability(
                cohort, encoders, options.travellers
            )
    return results | {"seconds": seconds}


def list_encoders(checkpoints: Sequence[str], others: Sequence[str]) -> list[Encoder]:
    """Return each checkpoint by its mean token and its anatomy, and one untrained."""
    encoders = []
    for text in checkpoints:
        name, _, source = text.rpartition("=")
        name = name or Path(source).name
        encoders.append(Encoder.parse(f"{name}={source}:mean"))
        if getattr(encoders[-1].checkpoint.config.encoder, "tissues", ()):
            encoders.append(Encoder.parse(f"{name}, anatomy={source}:anatomy"))
    encoders += [Encoder.parse(text) for text in others]
    return [*encoders, encoders[0].untrained()]


def describe(
    cohort: DevelopmentCohort, encoders: Sequence[Encoder], n_splits: int
) -> dict[str, Any]:
    return {
        "cohort": {
            "n_subjects": len(cohort.diagnosis),
            "n_diseased": int(cohort.diagnosis.sum()),
            "n_splits": n_splits,
        },
        "encoders": {
            encoder.name: {
                "checkpoint": encoder.checkpoint.fingerprint,
                "pooling": encoder.pooling,
            }
            for encoder in encoders
        },
    }


def prepare_volumes(cohort: DevelopmentCohort, encoders: Sequence[Encoder]) -> None:
    """Preprocess first, so that the times of the methods exclude it."""
    for name in MODALITIES:
        cohort.store((name,), VOXEL_PREPROCESSOR)
        cohort.store((name,), Preprocessor())  # for the 3D CNN
        for encoder in encoders:
            if encoder.accepts((name,)):
                cohort.store((name,), encoder.preprocessor)


def make_methods(
    cohort: DevelopmentCohort, encoders: Sequence[Encoder], options: argparse.Namespace
) -> list[Method]:
    methods: list[Method] = [encoder_method(cohort, encoder) for encoder in encoders]
    methods += voxel_methods(cohort)
    if importlib.util.find_spec("monai") is None:
        print("Skipping the 3D CNN, which needs monai (pip install 'monai>=1.5').")
        return methods
    from supervised_cnn import OTHER_SETTINGS, CnnConfig, SupervisedCnn

    cnn_steps = options.cnn_steps
    config = CnnConfig() if cnn_steps is None else CnnConfig(n_steps=cnn_steps)
    methods.append(SupervisedCnn(cohort, config))
    if options.cnn_settings:
        settings = OTHER_SETTINGS.items()
        methods += [SupervisedCnn(cohort, other, name) for name, other in settings]
    return methods


def encoder_method(cohort: DevelopmentCohort, encoder: Encoder) -> LinearMethod:
    @lru_cache
    def rows(contrast: Contrast) -> NDArray[Any]:
        store = cohort.store(contrast, encoder.preprocessor)
        return encoder.cached_embed(store, contrast, cohort.folder / "embeddings")

    return LinearMethod(encoder.name, cohort.diagnosis, rows, encoder.accepts)


def voxel_methods(cohort: DevelopmentCohort) -> list[LinearMethod]:
    @lru_cache  # under 1 GB for all contrasts
    def rows(contrast: Contrast) -> NDArray[Any]:
        return read_voxels(cohort.store(contrast, VOXEL_PREPROCESSOR), contrast)

    make = partial(
        LinearMethod, diagnosis=cohort.diagnosis, rows=rows, accepts=lambda _: True
    )
    return [
        make("registered voxels, PCA", n_components=0.95),
        make("voxels, PCA of all scans", n_components=N_VOXEL_SCORES, unlabelled=True),
    ]


def ceiling_method(cohort: DevelopmentCohort) -> LinearMethod:
    return LinearMethod(
        "ceiling: true volumes",
        cohort.diagnosis,
        lru_cache(lambda _: cohort.true_fractions()),
        lambda _: True,
    )


def measure_few_labels(
    methods: Sequence[Method],
    cohort: DevelopmentCohort,
    options: argparse.Namespace,
    seconds: dict[str, float],
) -> dict[str, Any]:
    section: dict[str, Any] = {}
    for contrast in CONTRASTS:
        scores = section.setdefault("+".join(contrast), {})
        for method in methods:
            if not method.accepts(contrast):
                continue
            with timed(f"{method.name}, {'+'.join(contrast)}", seconds):
                scores[method.name] = {
                    str(n_labels): learn_and_test(
                        method,
                        cohort.diagnosis,
                        contrast,
                        [contrast],
                        n_labels=n_labels,
                        n_splits=options.splits,
                    )[0]
                    for n_labels in options.labels
                }
    return section


def measure_across(
    methods: Sequence[Method],
    cohort: DevelopmentCohort,
    options: argparse.Namespace,
    seconds: dict[str, float],
) -> dict[str, Any]:
    n_labels = min(LABELS_ACROSS, max(options.labels))
    section: dict[str, Any] = {}
    for trained, others in TRAINED_AND_TESTED.items():
        tested = [(name,) for name in (trained, *others)]
        for method in methods:
            if not all(map(method.accepts, tested)):
                continue
            with timed(f"{method.name}, from {trained}", seconds):
                within, *across = learn_and_test(
                    method,
                    cohort.diagnosis,
                    (trained,),
                    tested,
                    n_labels=n_labels,
                    n_splits=options.splits,
                )
            for other, result in zip(others, across, strict=True):
                section.setdefault(f"{trained} to {other}", {})[method.name] = {
                    "n_labels": n_labels,
                    "within": within["auc"],
                    "across": result["auc"],
                    "drop": result["auc_drop"],
                }
    return section


def measure_reliability(
    cohort: DevelopmentCohort, encoders: Sequence[Encoder], n_subjects: int
) -> dict[str, Any]:
    contrast, folder = ("T1w",), cohort.folder / "embeddings"
    rows = {}
    for encoder in encoders:
        if encoder.accepts(contrast):
            store = cohort.travellers(encoder.preprocessor, n_subjects)
            rows[encoder.name] = encoder.cached_embed(store, contrast, folder)
    voxels = read_voxels(cohort.store(contrast, VOXEL_PREPROCESSOR), contrast)
    pca = PCA(min(N_VOXEL_SCORES, len(voxels) - 1), svd_solver="full").fit(voxels)
    store = cohort.travellers(VOXEL_PREPROCESSOR, n_subjects)
    rows["registered voxels, PCA"] = pca.transform(read_voxels(store, contrast))
    methods = {
        name: compare_scanners(table, len(SCANNERS)) for name, table in rows.items()
    }
    return {"n_subjects": n_subjects, "methods": methods}


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


if __name__ == "__main__":
    main()
