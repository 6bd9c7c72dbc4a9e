from dataclasses import replace

import pytest
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.simulation.disease import (
    DISEASES,
    Condition,
    Disease,
    VariationConfig,
)
from brainfeat.simulation.structures import MODES

CONFIG = VariationConfig()


def draw(base, kind="medial-temporal", severity=(0.0, 0.5, 1.0), config=CONFIG):
    condition = Condition(torch.tensor(severity), torch.full((len(severity),), 64.0))
    generator = torch.Generator().manual_seed(5)
    return Disease.draw(config, kind, condition, base, generator=generator)


def mean_volumes(base, severity, name):
    disease = draw(base, severity=[severity] * 50)
    columns = [i for i, mode in enumerate(MODES) if mode.startswith(name)]
    return float(disease.volumes[:, columns].mean())


def test_atrophy_grows_ventricles_and_shrinks_the_medial_temporal_lobe(base):
    healthy, ill = (
        {name: mean_volumes(base, severity, name) for name in ("ventricle", "medial")}
        for severity in (0.0, 1.0)
    )
    gains = {name: ill[name] - healthy[name] for name in healthy}
    assert gains["ventricle"] == pytest.approx(CONFIG.ventricle_effect, abs=1e-3)
    assert gains["medial"] == pytest.approx(CONFIG.medial_temporal_effect, abs=1e-3)


@pytest.mark.parametrize("kind", DISEASES)
def test_healthy_volumes_do_not_depend_on_the_disease(base, kind):
    usual = draw(base, severity=(0.0,)).volumes
    assert torch.equal(draw(base, kind, severity=(0.0,)).volumes, usual)


def test_only_focal_diseases_have_foci(base):
    assert draw(base).foci is None
    assert draw(base, "lesions").foci is not None
    assert draw(base, "mass").velocity(base).shape[:2] == (3, 3)


def test_unknown_disease_is_refused(base):
    with pytest.raises(ConfigError, match="got 'flu'"):
        draw(base, "flu")


@pytest.mark.parametrize("name", list(VariationConfig.__dataclass_fields__))
def test_each_setting_changes_something(base, name):
    kind = {"lesion": "lesions", "mass_r": "mass"}.get(name[:6], "medial-temporal")
    value = getattr(CONFIG, name)
    changed = tuple(2 * v for v in value) if isinstance(value, tuple) else 2 * value
    results = []
    for config in (CONFIG, replace(CONFIG, **{name: changed})):
        disease = draw(base, kind, config=config)
        radii = torch.zeros(1) if disease.foci is None else disease.foci.radii
        results.append(torch.cat([disease.volumes.flatten(), radii.flatten()]))
    assert not torch.equal(*results)
