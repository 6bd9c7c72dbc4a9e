"""Fixtures of the simulation's tests: coarse, so that they take no time."""

from dataclasses import replace

import pytest
import torch

from brainfeat.simulation.bases import load_base
from brainfeat.simulation.scanner import SCANNERS


@pytest.fixture(scope="session")
def base():
    """The template's anatomy in voxels of 4 mm."""
    return load_base(spacing=4.0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="session")
def coarse_scanners():
    """The scanners with voxels four times as long."""
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
