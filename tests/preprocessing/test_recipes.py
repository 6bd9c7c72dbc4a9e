"""Recipes restate the transforms of the authors, and know where their voxels lie."""

import dataclasses
import itertools
import json
import pickle

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.affines import apply_affine
from torch.nn import functional as F

from brainfeat.configs import to_plain
from brainfeat.exceptions import ConfigError, ModalityError, VolumeError
from brainfeat.preprocessing import recipes, steps
from brainfeat.preprocessing.known_recipes import RECIPES as KNOWN
from brainfeat.preprocessing.recipes import InputRecipe, input_recipe
from brainfeat.preprocessing.resampling import to_sitk
from brainfeat.preprocessing.settings import preprocessing_from_dict
from brainfeat.preprocessing.steps import (
    Align,
    CropForeground,
    CropToMultiple,
    FindBrain,
    KeepBlocks,
    Orient,
    PadOrCrop,
    RepeatSlices,
    Resize,
    Scale,
    SlicesFirst,
    Spacing,
    Window,
    ZScore,
)
from brainfeat.preprocessing.template import BRAIN_CENTER
from brainfeat.volume import Geometry, Volume

RECIPES = {name: input_recipe(name) for name in KNOWN}
OBLIQUE = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
LAYOUTS = {
    "RAS": np.diag([1.3, 1.1, 2.0]),
    "LPS": np.diag([-1.3, -1.1, 2.0]),
    "PIR": np.array([[0, 0, 1.2], [-1.5, 0, 0], [0, -0.9, 0]]),
    "oblique": OBLIQUE @ np.diag([-1.3, 1.1, 2.0]),
}


