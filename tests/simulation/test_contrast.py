from dataclasses import replace

import pytest
import torch

from brainfeat.exceptions import ModalityError
from brainfeat.simulation.anatomy import CLASSES
from brainfeat.simulation.contrast import MODALITIES, Contrast, ContrastConfig
from brainfeat.simulation.foci import PATHOLOGIES

CONFIG = ContrastConfig()
TISSUES = (*CLASSES, *PATHOLOGIES)


def draw(config=CONFIG, modalities=MODALITIES, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Contrast.draw(config, modalities, n, generator=generator)


def paint(base, contrast, pathology=None, stripped=(False, True)):
    return contrast.apply(base, pathology, stripped=torch.tensor(stripped))


def mean_in(image, fraction):
    return float((image * fraction).sum() / fraction.sum())


def test_tissues_are_ordered_as_in_mri(base):
    t1, t2, flair = paint(base, draw(n=1), stripped=(False,))[0]
    white = (base.named("white_matter") > 0.9).float()
    gray = (base.named("gray_matter") > 0.9).float()
    fluid = (base.named("ventricle") > 0.8).float()
    fat = (base.named("fat") > 0.8).float()
    assert mean_in(t1, fluid) < mean_in(t1, gray) < mean_in(t1, white)
    assert mean_in(t1, fat) > mean_in(t1, gray)
    assert mean_in(t2, white) < mean_in(t2, gray) < mean_in(t2, fluid)
    assert mean_in(flair, fluid) < mean_in(flair, white) < mean_in(flair, gray)


def test_lesions_are_bright_on_flair(base):
    pathology = torch.zeros(2, len(PATHOLOGIES), *base.lattice.shape)
    white = base.named("white_matter") > 0.9
    spot = white & (torch.rand(white.shape) < 0.1)
    pathology[:, PATHOLOGIES.index("lesion")] = spot.float()
    flair = paint(base, draw(modalities=["FLAIR"]), pathology)[0, 0]
    assert flair[spot].mean() > 1.5 * flair[white & ~spot].mean()


def test_stripping_keeps_the_brain(base):
    contrast = draw(n=1)
    full = paint(base, contrast, stripped=(False,))
    stripped = paint(base, contrast, stripped=(True,))
    inside = base.brain > 0.999
    torch.testing.assert_close(
        full[..., inside], stripped[..., inside], atol=1e-3, rtol=0
    )
    assert stripped[..., base.brain == 0].max() == 0
    assert full[..., base.brain == 0].max() > 0.5


def test_random_contrasts_have_any_order():
    means = draw(replace(CONFIG, random_fraction=1.0), n=64).means
    gray, white = means[..., TISSUES.index("gray_matter")], means[..., 2]
    assert 0.3 < (gray < white).float().mean() < 0.7
    assert means.min() >= 0.05


@pytest.mark.parametrize(
    "change", [{"jitter": 0.2}, {"random_fraction": 1.0}, {"detail": (0.1, 0.2)}]
)
def test_each_setting_changes_something(change):
    usual, changed = draw(), draw(replace(CONFIG, **change))
    assert not (
        torch.equal(usual.means, changed.means)
        and torch.equal(usual.detail, changed.detail)
    )


def test_unknown_modality_is_refused():
    with pytest.raises(ModalityError, match="PD"):
        draw(modalities=["T1w", "PD"])
