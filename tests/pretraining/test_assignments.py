import pytest
import torch

from brainfeat.pretraining.losses import MovingAverageCentring, SinkhornKnopp


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_sinkhorn_balances_samples_and_prototypes():
    logits = torch.randn(4, 3, 5)
    q = SinkhornKnopp(5, n_iterations=60)(logits, temperature=0.5)
    assert q.shape == logits.shape
    torch.testing.assert_close(q.sum(-1), torch.ones(4, 3))
    torch.testing.assert_close(q.sum((0, 1)), torch.full((5,), 12 / 5))


def test_three_iterations_balance_samples_exactly_and_help_prototypes():
    logits = torch.randn(40, 6) + 3 * torch.randn(6)
    q = SinkhornKnopp(6)(logits, temperature=0.5)
    torch.testing.assert_close(q.sum(-1), torch.ones(40))
    raw = (logits / 0.5).softmax(-1)
    assert q.sum(0).std() < 0.3 * raw.sum(0).std()


def test_sinkhorn_in_logarithms_is_sinkhorn_on_probabilities():
    logits = torch.randn(7, 4, dtype=torch.float64)
    q = (logits / 0.7).exp()
    for _ in range(3):
        q = q / q.sum(0, keepdim=True) / 4
        q = q / q.sum(1, keepdim=True) / 7
    ours = SinkhornKnopp(4)(logits, temperature=0.7)
    torch.testing.assert_close(ours.double(), 7 * q, rtol=1e-5, atol=1e-6)


def test_sinkhorn_does_not_overflow():
    logits = 1000 * torch.randn(6, 5)
    q = SinkhornKnopp(5)(logits, temperature=0.01)
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(-1), torch.ones(6))


def test_sinkhorn_ignores_offsets_common_to_all_samples_or_prototypes():
    logits = torch.randn(6, 5)
    q = SinkhornKnopp(5, n_iterations=2)(logits, temperature=0.3)
    shifted = logits + torch.randn(5) + torch.randn(6, 1)
    other = SinkhornKnopp(5, n_iterations=60)(shifted, temperature=0.3)
    settled = SinkhornKnopp(5, n_iterations=60)(logits, temperature=0.3)
    torch.testing.assert_close(other, settled, rtol=1e-4, atol=1e-5)
    # The first half of an iteration removes an offset of all samples.
    by_prototype = SinkhornKnopp(5, n_iterations=2)(
        logits + torch.randn(5), temperature=0.3
    )
    torch.testing.assert_close(by_prototype, q, rtol=1e-4, atol=1e-5)


def test_centring_is_a_softmax_around_the_centre_of_earlier_steps():
    centring = MovingAverageCentring(4, momentum=0.75)
    first, second = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(
        centring(first, temperature=0.2), (first / 0.2).softmax(-1)
    )
    center = 0.25 * first.mean((0, 1))
    torch.testing.assert_close(centring.center, center)
    torch.testing.assert_close(
        centring(second, temperature=0.2), ((second - center) / 0.2).softmax(-1)
    )
    expected = 0.75 * center + 0.25 * second.mean((0, 1))
    torch.testing.assert_close(centring.center, expected)


def test_centre_reaches_the_mean_of_constant_logits():
    centring = MovingAverageCentring(3)
    logits = torch.tensor([[4.0, -1.0, 0.5]]).repeat(6, 1)
    for _ in range(120):
        assignments = centring(logits, temperature=0.1)
    torch.testing.assert_close(centring.center, logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        assignments, torch.full((6, 3), 1 / 3), atol=0.01, rtol=0
    )


@pytest.mark.parametrize("make", [SinkhornKnopp, MovingAverageCentring])
def test_empty_batch_gives_no_assignments_and_keeps_the_centre(make):
    centring = make(5)
    assert centring(torch.zeros(0, 5), temperature=0.1).shape == (0, 5)
    assert all(not value.any() for value in centring.state_dict().values())


@pytest.mark.parametrize("make", [SinkhornKnopp, MovingAverageCentring])
def test_assignments_have_no_gradient(make):
    logits = torch.randn(4, 5, requires_grad=True)
    assert not make(5)(logits, temperature=0.1).requires_grad
