import numpy as np
import pytest

from brainfeat.exceptions import VolumeError
from brainfeat.io.volumes import read_volume, write_volume
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.resampling import crop, reorient_to_ras
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume


@pytest.fixture(scope="module")
def fragment(tmp_path_factory):
    """Path of a volume that is too small to be a head, and cannot be aligned."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij")
    ball = np.clip(1 - x**2 - y**2 - z**2, 0, None).astype(np.float32)
    path = tmp_path_factory.mktemp("scan") / "ball_T1w.nii.gz"
    return str(write_volume(Volume(ball, Geometry(ball.shape, np.eye(4))), path))


def read(path, **options):
    subject = Subject("ball", {"T1w": path, "FLAIR": None})
    grid = Preprocessor(shape=(24, 24, 24), spacing=2.0)
    return read_and_preprocess(subject, grid, ("FLAIR", "T1w"), **options)


def test_volumes_are_returned_as_read_and_on_the_grid(fragment):
    volumes, processed = read(fragment)
    assert list(volumes) == ["T1w"]
    assert volumes["T1w"].data.shape == (24, 24, 24)
    assert processed.data.shape == (2, 24, 24, 24)
    assert processed.present.tolist() == [False, True]


def test_volumes_that_are_only_centred_are_in_doubt(fragment):
    assert "only centred" in read(fragment)[1].quality.doubt


def test_a_head_without_its_crown_is_in_doubt(head_path, tmp_path):
    head = reorient_to_ras(read_volume(head_path))
    size_i, size_j, size_k = head.data.shape
    crownless = crop(head, (0, 0, 0), (size_i, size_j, int(0.6 * size_k)))
    whole_path, crownless_path = (
        str(write_volume(volume, tmp_path / f"{name}_T1w.nii.gz"))
        for name, volume in (("whole", head), ("crownless", crownless))
    )
    assert read(whole_path)[1].quality.doubt == ""
    assert read(crownless_path)[1].quality.doubt


def test_the_memory_limit_holds(fragment):
    with pytest.raises(VolumeError, match="--memory-limit"):
        read(fragment, memory_limit=1000)
