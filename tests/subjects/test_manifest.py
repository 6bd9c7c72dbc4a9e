from pathlib import Path

import pytest

from brainfeat.exceptions import InputError, ModalityError
from brainfeat.subjects.manifest import collect_rows

MODALITIES = ("T1w", "T2w", "FLAIR")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [str(root / name) for name in names]


def _collect(*inputs, wanted=()):
    return collect_rows(
        [str(text) for text in inputs], modalities=MODALITIES, wanted=wanted
    )


def _names(manifest):
    return [row.participant_id for row in manifest.rows]


def _images(manifest):
    return [{m: Path(p).name for m, p in row.images.items()} for row in manifest.rows]


def test_images_are_rows_in_the_order_given(folder):
    names = ("b_FLAIR.nii.gz", "sub-02_ses-1_t2w.nii", "a.mgz")
    manifest = _collect(*_touch(folder, *names))
    assert _names(manifest) == ["b_FLAIR", "sub-02", "a"]
    assert [row.session_id for row in manifest.rows] == [None, "ses-1", None]
    assert _images(manifest) == [
        {"FLAIR": "b_FLAIR.nii.gz"},
        {"T2w": "sub-02_ses-1_t2w.nii"},
        {"T1w": "a.mgz"},
    ]
    assert manifest.problems == manifest.duplicates == ()


def test_one_wanted_modality_overrules_the_names(folder, caplog):
    names = "a_T1w.nii.gz", "b.nii.gz", "c_t2w.nii", "d_flair.nii", "e_dseg.nii"
    paths = _touch(folder, *names)
    found = _collect(*paths, wanted=("FLAIR",))
    assert _images(found) == [{"FLAIR": name} for name in names]
    expected = "taken for FLAIR, which its name does not say (2 more like it)"
    assert caplog.messages == [f"{paths[0]}: {expected}"]


def test_exchanged_columns_are_a_warning(folder, caplog):
    _touch(folder, "a_T1w.nii", "a_FLAIR.nii", "b_T1w.nii", "b_FLAIR.nii")
    table = folder / "scans.csv"
    table.write_text("T1w,FLAIR\na_FLAIR.nii,a_T1w.nii\nb_T1w.nii,b_FLAIR.nii\n")
    assert len(_collect(table).rows) == 2
    expected = "taken for T1w, which its name does not say (1 more like it)"
    assert caplog.messages == [f"{folder / 'a_FLAIR.nii'}: {expected}"]


def test_paths_become_absolute_but_links_stay(folder, monkeypatch):
    _touch(folder, "a.nii.gz")
    (folder / "link.nii.gz").symlink_to("a.nii.gz")
    monkeypatch.chdir(folder)
    manifest = _collect("link.nii.gz")
    assert manifest.rows[0].image == str(folder / "link.nii.gz")


def test_globs_are_sorted_and_may_cross_folders(folder):
    _touch(folder, "x/b.nii.gz", "x/a.nii.gz", "y/c.nii.gz", "x/.d.nii.gz")
    assert _names(_collect(folder / "**" / "*.nii.gz")) == ["a", "b", "c"]
    assert _names(_collect(folder / "x" / "[ab].nii.gz")) == ["a", "b"]


def test_a_link_to_nothing_is_no_pattern(folder):
    _touch(folder, "b.nii")
    (folder / "a[1].nii").symlink_to("absent")
    manifest = _collect(folder / "*.nii")
    assert _names(manifest) == ["b"]
    (problem,) = manifest.problems
    assert str(problem.error) == f"{folder / 'a[1].nii'}: no such file."


def test_problems_name_absolute_paths(folder, monkeypatch):
    _touch(folder, "a.nii", "b_pet.nii", "empty/notes.txt")
    (folder / "m.csv").write_text("participant_id,T1w\nP1,n/a\n")
    monkeypatch.chdir(folder)
    inputs = ["absent.nii", "*.x", "b_pet.nii", "empty", "m.csv", "~b/c.nii"]
    manifest = _collect(*inputs, "a.nii")
    files = [problem.subject.source_name for problem in manifest.problems]
    assert files == [str(folder / text) for text in inputs]


def test_a_name_that_exists_is_no_pattern(folder):
    assert _names(_collect(*_touch(folder, "a[1].nii.gz"))) == ["a[1]"]


def test_folders_are_searched_for_scans(folder):
    _touch(
        folder,
        *("Z.NII.GZ", "x/b.nii.gz", "x/deep/a.mgz", "notes.txt", ".hidden/c.nii"),
        *("x/b_mask.nii.gz", "x/b_dseg.nii.gz", "x/b_bold.nii.gz", "x/._b.nii.gz"),
    )
    assert _names(_collect(folder)) == ["Z", "b", "a"]


