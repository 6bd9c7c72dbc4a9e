import numpy as np
import pytest

from brainfeat.exceptions import InputError
from brainfeat.io.volumes import write_volume
from brainfeat.simulation.bases import load_base
from brainfeat.volume import Geometry, Volume


def test_template_is_the_default(base):
    assert base is load_base(spacing=4.0)
    assert base.lattice.spacing == pytest.approx((4.0, 4.0, 4.0))


def test_a_head_is_aligned_to_the_template(base, head_path):
    mask_path = head_path.with_name("atlas_mask.nii.gz")
    own = load_base(head_path, mask_path, spacing=4.0)
    shared = ((own.brain > 0.5) & (base.brain > 0.5)).sum()
    assert 2 * shared > 0.85 * ((own.brain > 0.5).sum() + (base.brain > 0.5).sum())
    for name in ("ventricle", "medial_temporal"):
        volume = float(own.named(name).sum()) * 4**3 / 1000
        assert 3 < volume < 40
    assert own.named("fat").sum() > 0
    assert own.named("bone").sum() == 0


def test_t1_without_a_mask_is_refused(head_path):
    with pytest.raises(InputError, match="got one of them"):
        load_base(head_path)


def test_a_mask_on_another_grid_is_refused(head_path, tmp_path):
    mask = Volume(np.ones((4, 5, 6), np.uint8), Geometry((4, 5, 6), np.eye(4)))
    path = write_volume(mask, tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=r"mask\.nii\.gz: expected the grid of"):
        load_base(head_path, path)
