"""The MNI152 maps at 1 mm that nilearn ships, available offline.

The maps are the ICBM 2009a nonlinear symmetric averages [1]_, skull-stripped.

References
----------
.. [1] Fonov et al., Unbiased average age-appropriate atlases for pediatric
   studies. NeuroImage 54, 2011. doi:10.1016/j.neuroimage.2010.07.033
"""

__all__ = ["BRAIN_CENTER", "TemplateMap", "load_template"]

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from brainfeat.exceptions import MissingDependencyError
from brainfeat.io.volumes import read_volume
from brainfeat.volume import Volume

BRAIN_CENTER = (0.0, -17.0, 5.0)
"""Middle of the template brain's bounding box, in template millimetres."""

TemplateMap = Literal["T1w", "gray_matter", "white_matter", "brain_mask"]

_FILES = {
    "T1w": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "gray_matter": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "white_matter": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
}


@cache
def load_template(name: TemplateMap) -> Volume:
    """Load a read-only MNI152 map of shape (197, 233, 189) at 1 mm.

    ``"T1w"`` is the brain alone on a background of zero, tissues are probabilities in
    [0, 1], and ``"brain_mask"`` is boolean.
    """
    if name == "brain_mask":
        brain = load_template("T1w")
        return _read_only(brain.data > 0, brain)
    volume = read_volume(_folder() / _FILES[name])
    data = volume.data if name == "T1w" else volume.data / volume.data.max()
    return _read_only(data, volume)


def _folder() -> Path:
    # Importing nilearn takes seconds and loads scikit-learn.
    spec = find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            'the MNI152 maps need nilearn: pip install "nilearn>=0.13"'
        )
    return Path(spec.submodule_search_locations[0], "datasets", "data")


def _read_only(data: NDArray[Any], like: Volume) -> Volume:
    data.flags.writeable = False
    return Volume(data, like.geometry)
