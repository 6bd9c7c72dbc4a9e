import dataclasses

import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.pretraining.data import collect_training_data
from brainfeat.simulation.head_contrast import HeadContrast
from brainfeat.simulation.head_folder import write_heads
from brainfeat.simulation.head_labels import HeadLabels
from brainfeat.simulation.labelled_heads import HeadAnatomy, LabelledHead

TABLE = """index\tname\tcontrast
2\twhite_matter\twhite
41\twhite_matter\twhite
4\tventricle\tfluid
4\tlateral_ventricle_left\tfluid
43\tventricle\tfluid
43\tlateral_ventricle_right\tfluid
24\t\tfluid
"""
SPACING = 3.0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A label map of a head of two shells, with a ventricle on each side, and a table.

    The voxels run from right to left.
    """
    folder = tmp_path_factory.mktemp("label_map")
    points = np.indices((44, 52, 48)) - np.array([21, 26, 24])[:, None, None, None]
    radius = np.sqrt(
        (points**2 / np.array([1.0, 1.3, 1.1])[:, None, None, None]).sum(0)
    )
    labels = np.zeros(points.shape[1:], np.int16)
    for shell, limit in ((510, 19), (502, 17), (24, 15)):
        labels[radius < limit] = shell
    labels[(radius < 13) & (points[0] >= 0)] = 2
    labels[(radius < 13) & (points[0] < 0)] = 41
    labels[12:17, 20:30, 22:29] = 43
    labels[26:31, 20:30, 22:29] = 4
    affine = np.diag([-SPACING, SPACING, SPACING, 1.0])
    path, table = folder / "head.nii.gz", folder / "table.tsv"
    nib.save(nib.Nifti1Image(labels, affine), path)
    table.write_text(TABLE)
    return path, table


@pytest.fixture(scope="module")
def head(files):
    path, table = files
    return LabelledHead.read(path, HeadLabels.read(table))


@pytest.fixture
def still():
    """An anatomy that changes nothing."""
    drawn = HeadAnatomy.draw(np.random.default_rng(0))
    return dataclasses.replace(
        drawn,
        linear=np.eye(3),
        height=1000.0,
        warps=tuple(0 * warp for warp in drawn.warps),
        growths=dict.fromkeys(drawn.growths, 0.0),
        is_mirrored=False,
    )


def test_labels_that_differ_in_their_side_mirror_each_other(head):
    assert head.table.mirror == {4: 43, 43: 4}
    tissues = head.table.tissues
    assert tissues[4] == tissues[43] != tissues[24]
    assert tissues[2] == tissues[41]


def test_head_without_changes_is_its_label_map(head, still):
    labels = still.apply(head, SPACING)
    first, last = (edge.astype(int) for edge in head.box)
    inside = head.labels[
        tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    ]
    assert labels.shape == tuple(n + 3 for n in inside.shape)  # air of 6 mm, twice
    padded = np.pad(inside, 2)
    # On a grid that lies half a voxel off the label map's.
    for values in (labels, inside):
        counts = [(values == label).sum() for label in (0, 2, 4, 24, 43, 41, 502)]
        assert min(counts[1:]) > 300
    agreement = np.mean(
        labels == padded[: labels.shape[0], : labels.shape[1], : labels.shape[2]]
    )
    assert agreement > 0.8


def test_growth_is_of_one_structure_and_the_rest_gives_way(head, still):
    def volumes(growths):
        labels = dataclasses.replace(still, growths=growths).apply(head, SPACING)
        return {label: (labels == label).sum() for label in (4, 43, 2, 41, 24, 510)}

    before = volumes({})
    grown, shrunk = (volumes({(0, "left"): mm}) for mm in (4.0, -3.0))
    assert shrunk[4] < 0.8 * before[4]
    assert grown[4] > 1.2 * before[4]
    assert grown[43] == before[43]
    # Far from the surface nothing moves.
    assert grown[510] == pytest.approx(before[510], rel=0.03)


def test_mirrored_head_has_its_sides_swapped(head, still):
    plain = still.apply(head, SPACING)
    mirrored = dataclasses.replace(still, is_mirrored=True).apply(head, SPACING)
    for label, other in ((4, 43), (43, 4), (510, 510), (24, 24)):
        np.testing.assert_array_equal(mirrored[::-1] == label, plain == other)


def test_less_neck_is_shown_for_a_lower_height(head, still):
    full = still.apply(head, SPACING)
    cut = dataclasses.replace(still, height=90.0).apply(head, SPACING)
    assert full.shape[:2] == cut.shape[:2]
    assert cut.shape[2] == 30
    assert cut[..., -3:].sum() == full[..., -3:].sum()


def test_drawn_heads_differ_and_keep_all_labels(head):
    drawn = [
        HeadAnatomy.draw(np.random.default_rng(n)).apply(head, 2.5) for n in (1, 2)
    ]
    assert drawn[0].shape != drawn[1].shape
    for labels in drawn:
        assert np.unique(labels).tolist() == [0, 2, 4, 24, 41, 43, 502, 510]


def test_intensities_are_of_the_label_and_the_same_on_both_sides(head):
    present = np.unique(head.labels)
    contrast = HeadContrast.draw("T1w", present, head.table, np.random.default_rng(3))
    assert contrast.means[4] == contrast.means[43]
    assert contrast.means[4] < contrast.means[2] == contrast.means[41]
    assert contrast.means[0] == 0.0
    flat = dataclasses.replace(contrast, textures=0 * contrast.textures, blur=0.0)
    image = flat.apply(head.labels)
    for label in present:
        expected = int(contrast.means[label] * contrast.scale)
        assert np.abs(image[head.labels == label] - expected).max() <= 1
    textured = contrast.apply(head.labels)
    assert textured[head.labels == 2].std() > 0
    np.testing.assert_array_equal(textured, contrast.apply(head.labels))
    others = [
        HeadContrast.draw(
            "T1w", present, head.table, np.random.default_rng(n), is_random=True
        )
        for n in range(30)
    ]
    order = {bool(other.means[4] < other.means[2]) for other in others}
    assert order == {True, False}


def test_written_heads_are_a_manifest_with_label_maps(files, tmp_path):
    path, table = files
    options = {"label_table": table, "modalities": ("T2w", "FLAIR"), "spacing": 4.0}
    manifest = write_heads([path], tmp_path / "heads", 2, **options)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "heads").rglob("*.nii.gz")}
    assert len(written) == 6
    assert write_heads([path], tmp_path / "heads", 3, **options) == manifest
    assert all(p.stat().st_mtime_ns == time for p, time in written.items())
    data = collect_training_data(str(manifest), modalities=("T1w", "T2w", "FLAIR"))
    assert len(data.subjects) == 3
    assert data.targets == (
        "white_matter",
        "ventricle",
        "lateral_ventricle_left",
        "lateral_ventricle_right",
    )
    first = data.subjects[0]
    scan, labels = (
        nib.load(p) for p in (first.paths["FLAIR"], first.metadata["label_map"])
    )
    assert scan.shape == labels.shape
    np.testing.assert_array_equal(scan.affine, labels.affine)
    with pytest.raises(InputError, match="got another spacing, random_state"):
        write_heads(
            [path],
            tmp_path / "heads",
            2,
            **(options | {"spacing": 5.0, "random_state": 1}),
        )


def test_wrong_tables_and_maps_are_reported(files, tmp_path):
    path, _ = files
    other = tmp_path / "other.tsv"
    other.write_text("index\tname\tcontrast\n99\tcsf\tfluid\n")
    with pytest.raises(
        InputError, match=r"head\.nii\.gz: expected labels of the table"
    ):
        write_heads([path], tmp_path / "heads", 1, label_table=other)
    for text in ("index\tname\n4\tcsf\n", "index\tname\tcontrast\n4\tcsf\tdark\n"):
        other.write_text(text)
        with pytest.raises(
            InputError, match=r"other\.tsv: expected columns index, name"
        ):
            write_heads([path], tmp_path / "heads", 1, label_table=other)
    with pytest.raises(ConfigError, match="got 1 label maps and \\('CT',\\)"):
        write_heads([path], tmp_path, 1, label_table=other, modalities=("CT",))