def test_folders_give_the_wanted_modalities_only(folder):
    _touch(folder, "a_T1w.nii", "a_FLAIR.nii", "a_T2w.nii")
    manifest = _collect(folder, wanted=("FLAIR", "T2w"))
    assert _images(manifest) == [{"T2w": "a_T2w.nii", "FLAIR": "a_FLAIR.nii"}]
    manifest = _collect(folder, wanted=("T2w",))
    assert _images(manifest) == [{"T2w": "a_T2w.nii"}]


def test_equal_file_names_are_extended_by_their_folders(folder):
    _touch(folder, "s1/mri/T1.mgz", "s2/mri/T1.mgz", "s3/mri/brain.mgz")
    assert _names(_collect(folder)) == ["s1_mri_T1", "s2_mri_T1", "brain"]


def test_a_bids_folder_gives_sessions_with_their_participants(folder):
    _touch(
        folder,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        *(f"sub-02/anat/sub-02_run-{run}_T1w.nii.gz" for run in (1, 2)),
    )
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t71\n")
    manifest = _collect(folder)
    assert _names(manifest) == ["sub-01", "sub-02", "sub-02"]
    assert [row.metadata for row in manifest.rows] == [
        {"age": "71"},
        {"run": "1"},
        {"run": "2"},
    ]
    assert list(manifest.rows[0].images) == ["T1w", "FLAIR"]


def test_columns_of_participants_do_not_replace_ours(folder):
    names = ("sub-01/anat/sub-01_run-1_T1w.nii", "sub-01/anat/sub-01_run-2_T1w.nii")
    _touch(folder, *names, "sub-02/anat/sub-02_T1w.nii")
    columns = ["session_id", "image", "input_sha256", "T1w", "emb_000", "run", "age"]
    header = "\t".join(["participant_id", *columns])
    lines = ["\t".join([name, *["7"] * len(columns)]) for name in ("sub-01", "sub-02")]
    (folder / "participants.tsv").write_text("\n".join([header, *lines]))
    first, second, third = _collect(folder).rows
    assert first.metadata == {"run": "1", "age": "7"}
    assert second.metadata == {"run": "2", "age": "7"}
    assert third.metadata == {"age": "7"}


def test_a_bids_clash_is_a_problem_of_its_session_only(folder):
    _touch(
        folder,
        "sub-01/anat/sub-01_acq-a_T1w.nii.gz",
        "sub-01/anat/sub-01_acq-b_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
    )
    manifest = _collect(folder)
    assert _names(manifest) == ["sub-02"]
    (problem,) = manifest.problems
    assert problem.subject.participant_id == "sub-01"
    assert "several T1w images fit" in str(problem.error)


def test_a_problem_of_several_runs_is_one(folder):
    _touch(
        folder,
        "sub-01/anat/sub-01_run-1_T1w.nii.gz",
        "sub-01/anat/sub-01_run-2_T1w.nii.gz",
        "sub-01/anat/sub-02_FLAIR.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii.gz",
        "sub-02/anat/sub-02_run-2_T1w.nii.gz",
        "sub-02/anat/sub-02_acq-a_FLAIR.nii.gz",
        "sub-02/anat/sub-02_acq-b_FLAIR.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
    )
    manifest = _collect(folder)
    assert _names(manifest) == ["sub-03"]
    assert [problem.subject.participant_id for problem in manifest.problems] == [
        "sub-01",
        "sub-02",
    ]


@pytest.mark.parametrize(
    "name", ["sub-02_T1w", "sub-012_T1w", "sub-02_ses-1_T1w", "sub-01_ses-2_T1w"]
)
def test_an_image_of_another_folder_is_a_problem_of_its_session_only(folder, name):
    (path, *_) = _touch(
        folder,
        f"sub-01/ses-1/anat/{name}.nii.gz",
        "sub-01/ses-2/anat/sub-01_T1w.nii.gz",
        "sub-A_1/anat/sub-A_1_T1w.nii.gz",
        "sub-B/anat/sub-B_ses-1_T1w.nii.gz",
    )
    manifest = _collect(folder)
    assert _names(manifest) == ["sub-01", "sub-A_1", "sub-B"]
    assert manifest.rows[0].session_id == "ses-2"
    (problem,) = manifest.problems
    assert (problem.subject.participant_id, problem.subject.source_name) == (
        "sub-01",
        path,
    )
    assert "of another participant or session than its folder" in str(problem.error)


