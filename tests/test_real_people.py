"""The statistics of the benchmark on real people are what they say."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from brainfeat import BrainFoundEmbedder, Geometry, Volume, write_volume
from brainfeat.evaluation import evaluate_probe

FOLDER = Path(__file__).parent.parent / "examples" / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def test_a_change_is_measured_in_differences_between_people():
    from people_statistics import median_between, relative_changes

    # In a plane, people lie 0, 60 and 90 degrees from the first axis.
    angles = np.deg2rad([0.0, 60.0, 90.0])
    people = np.column_stack([np.cos(angles), np.sin(angles)])
    between = median_between(people)
    assert between == pytest.approx(0.5)  # of 1 - cos 30, 1 - cos 60 and 1 - cos 90
    changed = 7.0 * people[[1, 1, 0]]
    found = relative_changes(people, changed, between)
    np.testing.assert_allclose(found, [1.0, 0.0, 2.0], atol=1e-12)


def test_a_scan_is_found_among_candidates_in_any_order():
    from people_statistics import count_found

    rng = np.random.default_rng(0)
    people = rng.normal(size=(9, 33))
    order = rng.permutation(9)
    queries = 3.0 * people + 0.01 * rng.normal(size=people.shape)
    assert count_found(queries, people[order], np.argsort(order)) == 9
    assert count_found(queries, people[order], np.roll(np.argsort(order), 1)) == 0


def test_agreement_tells_order_scale_and_size():
    from people_statistics import measure_agreement

    rng = np.random.default_rng(0)
    truth = rng.uniform(3.0, 5.0, 40)
    exact = measure_agreement(0.5 * truth + 1.0, truth)
    assert exact.spearman == pytest.approx((1.0, 1.0, 1.0))
    assert exact.slope == pytest.approx((0.5, 0.5, 0.5))
    noisy = truth + rng.normal(size=40)
    found = measure_agreement(noisy, truth)
    assert found.spearman.value == pytest.approx(spearmanr(noisy, truth).statistic)
    assert found.slope.value == pytest.approx(np.polyfit(truth, noisy, 1)[0])
    assert found.ratio == pytest.approx(np.median(noisy / truth))
    for interval in found[:2]:
        assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("kind", ["muse", "freesurfer"])
def test_codes_of_sides_and_lobes_do_not_overlap(kind):
    import people_structures

    codes = getattr(people_structures, f"{kind}_codes")()
    sided = [name for name in codes if name.endswith(("_left", "_right"))]
    small = [name for name in sided if name not in {"cortex_left", "cortex_right"}]
    members = [code for name in small for code in codes[name]]
    assert len(members) == len({*members})
    for side in ("left", "right"):
        lobes = [name for name in small if name.endswith(f"_cortex_{side}")]
        assert len(lobes) == 6
        undivided = {"muse": set(), "freesurfer": {3, 42}}[kind]
        divided = {code for name in lobes for code in codes[name]}
        assert codes[f"cortex_{side}"] - undivided == divided
    assert codes["hippocampus"] < codes["medial_temporal"]
    assert "" not in codes


def test_volumes_of_a_label_map_are_counted_in_ml(tmp_path):
    from people_structures import confuses_sides, true_volumes

    data = np.zeros((7, 8, 9), dtype=np.int16)
    data[:2, :3, 0], data[3, :5, 1], data[5, 0, :4] = 48, 47, 106
    geometry = Geometry(data.shape, np.diag([2.0, -3.0, 4.0, 1.0]))
    write_volume(Volume(data, geometry), tmp_path / "labels.nii.gz")
    found = true_volumes(tmp_path / "labels.nii.gz")
    voxel = 24.0 / 1e3
    assert found["hippocampus_left"] == pytest.approx(6 * voxel)
    assert found["hippocampus"] == pytest.approx(11 * voxel)
    assert found["parietal_cortex"] == found["cortex_right"] == pytest.approx(4 * voxel)
    assert found["caudate"] == 0.0
    assert confuses_sides(found)  # all of the cortex is on the right
    assert not confuses_sides(found | {"cortex_left": 0.9 * found["cortex_right"]})


def test_changed_voxels_are_means_of_boxes(tmp_path):
    from head_scans import Scan
    from people_changes import can_change, change_head
    from people_scans import Person

    rng = np.random.default_rng(0)
    data = rng.uniform(0.0, 9.0, (12, 9, 15)).astype(np.float32)
    geometry = Geometry(data.shape, np.diag([1.0, 1.0, 1.0, 1.0]))
    path = tmp_path / "head_T1w.nii.gz"
    write_volume(Volume(data, geometry), path)
    scan = Scan(path, path.name, "T1w", "head", None)
    person = Person("a", {"T1w": scan}, None, None, "", is_unseen=True)
    cubes = change_head(person, "3 mm voxels", None)
    assert cubes.geometry.spacing == pytest.approx((3.0, 3.0, 3.0))
    blocks = data.reshape(4, 3, 3, 3, 5, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(cubes.data, blocks, rtol=1e-5)
    slices = change_head(person, "5 mm axial slices", None)
    expected = data.reshape(12, 9, 3, 5).mean(axis=3)
    np.testing.assert_allclose(slices.data, expected, rtol=1e-5)
    assert can_change((1.0, 1.3, 1.3), "2 mm voxels")
    assert not can_change((2.0, 2.0, 2.0), "2 mm voxels")
    assert not can_change((0.9, 0.9, 3.0), "5 mm axial slices")


def test_the_probe_is_that_of_the_library():
    from people_probes import LinearProbe, Question, score_probes

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(36, 5))
    age = 50.0 + 9.0 * rows[:, 0] + rng.normal(size=36)
    sex = np.where(rows[:, 1] + 0.6 * rng.normal(size=36) > 0, "F", "M")
    questions = Question.ask(age, ("MAE", "r")), Question.ask(sex, ("AUC",))
    everyone = np.ones(36, dtype=bool)
    probe = LinearProbe("rows", rows, n_repeats=2)
    (cells,) = score_probes([probe], questions, [everyone])
    numbers = evaluate_probe(rows, age, n_repeats=2, n_permutations=1)
    classes = evaluate_probe(rows, sex, n_repeats=2, n_permutations=1)
    expected = numbers.mae.value, numbers.r.value, classes.auc.value
    for cell, value in zip(cells[1:], expected, strict=True):
        found, low, high = map(
            float, cell.replace("[", "").strip("]").replace(",", "").split()
        )
        assert found == pytest.approx(value, abs=0.006)
        assert low <= found <= high


def test_components_are_fitted_without_the_test_rows():
    from people_probes import ComponentProbe, Question

    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 300)), rng.normal(size=40)
    fold = np.arange(30), np.arange(30, 40)
    question = Question.ask(labels, ("MAE",))
    first = ComponentProbe("rows", rows).predict(question, fold).decided
    rows[35:] *= 100.0
    second = ComponentProbe("rows", rows).predict(question, fold).decided
    np.testing.assert_allclose(first[:5], second[:5])
    assert not np.allclose(first[5:], second[5:])


def test_components_are_those_of_scikit_learn():
    from people_probes import project
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(0).normal(size=(17, 90)) + 3.0
    train, test = np.arange(12), np.arange(12, 17)
    pca = PCA(5).fit(rows[train])
    found = project(rows @ rows.T, train, test)
    for mine, part in zip(found, (train, test), strict=True):
        theirs = pca.transform(rows[part])
        np.testing.assert_allclose(np.abs(mine[:, :5]), np.abs(theirs), atol=1e-8)


def test_every_third_person_of_ixi_was_not_trained_on():
    from people_scans import find_unseen

    files = [f"ixi/ixi{number:03d}_T1w2mm.nii.gz" for number in range(125)]
    found = find_unseen([*files, "mne/mne_ecog_T1w.mgz", "single/pumi_T1w.nii.gz"])
    assert found == {*files[1:119:3], "mne/mne_ecog_T1w.mgz"}


@pytest.mark.slow
def test_rows_are_those_of_the_embedder(tmp_path, small_brain):
    from head_scans import Scan
    from people_cache import Item, PeopleEncoder, ScanCache
    from people_scans import Person

    from brainfeat import Checkpoint

    path = tmp_path / "a_T2w.nii.gz"
    write_volume(small_brain, path)
    scan = Scan(path, path.name, "T2w", "stripped", None)
    person = Person("a", {"T2w": scan}, None, None, "", is_unseen=True)
    encoder = PeopleEncoder("tiny", Checkpoint.load("brainfound-tiny"), "float32")
    cache = ScanCache(tmp_path / "cache", encoder.preprocessor)
    paths = cache.prepare([Item(person, "T2w")])
    features = encoder.embed(paths, cache.folder)
    anatomy = features.shares(len(encoder.tissues))
    rows = {"mean": features.mean, "anatomy": anatomy, "anatomy_ml": features.ml}
    for pooling, row in rows.items():
        embedder = BrainFoundEmbedder(pooling=pooling, dtype="float32", modality="T2w")
        expected = embedder.fit_transform([path])
        atol = 1e-3 * np.abs(expected).max()  # scans are kept in half precision
        np.testing.assert_allclose(row, expected, atol=atol)


@pytest.mark.slow
def test_people_are_measured_and_written_into_a_card(tmp_path, small_brain, capsys):
    import real_people

    rng = np.random.default_rng(0)
    rows = ["file\tmodality\tsubject\tage\tsex\tlabel_map\tbrain"]
    for number in range(3):
        person = f"p{number}"
        bright = small_brain.data * rng.uniform(0.8, 1.2, small_brain.data.shape)
        dark = np.where(bright > 0, 1.1 * bright.max() - bright, 0.0)
        labels = np.where(bright > (40 + number) / 100 * bright.max(), 81, 0)
        for modality, data in (("T1w", bright), ("T2w", dark), ("labels", labels)):
            kind = np.int16 if modality == "labels" else np.float32
            volume = Volume(data.astype(kind), small_brain.geometry)
            write_volume(volume, tmp_path / f"{person}_{modality}.nii.gz")
        for modality, label_map in (("T1w", f"{person}_labels.nii.gz"), ("T2w", "")):
            name = f"{person}_{modality}.nii.gz"
            cells = name, modality, person, "40", "F", label_map, "stripped"
            rows.append("\t".join(cells))
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    card = tmp_path / "README.md"
    card.write_text("before\n{}\nold\n{}\nafter\n".format(*real_people.MARKS))
    cache = "--cache", str(tmp_path / "cache"), "--card", str(card)
    real_people.main([str(tmp_path), *cache, "--all-unseen"])
    printed, written = capsys.readouterr().out, card.read_text()
    assert "3 people, 3 of whom were not trained on" in printed
    assert "6 of 6 scans, 6 preprocessed now" in printed
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    for row in ("| T1w by T2w, of 3 |", "| white_matter ", "effective rank"):
        assert row in printed
        assert row in written
    assert "standardised" in printed
    assert "standardised" not in written
    real_people.main([str(tmp_path), *cache, "--only", "retrieval"])
    assert "6 of 6 scans, 0 preprocessed now" in capsys.readouterr().out
