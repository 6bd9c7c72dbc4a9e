import pytest

from brainfeat.exceptions import InputError, ModalityError
from brainfeat.subjects.failures import describe_failure
from brainfeat.subjects.manifest import Manifest
from brainfeat.subjects.modality_choice import choose_modalities, parse_modalities
from brainfeat.subjects.subject import Subject

MODALITIES = ("T1w", "T2w", "FLAIR")


def _row(name, *modalities, session=None):
    images = {modality: f"/{name}_{modality}.nii" for modality in modalities}
    return Subject(name, images, session_id=session)


ROWS = (_row("a", "T1w", "FLAIR"), _row("b", "T1w"), _row("c", "FLAIR"))


@pytest.mark.parametrize(
    ("options", "expected", "left_out"),
    [
        (
            {"required": ["T1w", "FLAIR"]},
            {"a": ["T1w", "FLAIR"]},
            {"b": "no FLAIR, --require (has T1w)", "c": "no T1w, --require"},
        ),
        (
            {"only": ["T1w"]},
            {"a": ["T1w"], "b": ["T1w"]},
            {"c": "no T1w, --only (has FLAIR)"},
        ),
        (
            {"required": ["FLAIR"], "only": ["T1w"]},
            {"a": ["T1w"]},
            {"b": "no FLAIR, --require", "c": "no T1w, --only"},
        ),
        ({}, {"a": ["T1w", "FLAIR"], "b": ["T1w"], "c": ["FLAIR"]}, {}),
    ],
)
def test_rows_have_the_modalities_that_were_chosen(options, expected, left_out):
    chosen = choose_modalities(Manifest(ROWS, (), ()), **options)
    assert {row.participant_id: list(row.images) for row in chosen.rows} == expected
    reasons = {p.subject.participant_id: describe_failure(p) for p in chosen.problems}
    assert reasons.keys() == left_out.keys()
    for name, reason in left_out.items():
        assert f"left out: {reason}" in reasons[name]


def test_image_of_another_modality_is_no_failure_beside_a_row_of_its_session():
    rows = (_row("a", "T1w", session="1"), _row("a", "FLAIR", session="1"))
    chosen = choose_modalities(Manifest(rows, (), ()), only=["T1w"])
    assert chosen.rows == rows[:1]
    assert chosen.problems == ()


def test_choice_without_a_row_is_an_error():
    with pytest.raises(InputError, match="expected subjects with T1w, T2w, got none"):
        choose_modalities(Manifest(ROWS, (), ()), required=["T1w", "T2w"])


def test_names_are_those_of_the_checkpoint():
    assert parse_modalities(["FLAIR, T1w"], MODALITIES, "--only") == ("T1w", "FLAIR")
    assert parse_modalities(["FLAIR", "T1w"], MODALITIES, "-") == ("T1w", "FLAIR")
    with pytest.raises(ModalityError, match=r"--only: expected some of .*, got 't1'"):
        parse_modalities(["t1"], MODALITIES, "--only")
