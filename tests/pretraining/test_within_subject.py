"""Features in units of how the scans of one subject differ."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import InputError
from brainfeat.models.pooling import pool_tokens, pool_volumes
from brainfeat.models.transfer import adapt_state
from brainfeat.pretraining.encoded_scans import encode_scans
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore
from brainfeat.pretraining.within_subject import normalise_within_subjects

SHAPE = (40, 56, 36)  # of the checkpoint's preprocessing


@pytest.fixture
def make_store(tmp_path):
    """Return a function that stores two scans of each subject."""

    def make(n_subjects):
        rng, scans = np.random.default_rng(5), []
        for number in range(n_subjects):
            anatomy = rng.normal(size=(4, *SHAPE)) + rng.normal()
            for visit in range(2):
                # Another protocol: a field that brightens one side.
                field = visit * 3.0 * rng.normal() * np.linspace(-1, 1, SHAPE[0])
                data = (anatomy + field[:, None, None]).astype(np.float16)
                data[3] = 0.0
                data[3, 4:34, 6 : 30 + number, 2:34] = 1.0
                name = f"{number}-{visit}.npy"
                np.save(tmp_path / name, data)
                scans.append(
                    StoredScan(
                        subject=f"s{number}",
                        file=name,
                        present=(True, False, False),
                        visit="1",
                    )
                )
        StoreIndex(
            modalities=("T1w", "T2w", "FLAIR"), preprocessing={}, scans=tuple(scans)
        ).save(tmp_path)
        return VolumeStore(tmp_path)

    return make


def measure(checkpoint, store):
    """Return mean tokens (subject, scan, D), and the volumes that are read."""
    scans = [*encode_scans(checkpoint, store, store.index.scans)]
    means = [pool_tokens(scan.output, scan.fractions, "mean")[0] for scan in scans]
    read = checkpoint.state["anatomy.weight"], checkpoint.state["anatomy.bias"]
    volumes = [pool_volumes(scan.output, scan.fractions, *read)[0] for scan in scans]
    return torch.stack(means).double().unflatten(0, (-1, 2)), torch.stack(volumes)


@pytest.fixture
def before(checkpoint, make_checkpoint):
    return make_checkpoint(
        encoder=replace(checkpoint.config.encoder, tissues=("csf", "deep_gray"))
    )


def spread_within(means):
    """Return the mean covariance of the two scans of each subject."""
    half = (means[:, 0] - means[:, 1]) / 2**0.5
    return half.T @ half / len(half)


def test_directions_are_divided_by_the_spread_within_subjects(before, make_store):
    store = make_store(12)
    after = normalise_within_subjects(before, store)
    (old, _), (new, _) = measure(before, store), measure(after, store)
    noise = torch.linalg.eigvalsh(spread_within(old))
    left = torch.linalg.eigvalsh(spread_within(new))
    expected = noise / (noise + 0.1 * noise.mean())
    # All are scaled by the same factor.
    torch.testing.assert_close(
        left / left[-1], expected / expected[-1], atol=2e-3, rtol=0
    )
    zero = torch.zeros_like(new[0, 0])
    torch.testing.assert_close(new[:, 0].mean(0), zero, atol=1e-3, rtol=0)
    assert float(new[:, 0].var(0).mean()) == pytest.approx(1.0, abs=0.01)


def test_volumes_stay_through_a_projection_and_without_it(before, make_store):
    store = make_store(9)
    after = normalise_within_subjects(before, store)
    twice = normalise_within_subjects(after, store)
    config = before.config.encoder
    dropped = Checkpoint(
        before.config, adapt_state(after.state, after.config.encoder, config)
    )
    tokens, volumes = measure(before, store)
    for checkpoint in (after, twice, dropped):
        torch.testing.assert_close(
            measure(checkpoint, store)[1], volumes, atol=2e-3, rtol=1e-3
        )
    torch.testing.assert_close(measure(dropped, store)[0], tokens)
    added = adapt_state(before.state, config, after.config.encoder)
    kept = Checkpoint(after.config, added)
    torch.testing.assert_close(measure(kept, store)[0], tokens)


def test_a_spread_needs_repeated_scans(before, make_store):
    with pytest.raises(InputError, match="at least 8 visits with several scans, got 3"):
        normalise_within_subjects(before, make_store(3))