@pytest.mark.parametrize(
    ("suffix", "comma"), [("csv", ","), ("csv", ";"), ("tsv", "\t")]
)
def test_a_manifest_has_a_row_per_subject(folder, suffix, comma):
    _touch(folder, "scans/a.nii", "scans/b.nii", "scans/sub-07_FLAIR.nii")
    lines = [
        ["participant_id", "T1w", "FLAIR", "age", "emb_000", "image"],
        ["P1", "scans/a.nii", "scans/b.nii", "71", "0.5", "x"],
        ["", " ", "scans/sub-07_FLAIR.nii", "n/a", "", ""],
        ["", "", "", "", "", ""],
        ["P3", "scans/absent.nii", "NaN", "64", "", ""],
    ]
    path = folder / f"manifest.{suffix}"
    text = "\n".join(comma.join(line) for line in lines)
    path.write_text(text, encoding="utf-8-sig")
    manifest = _collect(path)
    assert _names(manifest) == ["P1", "sub-07", "P3"]
    assert _images(manifest) == [
        {"T1w": "a.nii", "FLAIR": "b.nii"},
        {"FLAIR": "sub-07_FLAIR.nii"},
        {"T1w": "absent.nii"},
    ]
    assert [row.metadata for row in manifest.rows] == [
        {"age": "71"},
        {"age": None},
        {"age": "64"},
    ]
    assert all(
        Path(path).is_absolute()
        for row in manifest.rows
        for path in row.images.values()
    )


def test_manifest_paths_are_beside_it_or_in_the_working_folder(
    folder, tmp_path, monkeypatch
):
    (beside,) = _touch(folder, "a.nii")
    here, also = _touch(tmp_path, "b.nii", "a.nii")
    (folder / "m.csv").write_text("T1w\na.nii\nb.nii\nneither.nii\n")
    monkeypatch.chdir(tmp_path)
    images = [row.image for row in _collect(folder / "m.csv").rows]
    assert images == [beside, here, str(folder / "neither.nii")]
    assert also not in images


def test_a_manifest_row_without_image_is_a_problem_of_its_own(folder):
    _touch(folder, "a.nii")
    (folder / "m.CSV").write_text("participant_id, T1w\nP1, a.nii\n,\n\nP2,\n")
    manifest = _collect(folder / "m.CSV")
    assert _names(manifest) == ["P1"]
    assert manifest.problems[0].subject.participant_id == "P2"
    assert str(manifest.problems[0].error).endswith("m.CSV: line 5: no image.")


def test_repeated_columns_that_are_not_read_are_allowed(folder):
    _touch(folder, "a.nii")
    (folder / "m.csv").write_text("participant_id,T1w,note,note\nP1,a.nii,x,y\n")
    assert _names(_collect(folder / "m.csv")) == ["P1"]


def test_a_manifest_with_an_open_quote_is_a_problem(folder):
    scan, _ = _touch(folder, "a.nii", "b.nii")
    (folder / "m.csv").write_text('T1w,note\na.nii,"12 inch\nb.nii,ok\n')
    (problem,) = _collect(folder / "m.csv", scan).problems
    assert problem.subject.source_name == str(folder / "m.csv")
    assert "not a readable table" in str(problem.error)


def test_duplicates_are_embedded_once(folder):
    paths = _touch(folder, "a.nii", "b.nii")
    manifest = _collect(folder, *paths, paths[0])
    assert _names(manifest) == ["a", "b"]
    assert manifest.duplicates == tuple(paths)


