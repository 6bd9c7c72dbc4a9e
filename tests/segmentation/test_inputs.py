import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import VolumeError
from brainfeat.io.volumes import read_volume, to_image
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.segmentation.inputs import SegmentationSpace, acquired_modalities
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import SubjectTable
from brainfeat.volume import Geometry, Volume

MODALITIES = ("T1w", "T2w", "FLAIR")


def make_space(modalities, **preprocessing):
    return SegmentationSpace(
        preprocessor=Preprocessor(**preprocessing),
        slab_grid=SlabGrid(),
        encoder_modalities=MODALITIES,
        modalities=modalities,
        allow_missing=True,
    )


SPACE = make_space(("T1w",), shape=(96, 112, 88), spacing=2.0)
COARSE = make_space(("T1w",), shape=(24, 32, 20), spacing=8.0)


def oblique(spacing, shape, degrees=14.0):
    turn, tilt = np.deg2rad([degrees, -degrees / 2])
    about_k = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    about_i = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = about_k @ about_i @ np.diag(spacing)
    affine[:3, 3] = [0, -18, 9] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def turned(geometry, codes):
    image = nib.Nifti1Image(np.zeros(geometry.shape, np.int8), geometry.affine)
    goal = nib.orientations.axcodes2ornt(codes)
    now = nib.orientations.io_orientation(image.affine)
    moved = image.as_reoriented(nib.orientations.ornt_transform(now, goal))
    return Geometry(moved.shape, moved.affine)


ISOTROPIC = Geometry(
    (190, 224, 180), nib.affines.from_matvec(np.eye(3), [-95, -130, -78])
)
NATIVE = {
    "RAS": ISOTROPIC,
    "LPS": turned(ISOTROPIC, "LPS"),
    "PIR": turned(ISOTROPIC, "PIR"),
    "SAL": turned(ISOTROPIC, "SAL"),
    "oblique": oblique((1.0, 1.1, 1.2), (180, 200, 150)),
    "anisotropic": oblique((0.9, 0.9, 5.0), (210, 240, 34), degrees=0.0),
    "cropped": Geometry(
        (90, 224, 110), nib.affines.from_matvec(np.eye(3), [-40, -130, -30])
    ),
}


def blobs(geometry, centers):
    """Bright balls of 8 mm about points of the scanner, on a brain-like ellipsoid."""
    i, j, k = np.ogrid[tuple(map(slice, geometry.shape))]
    rows = geometry.affine[:3].astype(np.float32)
    x, y, z = (a * i + b * j + c * k + d for a, b, c, d in rows)
    ellipsoid = (x / 68) ** 2 + ((y + 18) / 85) ** 2 + ((z - 9) / 65) ** 2
    data = np.where(ellipsoid < 1, np.float32(100), np.float32(0))
    for a, b, c in centers:
        distance = (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2
        data += 200 * np.exp(-distance.astype(np.float32) / 2 / 4**2)
    return Volume(data, geometry)


@pytest.mark.usefixtures("without_registration")
@pytest.mark.parametrize("name", NATIVE)
def test_marker_goes_to_the_grid_and_back_within_half_a_voxel(name):
    geometry = NATIVE[name]
    center = np.array([-11.0, 5.0, 21.0])
    volume = blobs(geometry, [center])
    inputs = SPACE.read(Subject("x", {"T1w": to_image(volume)}))
    score = np.clip(inputs.voxels[0] - inputs.voxels[0].max() / 2, 0, None)
    back = SPACE.to_native(score, inputs)
    assert back.shape == geometry.shape
    center_of_mass = np.array(np.nonzero(back)) @ back[back > 0] / back.sum()
    world = geometry.affine[:3, :3] @ center_of_mass + geometry.affine[:3, 3]
    moved = np.linalg.solve(geometry.affine[:3, :3], world - center)
    assert np.abs(moved).max() < 0.5


@pytest.mark.usefixtures("without_registration")
@pytest.mark.parametrize("name", ["LPS", "PIR", "oblique", "cropped"])
def test_label_map_survives_the_round_trip(name):
    geometry = NATIVE[name]
    volume = blobs(geometry, [])
    labels = (volume.data > 50).astype(np.int32)
    inputs = SPACE.read(Subject("x", {"T1w": to_image(volume)}))
    grid = SPACE.to_grid(Volume(labels, geometry), inputs)
    back = SPACE.to_native(grid.astype(np.float32), inputs) > 0.5
    # A fraction of a voxel at the border of a ball of 70 mm, or of the image.
    wrong = (back != labels.astype(bool)).mean() / labels.mean()
    assert wrong < 0.03


def test_fine_voxels_divide_the_coarse_ones():
    assert SPACE.upsampling == COARSE.upsampling == 2
    coarse = SPACE.preprocessor.geometry
    fine = SPACE.fine_geometry(coarse)
    assert fine.shape == (192, 224, 176)
    np.testing.assert_allclose(fine.center, coarse.center)
    block = fine.affine[:3, :3] @ [0.5, 0.5, 0.5] + fine.affine[:3, 3]
    np.testing.assert_allclose(block, coarse.affine[:3, 3])
    one = make_space(("T1w",), spacing=1.0)
    assert one.upsampling == 1
    coarse = one.preprocessor.geometry
    assert one.fine_geometry(coarse).is_close(coarse)


@pytest.mark.usefixtures("without_registration")
def test_modalities_are_in_the_estimator_s_order(modality_paths):
    space = make_space(("FLAIR", "T1w"), shape=(24, 32, 20), spacing=8.0)
    images = {"T1w": modality_paths["T1w"][0], "FLAIR": None}
    inputs = space.read(Subject("x", images))
    assert inputs.present.tolist() == [False, True]
    assert not inputs.voxels[0].any()
    known = np.repeat(inputs.coarse.foreground, 2, 0).repeat(2, 1).repeat(2, 2)
    assert inputs.voxels[1][known].mean() == pytest.approx(0, abs=0.1)
    assert inputs.native.is_close(read_volume(modality_paths["T1w"][0]).geometry)


@pytest.mark.usefixtures("without_registration")
def test_fine_voxels_are_not_masked(head_path):
    inputs = COARSE.read(Subject("x", {"T1w": head_path}))
    known = np.repeat(inputs.coarse.foreground, 2, 0).repeat(2, 1).repeat(2, 2)
    assert inputs.voxels[0][~known].std() > 0.3
    assert np.abs(inputs.voxels).max() <= 5.0


@pytest.mark.usefixtures("without_registration")
def test_scan_without_contrast_is_refused(small_brain):
    flat = Volume(np.ones_like(small_brain.data), small_brain.geometry)
    with pytest.raises(VolumeError, match=r"^x: .*contrast"):
        COARSE.read(Subject("x", {"T1w": to_image(flat)}))


def test_grid_is_that_of_the_encoder_s_checkpoint(checkpoint):
    space = SegmentationSpace.of_checkpoint(checkpoint.config, ["FLAIR"])
    assert space.preprocessor.to_dict() == checkpoint.config.preprocessing
    assert space.encoder_modalities == checkpoint.config.encoder.modalities
    assert space.modalities == ("FLAIR",)
    assert space.allow_missing == checkpoint.config.missing_modalities
    assert space.slab_grid == SlabGrid(thickness=2, plane=checkpoint.config.plane)


def test_acquired_modalities_are_those_of_at_least_one_subject():
    rows = (Subject("a", {"FLAIR": "f", "T2w": None}), Subject("b", {"T1w": "t"}))
    assert acquired_modalities(SubjectTable(rows, MODALITIES)) == ("T1w", "FLAIR")
