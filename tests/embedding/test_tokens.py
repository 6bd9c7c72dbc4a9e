import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.embedding.tokens import stream_tokens
from brainfeat.exceptions import VolumeError, VolumeNotFoundError
from brainfeat.io.volumes import read_volume
from brainfeat.models import threads as threads_module
from brainfeat.models.pooling import pool_tokens
from brainfeat.subjects.subject import Subject

pytestmark = pytest.mark.usefixtures("without_registration")


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return SubjectEncoder(checkpoint, device="cpu", dtype="float32")


def test_mean_over_the_brain_is_the_embedding(encoder, subjects):
    rows = [outcome.unwrap().vector for outcome in encoder.stream(subjects[:2])]
    for row, outcome in zip(rows, stream_tokens(encoder, subjects[:2]), strict=True):
        found = outcome.unwrap()
        assert found.tokens.shape == (5, 7, 18, 24)
        weights = found.fractions / found.fractions.sum()
        mean = np.einsum("ijk,ijkd->d", weights, found.tokens)
        np.testing.assert_allclose(mean, row, rtol=1e-4, atol=1e-5)


def test_tokens_are_those_of_the_encoder(encoder, subjects):
    (outcome,) = stream_tokens(encoder, subjects[:1])
    found = outcome.unwrap()
    slabs = torch.tensor(encoder.grid.extract(found.processed.data))[None]
    with torch.inference_mode():
        output = encoder.checkpoint.build_encoder()(slabs)
    expected = output.patch_tokens[0].numpy()  # S h w D
    np.testing.assert_allclose(
        found.tokens, np.transpose(expected, (2, 1, 0, 3)), rtol=1e-4, atol=1e-5
    )
    fractions = torch.tensor(np.transpose(found.fractions, (2, 1, 0)))[None]
    pooled = pool_tokens(output, fractions)
    assert np.isfinite(pooled.numpy()).all()


def test_native_grid_is_that_of_the_first_image(encoder, subjects):
    missing = replace(subjects[0], images={**subjects[0].images, "T1w": None})
    (outcome,) = stream_tokens(encoder, [missing])
    expected = read_volume(subjects[0].images["T2w"]).geometry
    assert outcome.unwrap().native.is_close(expected)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_failed_subject_does_not_stop_the_others(encoder, subjects, n_jobs):
    rows = [subjects[0], Subject("gone", {"T1w": "gone_T1w.nii.gz"}), subjects[2]]
    outcomes = list(stream_tokens(encoder, rows, n_jobs=n_jobs))
    assert [outcome.subject for outcome in outcomes] == rows
    assert [outcome.result is None for outcome in outcomes] == [False, True, False]
    with pytest.raises(VolumeNotFoundError, match=r"gone_T1w\.nii\.gz"):
        outcomes[1].unwrap()


def test_stream_can_be_closed_early(encoder, subjects):
    with closing(stream_tokens(encoder, subjects, n_jobs=2)) as outcomes:
        assert next(outcomes).subject is subjects[0]


def test_values_that_are_not_finite_do_not_stop_the_others(checkpoint, subjects):
    state = {name: value.clone() for name, value in checkpoint.state.items()}
    state["absent_embed"][2] = torch.nan  # in place of FLAIR, which the second lacks
    broken = SubjectEncoder(Checkpoint(checkpoint.config, state), device="cpu")
    first, second, third = stream_tokens(broken, subjects[:3])
    assert np.isfinite(first.unwrap().tokens).all()
    assert np.isfinite(third.unwrap().tokens).all()
    with pytest.raises(VolumeError, match=r"sub-01_T1w.*that are not finite"):
        second.unwrap()


def test_subject_too_large_for_memory_fails_alone(encoder, subjects):
    class Cramped(SubjectEncoder):
        def forward(self, slabs, present, fractions):
            if not present.all():
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(slabs, present, fractions)

    cramped = Cramped(encoder.checkpoint, device="cpu")
    found = [outcome.result is None for outcome in stream_tokens(cramped, subjects[:3])]
    assert found == [False, True, False]


def test_subjects_are_encoded_in_parallel(checkpoint, subjects, monkeypatch):
    # Each waits inside the encoder until there are two.
    monkeypatch.setattr(threads_module, "count_threads", lambda *_: 2)
    both = threading.Barrier(2, timeout=30)

    class Meeting(SubjectEncoder):
        def forward(self, slabs, present, fractions):
            both.wait()
            return super().forward(slabs, present, fractions)

    encoder = Meeting(checkpoint, device="cpu")
    outcomes = list(stream_tokens(encoder, subjects[:2]))
    assert [outcome.error for outcome in outcomes] == [None, None]
