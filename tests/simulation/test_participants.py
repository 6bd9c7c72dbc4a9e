import pytest
import torch

from brainfeat.simulation.participants import Participant
from brainfeat.simulation.scanner import SCANNERS


def draw(n, disease=0.5, seed=0):
    return [
        Participant.draw(number, disease=disease, random_state=seed)
        for number in range(1, n + 1)
    ]


def test_participant_does_not_depend_on_the_others():
    assert draw(3) == draw(9)[:3]
    assert draw(3) != draw(3, seed=1)


@pytest.mark.parametrize("disease", [0.0, 0.25, 0.5, 0.7, 1.0])
def test_first_participants_have_the_right_fraction_of_disease(disease):
    ill = torch.tensor([participant.has_disease for participant in draw(41, disease)])
    for n in (4, 10, 41):
        assert abs(int(ill[:n].sum()) - n * disease) <= 0.5 + 1e-6


def test_only_the_ill_have_a_severity():
    for participant in draw(20):
        assert (participant.severity >= 0.5) == participant.has_disease
        assert participant.severity == 0 or participant.has_disease


def test_scanners_are_balanced_and_unrelated_to_the_disease():
    cohort = draw(600)
    for scanner in SCANNERS:
        here = [participant for participant in cohort if participant.scanner is scanner]
        assert len(here) == 200
        assert 0.35 < sum(participant.has_disease for participant in here) / 200 < 0.65


def test_streams_are_separate_and_repeatable():
    participant = draw(1)[0]
    first = torch.rand(3, generator=participant.generator("T1w"))
    again = torch.rand(3, generator=participant.generator("T1w"))
    other = torch.rand(3, generator=participant.generator("pose"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_condition_is_a_batch_of_one():
    participant = draw(1, disease=1.0)[0]
    assert participant.id == "sub-0001"
    torch.testing.assert_close(
        participant.condition.age, torch.tensor([participant.age])
    )
    assert participant.condition.severity.shape == (1,)
