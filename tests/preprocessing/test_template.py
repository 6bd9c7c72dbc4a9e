import subprocess
import sys

import numpy as np
import pytest

from brainfeat.preprocessing.template import load_template


@pytest.mark.parametrize("name", ["T1w", "gray_matter", "white_matter", "brain_mask"])
def test_maps_share_the_1_mm_grid(name):
    volume = load_template(name)
    assert volume.geometry.spacing == (1.0, 1.0, 1.0)
    assert volume.geometry.is_close(load_template("T1w").geometry)


def test_tissue_probabilities_lie_within_the_brain():
    gray, white = load_template("gray_matter").data, load_template("white_matter").data
    assert gray.min() == white.min() == 0
    assert gray.max() == white.max() == 1
    # Deep white matter left of the midline, at (-26, -30, 28) mm.
    assert white[72, 104, 100] > 0.9 > gray[72, 104, 100]


def test_brain_has_the_volume_of_a_brain():
    litres = load_template("brain_mask").data.sum() / 1e6
    assert 1.6 < litres < 2.1


def test_cached_map_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        load_template("T1w").data[0, 0, 0] = 1.0


def test_loading_does_not_import_nilearn():
    code = (
        "import sys; from brainfeat.preprocessing.template import load_template;"
        "load_template('T1w'); print('nilearn' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
    assert np.isfinite(load_template("T1w").data).all()
