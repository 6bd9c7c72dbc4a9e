import numpy as np
import pytest
import torch

from brainfeat.exceptions import InputError
from brainfeat.models.encoder import SlabEncoder
from brainfeat.pretraining.probe import make_probe, read_labels
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore


@pytest.fixture
def write(tmp_path):
    """Function that writes a table of labels."""

    def write(text, name="labels.tsv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def store(tmp_path):
    """Store of seven subjects, the first one scanned twice."""
    rng = np.random.default_rng(0)
    names = ["sub-0", *[f"sub-{number}" for number in range(7)]]
    scans = []
    for number, name in enumerate(names):
        array = rng.random((3, 12, 16, 8)).astype(np.float16)
        np.save(tmp_path / f"{number}.npy", array)
        scan = StoredScan(subject=name, file=f"{number}.npy", present=(True, True))
        scans.append(scan)
    index = StoreIndex(
        modalities=("T1w", "FLAIR"), preprocessing={}, scans=tuple(scans)
    )
    index.save(tmp_path)
    return VolumeStore(tmp_path)


def test_two_classes_are_read_in_alphabetical_order(write):
    text = (
        "participant_id\tgroup\nsub-1\tpatient\n2\tcontrol\nsub-3\tn/a\nsub-4\tnull\n"
    )
    assert read_labels(write(text)) == {"1": True, "2": False}
    text = "group\tparticipant_id\na\tsub-1 \nb\t2\na\t1\nc\n"
    assert read_labels(write(text)) == {"1": False, "2": True}
    text = "subject,age,sex\nsub-1,71,M\nsub-2,64,F\n"
    for name in ("a.csv", "A.CSV"):
        assert read_labels(write(text, name), "sex") == {"1": True, "2": False}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a\tb\n1\t2\n", None, "expected a column participant_id .*, got a, b"),
        ("participant_id\ta\tb\n1\t2\t3\n", None, "one of classes, got participant_id"),
        ("participant_id\ta\n1\t2\n", "b", "participant_id and b, got"),
        ("participant_id\ta\n1\t2\n2\t2\n", None, "expected two classes in a, got 1"),
        ("", None, "got none"),
        (
            "subject\tdx\nsub-1\tCN\nsub-2\tAD\n1\tAD\n",
            "dx",
            "one class in dx for 1, got CN and AD",
        ),
    ],
)
def test_errors_name_an_invalid_table(write, text, column, message):
    with pytest.raises(InputError, match=f"labels.tsv: .*{message}"):
        read_labels(write(text), column)


def test_errors_name_a_missing_table(tmp_path):
    with pytest.raises(InputError, match=r"no\.tsv: cannot be read \(No such file"):
        read_labels(tmp_path / "no.tsv")


def test_a_probe_has_the_first_scan_of_each_labelled_subject(
    store, small_config, caplog
):
    caplog.set_level("INFO")
    labels = {"0": True, "2": False, "3": True, "4": False, "6": True, "9": True}
    probe = make_probe(labels, store, plane="axial")
    assert caplog.messages == ["The probe has 2 and 3 subjects of the two classes."]
    assert probe.labels.tolist() == [False, False, True, True, True]
    first = torch.from_numpy(np.load(store.folder / "0.npy")).float()
    assert torch.equal(probe.subjects.volumes[2, 0], first[:2])
    torch.manual_seed(0)
    assert 0 <= probe(SlabEncoder(small_config.encoder).eval()) <= 1


def test_a_class_needs_two_subjects(store):
    labels = {"0": True, "1": True, "2": False, "9": False}
    with pytest.raises(InputError, match=r"two scanned subjects .* got 1 and 2"):
        make_probe(labels, store, plane="axial")
