import pytest
import torch

from brainfeat.simulation.landmarks import ZONES, distance_to_chains, zone


@pytest.mark.parametrize("name", sorted(ZONES))
def test_zones_are_mirror_images(name):
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 30
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(zone(name, points), zone(name, mirrored))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("medial_temporal", (-28.0, -20.0, -15.0)),
        ("ventricle", (14.0, 0.0, 22.0)),
        ("deep_gray", (11.0, -16.0, 8.0)),
    ],
)
def test_zone_holds_its_structure(name, place):
    assert zone(name, torch.tensor(place)) == 1


def test_capsule_distance():
    chain = (((0.0, 0.0, 0.0), (10.0, 0.0, 0.0)), 2.0)
    points = torch.tensor([[5.0, 0, 0], [5, 3, 0], [14, 0, 3]])
    expected = torch.tensor([-2.0, 1.0, 3.0])
    torch.testing.assert_close(distance_to_chains([chain], points), expected)