def test_participants_of_several_datasets_are_namesakes(folder):
    _touch(folder / "one", "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii")
    _touch(folder / "one", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii")
    _touch(folder / "one", "sub-02/anat/sub-02_T1w.nii")
    assert _collect(folder / "one").namesakes == {}
    _touch(folder / "two", "sub-02/anat/sub-02_T1w.nii", "sub-03/sub-03_T1w.nii")
    both = [str(folder / "one"), str(folder / "two")]
    assert _collect(*both).namesakes == {"sub-02": both}
    assert _collect(folder).namesakes == {"sub-02": both}


def test_a_bad_input_does_not_stop_the_others(folder):
    _touch(folder, "a.nii", "empty/notes.txt", "b_pet.nii")
    (folder / "m.csv").write_text("")
    manifest = _collect(
        *(folder / "absent.nii", folder / "a.nii", folder / "empty"),
        *(folder / "m.csv", folder / "*.x", folder / "b_pet.nii"),
    )
    assert _names(manifest) == ["a"]
    assert [
        Path(problem.subject.source_name).name for problem in manifest.problems
    ] == [*("absent.nii", "empty", "m.csv", "*.x", "b_pet.nii")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.nii.gz", None, "no such file"),
        ("*.nii.gz", None, "matches no file"),
        ("folder/", None, "expected images"),
        ("bids/sub-01/func/", None, "expected BIDS images"),
        ("empty.csv", "", "the manifest is empty"),
        ("header.csv", "participant_id,T1w\n", "the manifest is empty"),
        (
            "other.tsv",
            "participant_id\tage\nP1\t71\n",
            "column named T1w or T2w or FLAIR",
        ),
        ("gaps.csv", "participant_id,T1w\nP1,\n", "line 2: no image"),
        ("twice.csv", "T1w,age,T1w\na.nii,7,b.nii\n", "2 columns are named T1w"),
        (
            "comma.csv",
            "T1w,age\na.nii,7\nb.nii,7,5\n",
            "line 3: expected 2 cells, got 3",
        ),
        ("binary.csv", b"T1w\n\xff\xfe\n", "not a readable table"),
        ("scan_bold.nii", "", "unknown modality 'bold'"),
    ],
)
def test_an_input_without_any_row_is_an_error_that_names_it(
    folder, name, content, message
):
    path = folder / name
    if name.endswith("/"):
        path.mkdir(parents=True)
        path = folder / Path(name).parts[0]
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        _collect(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_unknown_modality_is_named(folder):
    with pytest.raises(
        ModalityError, match="unknown modality 'PET', expected one of T1w"
    ):
        _collect(folder, wanted=("PET",))


def test_no_input_is_an_error():
    with pytest.raises(InputError, match="no input"):
        _collect()


def test_an_empty_text_is_not_the_working_folder(folder, monkeypatch):
    (path,) = _touch(folder, "a_T1w.nii")
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="'': expected a path, got an empty text"):
        _collect("")
    assert len(_collect("", path).problems) == len(_collect(path).rows) == 1


BRATS = "BraTS-GLI-00001-000"
JOINED = [
    # files; row by participant; notes
    (
        [f"{BRATS}/{BRATS}-{c}.nii.gz" for c in ("seg", "t1c", "t1n", "t2f", "t2w")],
        [(BRATS, {"T1w": "t1n", "T2w": "t2w", "FLAIR": "t2f"})],
        ["1 label map", "1 T1w image with contrast agent, by its name, left out"],
    ),
    (
        ["IXI-T1/IXI002-T1.nii.gz", "IXI-T2/IXI002-T2.nii.gz", "IXI-PD/IXI002-PD.nii"],
        [("IXI002", {"T1w": "IXI002-T1", "T2w": "IXI002-T2"})],
        ["1 image of another contrast, by its name, left out"],
    ),
    (
        ["scan_FLAIR.nii", "scan_t1ce.nii"],
        [("scan", {"T1w": "scan_t1ce", "FLAIR": "scan_FLAIR"})],
        ["1 T1w image with contrast agent, by its name, taken for T1w"],
    ),
    (
        ["1/T1.nii", "1/FLAIR.nii", "2/FLAIR.nii", "3/aparc+aseg.nii"],
        [("1", {"T1w": "T1", "FLAIR": "FLAIR"}), ("2", {"FLAIR": "FLAIR"})],
        ["1 label map"],
    ),
    (
        ["a/x_T1.nii", "a/x_FLAIR.nii", "b/x_T1.nii", "b/x_FLAIR.nii"],
        [
            ("a_x", {"T1w": "x_T1", "FLAIR": "x_FLAIR"}),
            ("b_x", {"T1w": "x_T1", "FLAIR": "x_FLAIR"}),
        ],
        [],
    ),
    (
        ["sub-01_ses-1_acq-a_T1w.nii", "sub-01_ses-1_T2w.nii", "sub-01_ses-2_T1w.nii"],
        [
            ("sub-01", {"T1w": "acq-a_T1w", "T2w": "ses-1_T2w"}),
            ("sub-01", {"T1w": "ses-2_T1w"}),
        ],
        [],
    ),
    (["IXI002-T2.nii"], [("IXI002-T2", {"T2w": "IXI002-T2"})], []),
    (
        ["one.nii", "two.nii", "x_dseg.nii", "y_mask.nii"],
        [("one", {"T1w": "one"}), ("two", {"T1w": "two"})],
        ["2 files whose names give no modality are taken for T1w; use --modality"],
    ),
]


