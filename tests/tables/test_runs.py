import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from brainfeat.checkpoint.origin import Origin
from brainfeat.embedding.stream import Embedding
from brainfeat.exceptions import InputError, VolumeError
from brainfeat.io.hashing import hash_images
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.failures import crash_path, failures_path
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.tables.embedding_table import read_embeddings
from brainfeat.tables.provenance import describe_encoder
from brainfeat.tables.runs import RunOptions, embed_to_table


class FakeEncoder:
    """Embeds a file as numbers of its bytes; b"bad" fails, b"odd" is doubtful."""

    modalities = ("T1w", "FLAIR")
    pooling = "mean"
    pooler = SimpleNamespace(reads_anatomy=False)
    n_features = 5
    precision = "float32"
    checkpoint = SimpleNamespace(
        fingerprint="c0ffee", config=SimpleNamespace(trained=False, origin=Origin())
    )
    preprocessor = SimpleNamespace(fingerprint="facade", to_dict=dict)

    def __init__(self, *, interrupt_at=None):
        self.interrupt_at = interrupt_at
        self.seen = []

    def stream(self, subjects, *, n_jobs, cache, known_sha256):
        assert cache is None
        ahead = []
        for index, subject in enumerate(subjects):
            # Like the real one, it draws a few subjects ahead.
            ahead.append((index, subject))
            if len(ahead) > n_jobs:
                yield self._embed(*ahead.pop(0), known_sha256)
        for item in ahead:
            yield self._embed(*item, known_sha256)

    def _embed(self, index, subject, known_sha256):
        if index == self.interrupt_at:
            raise KeyboardInterrupt
        try:
            input_sha256 = hash_images(subject.images)
            if known_sha256.get(subject.key) == input_sha256:
                return Outcome(subject)
            self.seen.append(subject.image)
            contents = [Path(path).read_bytes() for path in subject.images.values()]
            if b"bad" in contents:
                raise VolumeError(f"{subject.image}: is\nbad.")
        except VolumeError as error:
            return Outcome(subject, error=error)
        seed = np.frombuffer(b"".join(contents), np.uint8)
        vector = np.random.default_rng(seed).normal(size=5).astype(np.float32)
        doubt = "tilted" if b"odd" in contents[0] else ""
        quality = Quality(0.9, 1400.0, doubt)
        return Outcome(subject, Embedding(vector, input_sha256, quality=quality))


@pytest.fixture
def rows(tmp_path):
    found = []
    for index in range(6):
        path = tmp_path / f"sub-{index}_T1w.nii"
        path.write_bytes(b"%d" % index)
        found.append(Subject(participant_id=f"sub-{index}", images={"T1w": str(path)}))
    return found


