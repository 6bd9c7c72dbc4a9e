"""Fixtures for the simulation: coarse, to be fast."""

from dataclasses import replace

import pytest
import torch

from brainfeat.simulation.bases import load_base
from brainfeat.simulation.scanner import SCANNERS


@pytest.fixture(scope="session")
def base():
    """Base anatomy of the template, in voxels of 4 mm."""
    return load_base(spacing=4.0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="session")
def coarse_scanners():
    """The scanners with voxels four times larger."""
    return tuple(
        replace(
            scanner,
            spacing={
                modality: tuple(4 * edge for edge in edges)
                for modality, edges in scanner.spacing.items()
            },
        )
        for scanner in SCANNERS
    )
