import io
import logging
import re
import warnings
from dataclasses import replace

import pytest

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.cli.messages import (
    format_summary,
    report_problems,
    show_outcomes,
    show_own_messages,
)
from brainfeat.exceptions import UntrainedCheckpointWarning, VolumeError
from brainfeat.models.config import EncoderConfig
from brainfeat.subjects.manifest import collect_rows
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.tables.runs import RunSummary

ROW = Subject(participant_id="sub-01", session_id="ses-2", images={"T1w": "/a.nii"})
REPEATED = replace(ROW, metadata={"run": "2"})
OUTCOMES = [
    Outcome(ROW, "vector"),
    Outcome(REPEATED),
    Outcome(
        Subject("sub-01", {"T1w": "/[b]\n.nii"}),
        error=VolumeError("/[b]\n.nii: cut [red]short."),
    ),
]


def test_each_subject_is_one_line(capsys):
    with show_outcomes(12) as show:
        for outcome in OUTCOMES:
            show(outcome)
    first, *others = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\[ 1/12\] sub-01 ses-2: done after \d+\.\d s", first)
    assert others == [
        "[ 2/12] sub-01 ses-2 run-2: in the table already",
        "[ 3/12] failed: /[b] .nii: cut [red]short.",
    ]


def test_summary_has_counts_and_paths():
    summary = RunSummary(3, 1, 2, 6, 12.0, "out.csv", "out.failures.tsv")
    assert format_summary(summary).splitlines() == [
        "6 subjects: 3 done, 1 skipped, 2 failed in 12 s (2.00 s a volume)",
        "table:    out.csv",
        "failures: out.failures.tsv",
    ]
    nothing = RunSummary(0, 0, 1, 0, 0.2, None, "out.failures.tsv")
    assert format_summary(nothing).splitlines()[0] == (
        "1 subject: 0 done, 0 skipped, 1 failed in 0 s"
    )


@pytest.mark.parametrize("trained", [True, False])
def test_checkpoint_is_described(trained):
    encoder = EncoderConfig.preset("tiny", depth=2, slab_mixing=(1,))
    preprocessing = {"shape": [80, 104, 72], "spacing": 2.0, "brain_mask": None}
    config = CheckpointConfig(
        encoder=encoder, preprocessing=preprocessing, trained=False, description="Why."
    )
    checkpoint = Checkpoint.untrained(config)
    if trained:
        config = CheckpointConfig(encoder=encoder, preprocessing=preprocessing)
        checkpoint = Checkpoint(config, checkpoint.state)
    text = checkpoint.summary()
    assert ("not trained" in text) != trained
    assert checkpoint.fingerprint in text
    assert "80 x 104 x 72 voxels of 2.0 mm, brain mask none" in text
    assert "T1w, T2w, FLAIR (all needed)" in text


def test_only_own_messages_are_shown():
    stream = io.StringIO()
    with show_own_messages(stream):
        warnings.warn("a\nb", UntrainedCheckpointWarning, stacklevel=1)
        warnings.warn("library", UserWarning, stacklevel=1)
        logging.getLogger("brainfeat.anything").info("progress")
        logging.getLogger("brainfeat.anything").debug("detail")
        assert not logging.getLogger("nibabel.global").isEnabledFor(logging.ERROR)
    assert stream.getvalue() == "warning: a b\nprogress\n"
    assert logging.getLogger("nibabel.global").isEnabledFor(logging.ERROR)
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", UserWarning, stacklevel=1)


def test_names_shared_by_datasets_are_one_warning(tmp_path, capsys):
    for name in ("one/sub-1", "one/sub-2", "two/sub-2", "two/sub-1", "six/sub-1"):
        path = tmp_path / name / "anat" / f"{name[-5:]}_T1w.nii"
        path.parent.mkdir(parents=True)
        path.touch()
    folders = [str(tmp_path / name) for name in ("one", "two")]
    report_problems(collect_rows(folders, modalities=["T1w"]))
    message = capsys.readouterr().err
    assert message == (
        f"warning: sub-1 and 1 more: in {' and '.join(folders)}; rows with the same "
        "name count as one subject.\n"
    )
    report_problems(collect_rows([*folders, str(tmp_path / "six")], modalities=["T1w"]))
    assert f"{folders[0]} and {folders[1]} and 1 more; rows" in capsys.readouterr().err
    report_problems(collect_rows(folders[:1], modalities=["T1w"]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("resumes", "expected"), [(True, "resumes"), (False, "starts again")]
)
def test_interrupt_says_how_to_continue(resumes, expected):
    @show_outcomes(3, resumes=resumes)
    def run():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=f"0 of 3 are kept; .* {expected}"):
        run()


def test_warnings_have_a_prefix():
    stream = io.StringIO()
    with show_own_messages(stream):
        logging.getLogger("brainfeat.subjects.bids.index").warning("%s: odd.", "a.tsv")
        logging.getLogger("brainfeat.subjects.bids.index").info("begun.")
    assert stream.getvalue() == "warning: a.tsv: odd.\nbegun.\n"