@pytest.fixture
def output(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "table.parquet"


def _embed(rows, output, encoder=None, **options):
    encoder = encoder or FakeEncoder()
    events = []
    summary = embed_to_table(
        rows,
        output,
        encoder,
        provenance=describe_encoder(encoder, "fake"),
        options=RunOptions(n_jobs=2, **options),
        on_event=events.append,
    )
    return summary, [(e.subject.participant_id, e.status) for e in events], encoder


def _damage(row):
    Path(row.image).write_bytes(b"bad")


def test_every_row_is_embedded_and_reported(rows, output):
    summary, events, _ = _embed(rows, output)
    assert summary[:4] == (6, 0, 0, 6)
    assert summary.output == output
    assert summary.failures is None
    assert events == [(f"sub-{index}", "done") for index in range(6)]
    metadata, embeddings, provenance = read_embeddings(output)
    assert metadata["participant_id"].tolist() == [f"sub-{i}" for i in range(6)]
    assert embeddings.shape == (6, 5)
    assert provenance["checkpoint"] == "fake"
    assert provenance["checkpoint_sha256"] == "c0ffee"


def test_a_second_run_encodes_nothing(rows, output):
    _embed(rows, output)
    summary, events, encoder = _embed(rows, output)
    assert summary[:4] == (0, 6, 0, 0)
    assert {status for _, status in events} == {"skipped"}
    assert encoder.seen == []


def test_a_changed_file_is_encoded_again(rows, output):
    _embed(rows, output)
    Path(rows[2].image).write_bytes(b"changed")
    summary, _, encoder = _embed(rows, output)
    assert summary[:3] == (1, 5, 0)
    assert encoder.seen == [rows[2].image]


def test_failures_are_listed_and_do_not_stop_the_others(rows, output):
    _damage(rows[1])
    rows.insert(3, Subject(participant_id="sub-x", images={"T1w": "/no/such.nii"}))
    summary, events, _ = _embed(rows, output)
    assert summary[:3] == (5, 0, 2)
    assert len(read_embeddings(output)[0]) == 5
    with summary.failures.open(newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert {line["participant_id"]: line["reason"] for line in lines} == {
        "sub-1": "is bad.",
        "sub-x": "no such file.",
    }
    assert sorted(status for _, status in events).count("failed") == 2
    # Once repaired, only they are embedded, and the list is removed.
    for index, name in ((1, rows[1].image), (3, str(output.with_name("x.nii")))):
        Path(name).write_bytes(b"repaired")
        rows[index] = replace(rows[index], images={"T1w": name})
    summary, _, _ = _embed(rows, output)
    assert summary[:3] == (2, 5, 0)
    assert summary.failures is None
    assert not list(output.parent.glob("*.failures.*"))


def _failed(output):
    with failures_path(output).open(newline="") as file:
        return [line["participant_id"] for line in csv.DictReader(file, delimiter="\t")]


def test_runs_of_other_subjects_keep_a_failure(rows, output):
    for index in (1, 3):
        _damage(rows[index])
    _embed(rows[:2], output)
    summary, _, _ = _embed(rows[2:3], output)
    assert summary[:3] == (1, 0, 0)
    assert summary.failures == failures_path(output)
    assert "VolumeError" in crash_path(summary.failures).read_text()
    sibling = output.with_suffix(".csv")
    _embed(rows[2:], sibling)
    assert _failed(output) == ["sub-1", "sub-3"]
    _embed(rows[:2], sibling)  # failed again, and listed once
    assert _failed(output) == ["sub-3", "sub-1"]
    Path(rows[3].image).write_bytes(b"repaired")
    _embed(rows[3:], sibling)
    assert _failed(output) == ["sub-1"]
    assert _embed(rows[2:], output, overwrite=True)[0].failures is None
    assert not list(output.parent.glob("*.failures.*"))


def test_problems_of_the_input_are_listed_with_the_failures(rows, output):
    encoder = FakeEncoder()
    summary = embed_to_table(
        rows,
        output,
        encoder,
        provenance=describe_encoder(encoder, "fake"),
        problems=[
            Outcome(
                Subject("", {}, source="folder"), error=InputError("folder: no images.")
            )
        ],
    )
    assert summary[:3] == (6, 0, 1)
    assert "folder\tno images." in summary.failures.read_text()


def test_stopping_keeps_finished_rows(rows, output):
    _damage(rows[3])
    summary, _, encoder = _embed(rows, output, stop_on_first_error=True)
    # Two more were in progress, and are kept.
    assert summary[:3] == (5, 0, 1)
    assert len(read_embeddings(output)[0]) == len(encoder.seen) - 1 == 5


def test_stopping_also_at_a_missing_file(rows, output):
    rows[1] = Subject(participant_id="sub-x", images={"T1w": "/no/such.nii"})
    summary, _, _ = _embed(rows, output, stop_on_first_error=True)
    assert summary[:3] == (3, 0, 1)


def test_no_row_is_no_table(rows, output):
    _damage(rows[0])
    summary, _, _ = _embed(rows[:1], output)
    assert summary[:3] == (0, 0, 1)
    assert summary.output is None
    names = sorted(path.name for path in output.parent.iterdir())
    assert names == ["table.failures.tsv", "table.failures.txt"]
    crash = (output.parent / names[1]).read_text()
    assert crash.startswith(f"sub-0  {rows[0].image}: is bad.")
    assert "VolumeError" in crash


def test_an_interrupted_run_resumes_to_the_same_bytes(rows, output):
    _embed(rows, output)
    whole = output.read_bytes()
    output.unlink()
    with pytest.raises(KeyboardInterrupt):
        _embed(rows, output, FakeEncoder(interrupt_at=4))
    assert not output.exists()
    summary, _, _ = _embed(rows, output)
    assert summary[:3] == (2, 4, 0)
    assert output.read_bytes() == whole


def test_overwriting_encodes_all_rows_again(rows, output):
    _embed(rows, output)
    summary, _, _ = _embed(rows[:4], output, overwrite=True)
    assert summary[:3] == (4, 0, 0)
    assert len(read_embeddings(output)[0]) == 4


def _strict(rows, output, **options):
    summary, _, encoder = _embed(rows, output, strict=True, **options)
    return summary, encoder.seen


def test_strict_runs_fail_rows_in_doubt(rows, output):
    Path(rows[2].image).write_bytes(b"odd 2")
    summary, _ = _strict(rows, output)
    assert summary[:3] == (5, 0, 1)
    with failures_path(output).open(newline="") as file:
        (line,) = csv.DictReader(file, delimiter="\t")
    assert line == {
        "participant_id": "sub-2",
        "file": rows[2].image,
        "reason": "in doubt: tilted",
    }
    assert not crash_path(failures_path(output)).exists()  # nothing was raised
    assert "sub-2" not in read_embeddings(output)[0]["participant_id"].tolist()


def test_rows_in_doubt_are_kept_and_counted_once(rows, output, caplog):
    for index in (1, 3, 4, 5):
        Path(rows[index].image).write_bytes(b"odd %d" % index)
    summary, _, _ = _embed(rows, output)
    assert summary[:3] == (6, 0, 0)
    doubts = read_embeddings(output)[0]["qc_doubt"].tolist()
    assert doubts == ["", "tilted", "", "tilted", "tilted", "tilted"]
    (message,) = caplog.messages
    assert message.startswith("4 subjects in doubt (column qc_doubt; --strict")
    assert message.count("tilted") == 3


def test_a_strict_run_drops_rows_in_doubt_until_they_are_mended(rows, output):
    Path(rows[2].image).write_bytes(b"odd 2")
    _embed(rows, output)
    summary, seen = _strict(rows, output)
    assert summary[:3] == (0, 5, 1)
    assert seen == [rows[2].image]  # only it is embedded again
    assert len(read_embeddings(output)[1]) == 5
    Path(rows[2].image).write_bytes(b"2")
    summary, _ = _strict(rows, output)
    assert summary[:3] == (1, 5, 0)
    assert len(read_embeddings(output)[1]) == 6
    assert not failures_path(output).exists()


def test_a_strict_run_of_doubts_alone_leaves_no_table(rows, output):
    Path(rows[2].image).write_bytes(b"odd 2")
    assert _embed(rows[2:3], output)[0].output == output
    summary, _ = _strict(rows[2:3], output)
    assert summary.output is None
    assert not output.exists()
