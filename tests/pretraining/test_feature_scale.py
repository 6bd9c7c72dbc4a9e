"""Features of unit spread between people."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.exceptions import InputError
from brainfeat.models.pooling import pool_tokens, pool_volumes
from brainfeat.pretraining.feature_scale import standardise_features
from brainfeat.pretraining.first_scans import encode_first_scans
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore

SHAPE = (40, 56, 36)  # of the checkpoint's preprocessing


@pytest.fixture
def make_store(tmp_path):
    def make(n_subjects):
        rng = np.random.default_rng(5)
        scans = []
        for number in range(n_subjects):
            data = rng.normal(size=(4, *SHAPE)).astype(np.float16)
            data[0] += rng.normal()
            data[3] = 0.0
            data[3, 4:34, 6 : 30 + number, 2:34] = 1.0
            np.save(tmp_path / f"{number}.npy", data)
            scans.append(
                StoredScan(
                    subject=f"s{number}",
                    file=f"{number}.npy",
                    present=(True, False, False),
                )
            )
        StoreIndex(
            modalities=("T1w", "T2w", "FLAIR"), preprocessing={}, scans=tuple(scans)
        ).save(tmp_path)
        return VolumeStore(tmp_path)

    return make


def test_features_get_unit_spread_and_volumes_stay(
    checkpoint, make_checkpoint, make_store
):
    store = make_store(9)
    reading = replace(checkpoint.config.encoder, tissues=("csf", "deep_gray"))
    before = make_checkpoint(encoder=reading)
    after = standardise_features(before, store)
    means, volumes = [], []
    for one in (before, after):
        scans = [*encode_first_scans(one, store, [*store.subjects])]
        pooled = [pool_tokens(s.output, s.fractions, "mean")[0] for s in scans]
        means.append(torch.stack(pooled).numpy())
        read = one.state["anatomy.weight"], one.state["anatomy.bias"]
        volumes.append(
            torch.cat([pool_volumes(s.output, s.fractions, *read) for s in scans])
        )
    spread = means[0].std(axis=0)
    wide = spread > 0.1 * np.median(spread)
    assert wide.mean() > 0.5
    np.testing.assert_allclose(means[1].mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(means[1].std(axis=0)[wide], 1.0, atol=0.01)
    np.testing.assert_allclose(volumes[1], volumes[0], atol=2e-3)


def test_a_spread_needs_people(checkpoint, make_store):
    with pytest.raises(InputError, match="at least 8 subjects, got 3"):
        standardise_features(checkpoint, make_store(3))
