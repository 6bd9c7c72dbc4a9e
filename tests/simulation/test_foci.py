import pytest
import torch

from brainfeat.simulation.foci import PATHOLOGIES, Foci


def draw_lesions(base, load, seed=0):
    return Foci.draw_lesions(
        base,
        torch.tensor(load),
        counts=(2.0, 30.0),
        radii=(2.0, 6.0),
        generator=torch.Generator().manual_seed(seed),
    )


def draw_mass(base, severity, seed=0):
    return Foci.draw_mass(
        base,
        torch.tensor(severity),
        radii=(8.0, 15.0),
        generator=torch.Generator().manual_seed(seed),
    )


def test_lesion_volume_grows_with_the_load(base):
    fractions = draw_lesions(base, 6 * [0.0, 0.5, 1.0]).render(base)
    volumes = fractions.sum((1, 2, 3, 4)).reshape(6, 3).sum(0)
    assert volumes[0] < volumes[1] < volumes[2]


def test_lesions_stay_in_white_matter_near_the_ventricles(base):
    fractions = draw_lesions(base, [1.0]).render(base)[0]
    lesion = fractions[PATHOLOGIES.index("lesion")]
    assert (lesion <= base.named("white_matter") + 1e-6).all()
    # Nearer to the ventricles than white matter on average.
    depth = base.lattice.points()[..., :2].abs()
    white = base.named("white_matter")
    mean = [
        (fraction[..., None] * depth).sum((0, 1, 2)) / fraction.sum()
        for fraction in (lesion, white)
    ]
    assert mean[0][0] < mean[1][0] + 2


def test_fractions_sum_to_at_most_one(base):
    fractions = draw_mass(base, [1.0, 0.4]).render(base)
    assert fractions.min() >= 0
    assert fractions.sum(1).max() <= 1 + 1e-5


def test_a_mass_has_all_parts_and_a_healthy_brain_none(base):
    fractions = draw_mass(base, [0.9, 0.0]).render(base).sum((2, 3, 4))
    assert (fractions[0, 1:] > 0).all()
    assert fractions[0, PATHOLOGIES.index("lesion")] == 0
    assert (fractions[1] == 0).all()


def test_a_mass_pushes_its_surroundings_away(base):
    foci = draw_mass(base, [1.0, 0.0])
    velocity = foci.velocity(base.field_lattice, base.device)
    assert (velocity[1] == 0).all()
    offset = base.field_lattice.points() - foci.centers[0, 0]
    outward = (velocity[0].movedim(0, -1) * offset).sum(-1)
    # The map goes to the base: towards the centre.
    assert outward.max() <= 0
    assert outward.min() < -10


def test_focus_has_its_position_and_volume(base):
    center = torch.tensor([[[-30.0, 6.0, 30.0]]])
    foci = Foci(center, torch.full((1, 1, 3), 9.0), ("mass",), torch.zeros(1))
    fraction = foci.render(base)[0, PATHOLOGIES.index("mass")]
    centroid = (fraction[..., None] * base.lattice.points()).sum(
        (0, 1, 2)
    ) / fraction.sum()
    torch.testing.assert_close(centroid, center[0, 0], atol=1.0, rtol=0)
    volume = float(fraction.sum()) * 4**3
    assert volume == pytest.approx(4 / 3 * 3.14159 * 9**3, rel=0.15)


def test_foci_outside_the_box_are_left_out(base):
    center = torch.tensor([[[500.0, 0.0, 0.0]]])
    foci = Foci(center, torch.ones(1, 1, 3), ("mass",), torch.zeros(1))
    assert (foci.render(base) == 0).all()