@pytest.mark.parametrize("search", [True, False], ids=["folder", "paths"])
@pytest.mark.parametrize(("files", "rows", "notes"), JOINED)
def test_contrasts_of_a_subject_are_one_row(folder, caplog, files, rows, notes, search):
    paths = _touch(folder, *files)
    manifest = _collect(*([folder] if search else paths))
    assert manifest.problems == manifest.duplicates == ()
    found = {row.image: row for row in manifest.rows}
    assert len(found) == len(rows)
    for row, (participant, images) in zip(
        sorted(manifest.rows, key=lambda row: (row.participant_id, row.image)),
        rows,
        strict=True,
    ):
        assert row.participant_id == participant
        assert list(row.images) == list(images)
        for modality, part in images.items():
            assert Path(row.images[modality]).name.split(".")[0].endswith(part)
    for note in notes:
        assert sum(note in text for text in caplog.messages) == 1


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["c_0000.nii", "c_0001.nii"], "use a manifest, or --modality"),
        (["x_PD.nii"], "unknown modality 'PDw'"),
        (["x_T1.nii", "x_t1w.nii", "x_T2.nii"], "several T1w images fit"),
    ],
)
def test_names_that_cannot_be_a_row_are_failures(folder, files, reason):
    paths = _touch(folder, *files, "y_T1w.nii")
    manifest = _collect(*paths)
    assert _images(manifest) == [{"T1w": "y_T1w.nii"}]
    assert all(reason in str(problem.error) for problem in manifest.problems)
    assert manifest.problems


def test_one_modality_allows_numbered_images(folder):
    _touch(folder, "c_0000.nii", "c_0001.nii")
    manifest = _collect(folder, wanted=("T2w",))
    assert _images(manifest) == [{"T2w": "c_0000.nii"}, {"T2w": "c_0001.nii"}]


def test_label_maps_alone_are_an_error(folder):
    with pytest.raises(InputError, match="1 images that are left out by their names"):
        _collect(*_touch(folder, "x_seg.nii"))


@pytest.mark.parametrize("second", ["P2,,a.nii,b.nii", "P1,ses-2,a.nii,b.nii"])
def test_one_image_of_two_participants_is_a_failed_row(folder, second):
    _touch(folder, "a.nii", "b.nii", "c.nii")
    (folder / "m.csv").write_text(
        f"participant_id,session_id,T1w,FLAIR\nP1,ses-1,a.nii,b.nii\n{second}\n"
    )
    manifest = _collect(folder / "m.csv")
    assert _names(manifest) == ["P1"]
    (problem,) = manifest.problems
    assert problem.subject.participant_id == second[:2]
    assert "got the image of P1 ses-1, too" in str(problem.error)


def test_participants_that_share_some_images_are_a_warning(folder, caplog):
    _touch(folder, "a.nii", "b.nii", "c.nii")
    (folder / "m.csv").write_text(
        "participant_id,T1w,FLAIR\nP1,a.nii,b.nii\nP2,a.nii,c.nii\n"
    )
    assert _names(_collect(folder / "m.csv")) == ["P1", "P2"]
    assert caplog.messages == [
        f"1 image(s) belong to several participants, such as {folder / 'a.nii'}"
    ]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (
            ["sub-01", "sub-02"],
            [("sub-01", "ses-1"), ("sub-01", "ses-2"), ("sub-02", None)],
        ),
        (["sub-01"], [("sub-01", "ses-1"), ("sub-01", "ses-2")]),
        (["sub-*/ses-2"], [("sub-01", "ses-2")]),
        (["sub-01/ses-1/anat", "sub-02"], [("sub-01", "ses-1"), ("sub-02", None)]),
    ],
)
def test_folders_in_a_bids_folder_are_one_bids_input(folder, inputs, expected):
    for stem in ("sub-01/ses-1/anat/sub-01_ses-1", "sub-01/ses-2/anat/sub-01_ses-2"):
        _touch(folder, f"{stem}_T1w.nii", f"{stem}_FLAIR.nii")
    _touch(folder, "sub-02/anat/sub-02_T1w.nii", "sub-02/anat/sub-02_FLAIR.nii")
    (folder / "participants.tsv").write_text("participant_id\tage\n1\t71\n2\t64\n")
    rows = _collect(*(folder / text for text in inputs)).rows
    assert [(row.participant_id, row.session_id) for row in rows] == expected
    assert all([*row.images] == ["T1w", "FLAIR"] for row in rows)
    ages = {"sub-01": "71", "sub-02": "64"}
    assert [row.metadata["age"] for row in rows] == [ages[n] for n, _ in expected]