def make_volume(rng, layout="RAS", shape=(47, 61, 38), *, spacing=None):
    """Smooth blobs on zero, in a corner of the field."""
    linear = LAYOUTS[layout]
    if spacing is not None:
        linear = linear / np.linalg.norm(linear, axis=0) * spacing
    coarse = rng.gamma(2.0, 100.0, size=(6, 7, 5))
    data = np.kron(
        coarse, np.ones([-(-n // m) for n, m in zip(shape, coarse.shape, strict=True)])
    )
    data = data[tuple(map(slice, shape))] + rng.normal(0, 5, shape)
    data[: shape[0] // 5] = data[:, -shape[1] // 4 :] = data[:, :, :3] = 0
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (-31.0, 12.5, 7.0)
    return Volume(np.clip(data, 0, None).astype(np.float32), Geometry(shape, affine))


def without_registration(recipe):
    """The transforms alone: images as the authors' tools leave them."""
    return dataclasses.replace(recipe.prepared, space="template")


def apply_one(recipe, volume):
    return recipe.apply({"T1w": volume}, ["T1w"])


def make_recipe(*chain, **options):
    return InputRecipe(name="steps", steps=chain, space="template", **options)


def monai_steps(name):
    from monai import transforms as mt

    window = {"b_max": 1.0, "clip": True, "channel_wise": True}
    low = mt.ScaleIntensityRangePercentiles(0.05, 99.95, b_min=-1.0, **window)
    zscore = mt.NormalizeIntensity(nonzero=True, channel_wise=True)
    by_name = {
        "brainiac": [mt.Resize((96, 96, 96), mode="trilinear"), zscore],
        "3dino": [
            mt.Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            low,
            mt.CropForeground(select_fn=lambda x: x > -1),
            mt.Resize((112, 112, 112), mode="trilinear"),
        ],
        "bm-mae": [
            mt.Spacing((1.0, 1.0, 1.0), mode="bilinear"),
            mt.CenterSpatialCrop((128, 128, 128)),
            zscore,
        ],
        "neuro-jepa": [
            mt.Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            mt.ScaleIntensityRangePercentiles(0.5, 99.5, 0.0, 1.0, clip=True),
            mt.ResizeWithPadOrCrop((180, 216, 180), mode="edge"),
            mt.Spacing((1.0, 1.0, 1.0), mode=5),
            mt.CropForeground(lambda x: x > 0.0, margin=4, allow_smaller=True),
            mt.Resize((100, 120, 100)),
            mt.CenterSpatialCrop((96, 108, 96)),
        ],
    }
    by_name["med3dino"] = [
        *by_name["3dino"][:-1],
        mt.Resize((96,) * 3, mode="trilinear"),
    ]
    return mt.Compose(by_name[name])


@pytest.mark.slow  # monai takes seconds to import
@pytest.mark.filterwarnings("ignore")  # monai's own
@pytest.mark.parametrize("layout", ["LPS", "PIR", "oblique"])
@pytest.mark.parametrize(
    "name", ["brainiac", "3dino", "med3dino", "bm-mae", "neuro-jepa"]
)
def test_recipe_equals_transforms_of_monai(rng, name, layout):
    meta = pytest.importorskip("monai.data").MetaTensor
    # BM-MAE's crop needs a field of 128 mm; Neuro-JEPA's input has voxels of 1 mm.
    shapes = {"bm-mae": (141, 152, 133), "neuro-jepa": (171, 158, 187)}
    spacing = {"bm-mae": (0.97, 1.03, 1.11), "neuro-jepa": (1, 1, 1)}.get(name)
    volume = make_volume(rng, layout, shapes.get(name, (47, 61, 38)), spacing=spacing)
    recipe = without_registration(input_recipe(name))
    if name == "bm-mae":  # whose files are in this order already
        unturned = tuple(s for s in recipe.steps if not isinstance(s, Orient))
        recipe = dataclasses.replace(recipe, steps=unturned)
    image = meta(torch.from_numpy(volume.data.copy())[None], volume.geometry.affine)
    theirs = monai_steps(name)(image)
    ours = apply_one(recipe, volume)
    scale = float(theirs.abs().max())
    np.testing.assert_allclose(ours.data, theirs.numpy(), atol=1e-6 * scale, rtol=0)
    affine = ours.grid_to_scanner @ ours.geometry.affine
    np.testing.assert_allclose(affine, theirs.affine, atol=1e-4)


@pytest.mark.parametrize("shape", [(47, 61, 38), (54, 54, 33), (41, 70, 70)])
def test_neurovfm_equals_its_transforms_in_simpleitk(rng, shape):
    volume = make_volume(rng, "LPS", shape)
    recipe = without_registration(input_recipe("neurovfm"))
    ours = apply_one(recipe, volume)
    tokens, kept = neurovfm_by_simpleitk(volume)
    theirs = (tokens - 0.3141) / 0.2623
    np.testing.assert_allclose(ours.data[0], theirs, atol=1e-6 * np.abs(theirs).max())
    np.testing.assert_array_equal(ours.foreground, kept)


def neurovfm_by_simpleitk(volume):
    """Volume of [0, 1] with slices first, and voxels of the kept patches."""
    image = to_lps(volume)
    orient = sitk.DICOMOrientImageFilter()
    orient.SetDesiredCoordinateOrientation("RPI")
    image = orient.Execute(image)
    sizes = list(image.GetSize())
    unique = min(n for n in sizes if sizes.count(n) == 1)
    axis = sizes.index(unique)
    spacing = [4.0 if i == axis else 1.0 for i in range(3)]
    size = [
        int(n * s / t)
        for n, s, t in zip(sizes, image.GetSpacing(), spacing, strict=True)
    ]
    resampler = sitk.ResampleImageFilter()
    resampler.SetOutputSpacing(spacing)
    resampler.SetSize(size)
    resampler.SetOutputOrigin(image.GetOrigin())
    resampler.SetOutputDirection(image.GetDirection())
    resampler.SetInterpolator(sitk.sitkBSpline)
    image = resampler.Execute(image)
    steps = [4 if i == axis else 16 for i in range(3)]
    start = [n % s // 2 for n, s in zip(size, steps, strict=True)]
    image = sitk.Extract(
        image, [n // s * s for n, s in zip(size, steps, strict=True)], start
    )
    data = sitk.GetArrayFromImage(image).astype(np.float64)  # z y x
    data = np.moveaxis(data, 2 - axis, 0) if axis else data.transpose(2, 1, 0)
    inside = data > np.percentile(data, 10)
    d, h, w = data.shape
    blocks = inside.reshape(d // 4, 4, h // 16, 16, w // 16, 16).all(axis=(1, 3, 5))
    kept = np.kron(blocks, np.ones((4, 16, 16))) > 0
    data = np.clip(data, *np.percentile(data, (0.5, 99.5)))
    return (data - data.min()) / (data.max() - data.min() + 1e-8), kept


def to_lps(volume):
    """SimpleITK's image of a volume as it reads it from a file."""
    image = to_sitk(volume)
    flip = np.diag([-1.0, -1.0, 1.0])
    image.SetOrigin((flip @ volume.geometry.affine[:3, 3]).tolist())
    direction = volume.geometry.affine[:3, :3] / volume.geometry.spacing
    image.SetDirection((flip @ direction).ravel().tolist())
    return image


def test_neuro_simclr_equals_its_crop_and_standardisation(rng):
    volume = make_volume(rng, shape=(193, 229, 193), spacing=(1, 1, 1))
    ours = apply_one(without_registration(input_recipe("neuro-simclr")), volume)
    data = torch.from_numpy(volume.data.copy()).permute(2, 1, 0)[10:160, 19:211, 1:]
    data = data.double()
    mask = (data != 0).double()
    mean = (data * mask).sum() / mask.sum()
    sd = ((data.square() * mask).sum() / mask.sum() - mean.square() + 1e-12).sqrt()
    theirs = ((data - mean) / sd * mask).numpy()
    np.testing.assert_allclose(ours.data[0], theirs, atol=1e-6 * np.abs(theirs).max())
    np.testing.assert_array_equal(ours.foreground, mask.numpy() > 0)


def test_mri_core_takes_each_slice_three_times_within_0_and_1(rng):
    volume = make_volume(rng, "PIR", (61, 38, 47))
    recipe = dataclasses.replace(input_recipe("mri-core"), space="template")
    slices = apply_one(recipe, volume).data[0]
    np.testing.assert_array_equal(slices[:, :, 0::3], slices[:, :, 1::3])
    np.testing.assert_array_equal(slices[:, :, 0::3], slices[:, :, 2::3])
    lit = slices.max(axis=(0, 1)) > 0
    np.testing.assert_allclose(slices[:, :, lit].max(axis=(0, 1)), 1.0)
    assert slices.min(axis=(0, 1)).max() == 0.0


@pytest.mark.parametrize(
    ("step", "mode"),
    [
        (Resize(shape=(23, 70, 41)), "trilinear"),
        (Resize(shape=(23, 70, 41), mode="area"), "area"),
    ],
)
def test_resize_equals_interpolate_of_torch(rng, step, mode):
    volume = make_volume(rng)
    ours = apply_one(make_recipe(step), volume).data
    corners = {} if mode == "area" else {"align_corners": False}
    image = torch.from_numpy(volume.data.copy())[None, None]
    theirs = F.interpolate(image, step.shape, mode=mode, **corners)[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * theirs.max())


SPATIAL_STEPS = {
    "orient": Orient(codes="SPL"),
    "spacing": Spacing(spacing=(0.8, 2.1, 1.7)),
    "resize": Resize(shape=(60, 33, 71)),
    "area": Resize(shape=(29, 44, 19), mode="area"),
    "slices": SlicesFirst(in_plane=1.4, thickness=3.0),
    "crop": CropForeground(above=2.0, margin=2),
    "pad": PadOrCrop(shape=(70, 41, 39)),
    "edge": PadOrCrop(shape=(33, 80, 55), padding="edge"),
    "multiple": CropToMultiple(block=(4, 16, 7)),
    "repeat": RepeatSlices(times=3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("step", SPATIAL_STEPS)
def test_step_knows_where_its_voxels_lie(step, layout):
    # A ramp in the scanner's space has the same value at the same place on any grid.
    slope = np.array([1.7, -2.3, 0.9])
    shape = (47, 61, 38)
    affine = np.eye(4)
    affine[:3, :3] = LAYOUTS[layout]
    grid = Geometry(shape, affine)
    world = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    volume = Volume((world @ slope + 900.0).astype(np.float32), grid)
    result = apply_one(make_recipe(SPATIAL_STEPS[step]), volume)
    where = result.grid_to_scanner @ result.geometry.affine
    inside = tuple(slice(n // 4, n - n // 4) for n in result.geometry.shape)
    voxels = np.moveaxis(np.indices(result.geometry.shape), 0, -1)[inside]
    expected = apply_affine(where, voxels) @ slope + 900.0
    # Averages of blocks and repeated slices are those of their centre, on the whole.
    error = np.abs(result.data[0][inside] - expected)
    coarse = step in {"area", "repeat"}
    assert error.mean() < (1.5 if coarse else 0.02)
    assert abs((result.data[0][inside] - expected).mean()) < 0.2


@pytest.mark.parametrize("layout", ["LPS", "PIR", "oblique"])
@pytest.mark.parametrize("name", RECIPES)
def test_label_map_returns_to_native_space(rng, name, layout):
    shape, spacing = (52, 61, 47), (3.2, 2.9, 3.4)
    volume = centered(make_volume(rng, layout, shape, spacing=spacing))
    labels = np.zeros(shape, np.int16)
    labels[24:33, 20:30, 15:24] = 5  # off the centre
    recipe = dataclasses.replace(RECIPES[name], space="template", brain_mask=box_mask)
    subject = recipe.apply({"T1w": volume}, ["T1w"])
    label_map = Volume(labels, volume.geometry)
    on_grid = recipe.apply_labels(label_map, subject)
    back = recipe.invert(on_grid, subject, volume.geometry).data
    both = (back == 5) & (labels == 5)
    dice = 2 * both.sum() / ((back == 5).sum() + (labels == 5).sum())
    if name == "neuro-simclr":  # its crop assumes the template's field
        return
    assert dice > 0.8


def centered(volume):
    """Move a volume to the middle of the template's brain."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += np.array(BRAIN_CENTER) - volume.geometry.center
    return Volume(volume.data, Geometry(volume.data.shape, affine))


def box_mask(volume):
    mask = np.zeros(volume.data.shape, bool)
    mask[8:-8, 7:-9, 6:-7] = True
    return mask


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_json_and_pickle(name):
    recipe = RECIPES[name]
    restored = InputRecipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert restored == recipe
    assert hash(restored) == hash(recipe)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert preprocessing_from_dict(recipe.to_dict()) == recipe
    assert restored.fingerprint == recipe.fingerprint


def test_fingerprints_of_recipes_differ_and_ignore_what_is_only_told():
    prints = {name: recipe.fingerprint for name, recipe in RECIPES.items()}
    assert len({*prints.values()}) == len(prints)
    told = dataclasses.replace(RECIPES["3dino"], authors="nothing")
    assert told.fingerprint == prints["3dino"]


CHANGES = [
    (Orient(codes="RAS"), {"codes": "LAS"}),
    (Spacing(spacing=(1.0, 2.0, 3.0)), {"spacing": (1.5, 2.0, 3.0)}),
    (Resize(shape=(31, 29, 27)), {"shape": (30, 29, 27)}),
    (Resize(shape=(31, 29, 27)), {"mode": "area"}),
    (SlicesFirst(), {"in_plane": 1.2}),
    (SlicesFirst(), {"thickness": 3.0}),
    (CropForeground(above=150.0), {"above": 450.0}),
    (CropForeground(above=450.0), {"margin": 1}),
    (PadOrCrop(shape=(60, 60, 60)), {"padding": "edge"}),
    (CropToMultiple(block=(4, 16, 16)), {"block": (4, 16, 10)}),
    (RepeatSlices(times=2), {"times": 3}),
    (Window(percentiles=(1.0, 99.0)), {"percentiles": (1.0, 90.0)}),
    (Window(percentiles=(1.0, 99.0)), {"values": (-1.0, 1.0)}),
    (Scale(mean=3.0, sd=2.0), {"mean": 2.0}),
    (Scale(mean=3.0, sd=2.0), {"sd": 3.0}),
    (KeepBlocks(block=(4, 6, 5), percentile=30.0), {"percentile": 70.0}),
]


@pytest.mark.parametrize(("step", "change"), CHANGES)
def test_each_setting_of_a_step_changes_the_result(rng, step, change):
    volume = make_volume(rng, shape=(48, 60, 40))
    changed = dataclasses.replace(step, **change)
    first, second = (
        apply_one(make_recipe(ZScore(), one), volume)
        if isinstance(one, Scale)
        else apply_one(make_recipe(one), volume)
        for one in (step, changed)
    )
    same_data = first.data.shape == second.data.shape and np.allclose(
        first.data, second.data
    )
    same_foreground = np.array_equal(first.foreground, second.foreground)
    assert not (same_data and same_foreground)
    assert to_plain(step) != to_plain(changed)


def test_contrasts_on_other_grids_lie_where_the_first_does(rng):
    first = make_volume(rng, "LPS", (47, 61, 38))
    recipe = make_recipe(Orient(codes="RAS"), CropForeground(above=1.0))
    on_ras = apply_one(make_recipe(Orient(codes="PIR")), first)
    affine = on_ras.grid_to_scanner @ on_ras.geometry.affine
    second = Volume(on_ras.data[0], Geometry(on_ras.geometry.shape, affine))
    subject = recipe.apply({"T1w": first, "FLAIR": second}, ["T1w", "T2w", "FLAIR"])
    assert subject.present.tolist() == [True, False, True]
    assert not subject.data[1].any()
    np.testing.assert_allclose(subject.data[2], subject.data[0], atol=1e-3)


def test_strip_sets_all_but_the_brain_to_zero_in_all_contrasts(rng):
    volume = make_volume(rng, shape=(52, 61, 47))
    other = Volume(volume.data[::-1].copy() + 3.0, volume.geometry)
    recipe = make_recipe(FindBrain(), ZScore(voxels="foreground"), brain_mask=box_mask)
    subject = recipe.apply({"T1w": volume, "T2w": other}, ["T1w", "T2w"])
    np.testing.assert_array_equal(subject.foreground, box_mask(volume))
    assert not subject.data[:, ~subject.foreground].any()
    means = subject.data[:, subject.foreground].mean(axis=1)
    np.testing.assert_allclose(means, 0.0, atol=1e-5)


@pytest.mark.parametrize("name", ["brainiac", "3dino", "neurovfm", "neuro-jepa"])
def test_grid_of_a_registered_head_is_in_template_millimetres(small_brain, name):
    # The template itself, moved and turned in the scanner: both brains coincide again.
    turn = np.eye(4)
    turn[:3, :3] = OBLIQUE
    turn[:3, 3] = (25.0, -40.0, 12.0)
    moved = Geometry(small_brain.geometry.shape, turn @ small_brain.geometry.affine)
    recipe = dataclasses.replace(RECIPES[name], brain_mask=None)
    fast = tuple(s for s in recipe.steps if not isinstance(s, steps.CorrectBias))
    recipe = dataclasses.replace(recipe, steps=fast)
    here, there = (
        apply_one(recipe, Volume(small_brain.data.astype(np.float32), grid))
        for grid in (small_brain.geometry, moved)
    )
    centers = [template_center(subject) for subject in (here, there)]
    np.testing.assert_allclose(centers[1], centers[0], atol=3.0)
    scanner = [
        apply_affine(s.grid_to_scanner, c)
        for s, c in zip((here, there), centers, strict=True)
    ]
    np.testing.assert_allclose(apply_affine(turn, scanner[0]), scanner[1], atol=3.0)


def template_center(subject):
    voxels = np.argwhere(subject.foreground).mean(axis=0)
    return apply_affine(subject.geometry.affine, voxels)


def test_nan_is_zero_as_the_authors_have_it(rng):
    volume = make_volume(rng)
    damaged = volume.data.copy()
    damaged[20, 11, 9:12] = np.nan
    clean = np.nan_to_num(damaged, nan=0.0)
    recipe = make_recipe(Resize(shape=(30, 31, 32)), ZScore())
    with_nan = apply_one(recipe, Volume(damaged, volume.geometry)).data
    np.testing.assert_array_equal(
        with_nan, apply_one(recipe, Volume(clean, volume.geometry)).data
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "steps": [{"step": "Stretch"}]}, "Stretch"),
        ({"name": "x", "steps": [{"step": "Resize", "size": [1, 2, 3]}]}, "size"),
        ({"name": "x", "steps": []}, "at least one"),
        ({"name": "x", "steps": [{"step": "Orient", "codes": "RAL"}]}, "directions"),
        ({"steps": [{"step": "ZScore"}]}, "name"),
        ({"name": "x", "steps": [{"step": "ZScore"}], "colour": 1}, "colour"),
    ],
)
def test_settings_that_are_not_a_recipe_are_reported(values, message):
    with pytest.raises(ConfigError, match=message):
        InputRecipe.from_dict(values)


def test_unknown_recipe_is_reported_with_the_known_ones():
    with pytest.raises(ConfigError, match="brainiac"):
        input_recipe("resnet")


def test_unsuitable_scans_are_reported_with_their_name(rng):
    recipe = without_registration(input_recipe("neuro-simclr"))
    with pytest.raises(VolumeError, match=r"T1w: expected at least \(160, 211, 193\)"):
        apply_one(recipe, make_volume(rng))
    with pytest.raises(ModalityError, match="T2w"):
        recipe.apply({"T2w": make_volume(rng)}, ["T1w"])
    with pytest.raises(ModalityError, match="no volume"):
        recipe.apply({"T1w": None}, ["T1w"])


def test_every_step_can_be_stored_and_applied():
    assert {*recipes._APPLY} == {*steps.STEPS.values()}
    assert all(kind.__name__ == name for name, kind in steps.STEPS.items())


@pytest.mark.parametrize("name", KNOWN)
def test_stored_settings_are_those_of_the_recipe(name):
    assert KNOWN[name].to_dict() == RECIPES[name].to_dict()


def test_order_of_axes_in_the_file_does_not_matter_to_oriented_recipes(rng):
    volume = make_volume(rng, "RAS", (47, 61, 38))
    image = nib.Nifti1Image(volume.data, volume.geometry.affine)
    results = []
    for order in itertools.islice(itertools.permutations(range(3)), 4):
        ornt = np.array([[axis, -1 if axis == 1 else 1] for axis in order])
        other = image.as_reoriented(ornt)
        data = np.asarray(other.dataobj)
        stored = Volume(data, Geometry(data.shape, other.affine))
        recipe = without_registration(input_recipe("med3dino"))
        results.append(apply_one(recipe, stored).data)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_aligned_recipes_say_so():
    modes = {name: recipe.aligned for name, recipe in RECIPES.items()}
    assert modes["brainiac"] == modes["neuro-simclr"] == "rigid"
    assert modes["neuro-jepa"] == "affine"
    assert modes["3dino"] == modes["neurovfm"] == "none"
    assert all(recipe.prepared.aligned == "none" for recipe in RECIPES.values())
    kinds = {type(s) for r in RECIPES.values() for s in r.prepared.steps}
    assert Align not in kinds
