import math

import pytest
import torch

from brainfeat.pretraining.losses import (
    anatomy_loss,
    dino_loss,
    ibot_loss,
    infonce_loss,
    koleo_loss,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def assert_same_value_and_gradient(loss, twin, *inputs):
    """Compare a loss with its loop at double precision, and their gradients."""
    value, expected = loss(*inputs), twin(*inputs)
    torch.testing.assert_close(value, expected)
    assert value.shape == ()
    for ours, theirs in zip(
        torch.autograd.grad(value, inputs),
        torch.autograd.grad(expected, inputs),
        strict=True,
    ):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs)


def leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def cross_entropy(student, teacher, temperature):
    """Cross-entropy of two vectors of length K, term by term."""
    scaled = [logit / temperature for logit in student]
    log_total = torch.stack(scaled).logsumexp(0)
    return -sum(q * (s - log_total) for q, s in zip(teacher, scaled, strict=True))


@pytest.mark.parametrize(("n_teacher", "n_student"), [(2, 5), (2, 2), (1, 3)])
def test_dino_loss_is_its_loop_over_pairs_of_different_views(n_teacher, n_student):
    teacher = torch.rand(n_teacher, 4, 7, dtype=torch.float64).softmax(-1)

    def twin(student):
        terms = [
            cross_entropy(student[v, b], teacher[t, b], 0.3)
            for t in range(n_teacher)
            for v in range(n_student)
            for b in range(4)
            if t != v
        ]
        return sum(terms) / len(terms)

    assert_same_value_and_gradient(
        lambda student: dino_loss(student, teacher, temperature=0.3),
        twin,
        leaf(n_student, 4, 7),
    )


def test_dino_loss_is_least_where_the_student_agrees():
    logits = torch.randn(1, 3, 5)
    teacher = (logits / 0.2).softmax(-1)
    agreeing = torch.cat([torch.zeros(1, 3, 5), logits])
    loss = dino_loss(agreeing, teacher, temperature=0.2)
    entropy = -(teacher * teacher.log()).sum(-1).mean()
    torch.testing.assert_close(loss, entropy)
    other = torch.cat([torch.zeros(1, 3, 5), logits + torch.randn(1, 3, 5)])
    assert dino_loss(other, teacher, temperature=0.2) > loss


def test_ibot_loss_is_its_loop_over_patches():
    teacher = torch.rand(6, 5, dtype=torch.float64).softmax(-1)
    weights = torch.rand(6, dtype=torch.float64)

    def twin(student):
        return sum(
            weights[m] * cross_entropy(student[m], teacher[m], 0.2) for m in range(6)
        )

    assert_same_value_and_gradient(
        lambda student: ibot_loss(student, teacher, weights, temperature=0.2),
        twin,
        leaf(6, 5),
    )


def test_ibot_loss_without_masked_patches_is_zero_and_has_a_gradient():
    student = torch.zeros(0, 5, requires_grad=True)
    loss = ibot_loss(student, torch.zeros(0, 5), torch.zeros(0), temperature=0.1)
    loss.backward()
    assert loss == 0
    assert student.grad.shape == (0, 5)


def test_koleo_loss_is_its_loop_over_nearest_neighbours():
    def twin(rows):
        unit = [row / row.square().sum().sqrt() for row in rows]
        nearest = [
            min((a - b).square().sum() for j, b in enumerate(unit) if j != i)
            for i, a in enumerate(unit)
        ]
        return -sum(torch.log(d + 1e-8) / 2 for d in nearest) / len(rows)

    # The loss is computed in float32 for any input.
    rows = torch.randn(7, 3, requires_grad=True)
    assert_same_value_and_gradient(koleo_loss, twin, rows)


def test_koleo_loss_of_equal_rows_is_finite_without_gradient():
    rows = torch.ones(4, 3, requires_grad=True)
    loss = koleo_loss(rows)
    loss.backward()
    assert math.isclose(loss.item(), -math.log(1e-4), rel_tol=1e-5)
    assert torch.equal(rows.grad, torch.zeros(4, 3))


def test_koleo_loss_ignores_lengths_and_favours_spread_rows():
    rows = torch.randn(5, 4)
    lengths = torch.tensor([0.1, 1.0, 3.0, 20.0, 0.5])[:, None]
    torch.testing.assert_close(koleo_loss(rows), koleo_loss(lengths * rows))
    close = torch.ones(5, 4) + 0.05 * rows
    assert koleo_loss(rows) < koleo_loss(close)


def test_infonce_loss_is_its_loop_over_rows():
    def twin(first, second):
        rows = [row / row.square().sum().sqrt() for row in (*first, *second)]
        n = len(rows)
        total = 0.0
        for i in range(n):
            scores = torch.stack([rows[i] @ rows[j] / 0.4 for j in range(n)])
            others = [j for j in range(n) if j != i]
            total += scores[others].logsumexp(0) - scores[(i + n // 2) % n]
        return total / n

    inputs = [torch.randn(5, 3, requires_grad=True) for _ in range(2)]
    assert_same_value_and_gradient(
        lambda first, second: infonce_loss(first, second, temperature=0.4),
        twin,
        *inputs,
    )


def test_infonce_loss_does_not_depend_on_the_order_of_views():
    first, second = torch.randn(2, 6, 3)
    torch.testing.assert_close(
        infonce_loss(first, second, temperature=0.1),
        infonce_loss(second, first, temperature=0.1),
    )


def test_anatomy_loss_equals_its_loop_over_stacks_and_targets():
    targets = torch.randn(3, 5, 2)
    weights = torch.rand(3, 5)
    target_weights = torch.tensor([1.0, 3.0])

    def twin(prediction):
        loss = 0.0
        for r in range(2):
            patches = stacks = 0.0
            for b in range(3):
                error = [prediction[b, n, r] - targets[b, n, r] for n in range(5)]
                patches += sum(w * e**2 for w, e in zip(weights[b], error, strict=True))
                stacks += (
                    sum(w * e for w, e in zip(weights[b], error, strict=True)) ** 2
                )
            value = patches / weights.sum() + 0.01 * stacks / (weights**2).sum()
            loss += target_weights[r] / 4 * value
        return loss

    assert_same_value_and_gradient(
        lambda prediction: anatomy_loss(prediction, targets, weights, target_weights),
        twin,
        torch.randn(3, 5, 2, requires_grad=True),
    )


def test_anatomy_loss_ignores_the_scale_of_weights_and_weightless_patches():
    prediction, targets = torch.randn(2, 3, 5, 2)
    weights = torch.rand(3, 5)
    weights[:, 4] = 0
    equal = torch.ones(2)
    loss = anatomy_loss(prediction, targets, weights, equal)
    scaled = anatomy_loss(prediction, targets, 7 * weights, 3 * equal)
    torch.testing.assert_close(loss, scaled)
    shorter = anatomy_loss(prediction[:, :4], targets[:, :4], weights[:, :4], equal)
    torch.testing.assert_close(loss, shorter)


def test_anatomy_loss_of_a_stack_without_foreground_is_zero():
    prediction = torch.randn(2, 4, 3, requires_grad=True)
    loss = anatomy_loss(
        prediction, torch.randn(2, 4, 3), torch.zeros(2, 4), torch.ones(3)
    )
    loss.backward()
    assert loss == 0
    assert torch.isfinite(prediction.grad).all()
