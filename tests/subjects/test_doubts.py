import pytest

from brainfeat.exceptions import QualityError
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.doubts import Doubts, report_doubts
from brainfeat.subjects.subject import Outcome, Subject


class Result:
    def __init__(self, doubt):
        self.quality = None if doubt is None else Quality(0.7, 1400.0, doubt)


def outcomes(*doubts):
    return [
        Outcome(Subject(f"sub-{i}", {"T1w": f"{i}_T1w.nii"}), Result(doubt))
        for i, doubt in enumerate(doubts)
    ]


def test_doubts_are_one_warning_with_their_number(caplog):
    given = outcomes("far", "", None, "small; dark", "", "odd", "turned", "flat\nline")
    given.append(Outcome(Subject("sub-9", {}), error=ValueError("unread")))
    given.append(Outcome(Subject("sub-10", {})))  # skipped
    assert list(report_doubts(given)) == given
    (message,) = caplog.messages
    assert message == (
        "5 subjects in doubt: 0_T1w.nii: far; 3_T1w.nii: small; dark; 5_T1w.nii: odd; "
        "and 2 more"
    )


def test_nothing_is_said_without_doubts(caplog):
    assert len(list(report_doubts(outcomes("", None)))) == 2
    assert caplog.messages == []


def test_strict_doubts_are_errors_of_their_subjects(caplog):
    doubts = Doubts(strict=True)
    errors = [doubts.note(o.subject, o.result.quality) for o in outcomes("", "far")]
    doubts.report()
    assert errors[0] is None
    assert isinstance(errors[1], QualityError)
    assert str(errors[1]) == "1_T1w.nii: in doubt: far"
    assert caplog.messages == []


@pytest.mark.parametrize("count", [1, 3])
def test_the_message_lists_up_to_three(caplog, count):
    list(report_doubts(outcomes(*["far"] * count)))
    (message,) = caplog.messages
    assert message.count("_T1w.nii: far") == count
    assert "more" not in message
