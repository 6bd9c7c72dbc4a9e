import math
from dataclasses import replace

import pytest
import torch

from brainfeat.models.encoder import EncoderOutput
from brainfeat.pretraining import losses
from brainfeat.pretraining.agreement import Agreement, Spread, mean_tokens
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.views import ViewConfig, ViewGroup

SHAPE = (2, 5, 3, 2, 4)  # V B S h w
DIM = 6


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def config(small_config):
    weights = ("dino", "ibot", "koleo", "infonce", "anatomy")
    return replace(
        small_config,
        **{f"{name}_weight": 0.0 for name in weights},
        encoder=replace(small_config.encoder, embed_dim=DIM),
        views=replace(small_config.views, global_boxes="shared"),
        agreement_weight=1.0,
        consistency_weight=1.0,
        consistency_parts=(1.0, 1.0, 1.0),
    )


def bounded(square):
    return square if square < 1 else 2 * math.sqrt(square) - 1


def group_of(fractions):
    views, subjects, slabs = fractions.shape[:3]
    present = torch.ones(views, subjects, 2, dtype=torch.bool)
    positions = torch.zeros(views, subjects, slabs)
    return ViewGroup(fractions, present, present, fractions, positions)


def tokens_of(views, generator):
    shape = (views, *SHAPE[1:])
    patches = torch.randn(*shape, DIM, generator=generator, requires_grad=True)
    classes = torch.randn(*shape[:3], DIM, generator=generator, requires_grad=True)
    return EncoderOutput(classes, patches)


def fractions_of(views, generator):
    return torch.rand(views, *SHAPE[1:], generator=generator)


def test_token_distance_is_that_of_a_loop(generator):
    first = torch.randn(3, 4, 5, generator=generator, requires_grad=True)
    second = torch.randn(3, 4, 5, generator=generator)
    variance = torch.rand(5, generator=generator) + 0.1
    weights = torch.rand(3, 4, generator=generator)
    loss = losses.token_distance(first, second, variance, weights)
    total = 0.0
    for i in range(3):
        for j in range(4):
            for d in range(5):
                apart = (first[i, j, d] - second[i, j, d]).item()
                total += weights[i, j].item() * apart**2 / variance[d].item() / 5
    assert loss.item() == pytest.approx(total / weights.sum().item(), rel=1e-5)
    loss.backward()
    assert first.grad.abs().sum() > 0
    nothing = losses.token_distance(first, second, variance, torch.zeros(3, 4))
    assert nothing.item() == 0


def test_subject_distance_is_quadratic_near_and_linear_far(generator):
    first = torch.randn(4, 3, 5, generator=generator).mul(0.9).requires_grad_()
    second = torch.randn(4, 1, 5, generator=generator).mul(0.9)
    variance = torch.rand(5, generator=generator) + 1.0
    loss = losses.subject_distance(first, second, variance)
    rows = []
    for i in range(4):
        for j in range(3):
            square = (first[i, j] - second[i, 0]).square() / variance
            rows.append(square.mean().item())
    assert min(rows) < 1 < max(rows)
    assert loss.item() == pytest.approx(sum(map(bounded, rows)) / 12, rel=1e-5)
    loss.backward()
    assert first.grad.isfinite().all()


def test_structure_loss_counts_only_what_is_known(generator):
    prediction = torch.randn(4, 7, 3, generator=generator, requires_grad=True)
    targets = torch.randn(4, 7, 3, generator=generator)
    weights = torch.rand(4, 7, generator=generator)
    known = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]).bool()
    emphasis = torch.tensor([1.0, 3.0, 5.0])
    loss = losses.structure_loss(prediction, targets, weights, known, emphasis)
    expected, total = 0.0, 0.0
    for r in range(2):  # nobody tells the third
        error = weight = 0.0
        for b in range(4):
            for n in range(7) if known[b, r] else ():
                apart = (prediction[b, n, r] - targets[b, n, r]).item()
                error += weights[b, n].item() * apart**2
                weight += weights[b, n].item()
        expected += emphasis[r].item() * error / weight
        total += emphasis[r].item()
    assert loss.item() == pytest.approx(expected / total, rel=1e-5)
    loss.backward()
    assert prediction.grad[0, :, 1].abs().sum() == 0
    assert prediction.grad[1, :, 1].abs().sum() > 0
    nobody = torch.zeros_like(known)
    assert losses.structure_loss(prediction, targets, weights, nobody, emphasis) == 0


def test_all_known_structures_are_the_patches_of_the_anatomy_loss(generator):
    # The second term of the anatomy loss vanishes where errors cancel in each stack.
    error = torch.randn(3, 4, 2, generator=generator)
    prediction = torch.cat([error, -error], dim=1)
    weights = torch.rand(3, 4, generator=generator).repeat(1, 2)
    targets, emphasis = torch.zeros(3, 8, 2), torch.tensor([1.0, 2.0])
    known = torch.ones(3, 2, dtype=torch.bool)
    torch.testing.assert_close(
        losses.structure_loss(prediction, targets, weights, known, emphasis),
        losses.anatomy_loss(prediction, targets, weights, emphasis),
    )


def test_whole_loss_is_that_of_a_loop(generator):
    error = torch.randn(5, 3, generator=generator, requires_grad=True)
    variance = torch.rand(3, generator=generator) + 0.2
    known = torch.rand(5, 3, generator=generator) < 0.7
    emphasis = torch.tensor([1.0, 2.0, 0.5])
    expected = 0.0
    for r in range(3):
        rows = [
            bounded(error[b, r].item() ** 2 / variance[r].item())
            for b in range(5)
            if known[b, r]
        ]
        expected += emphasis[r].item() * sum(rows) / len(rows) / 3.5
    loss = losses.whole_loss(error, variance, known, emphasis)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert error.grad[~known].abs().sum() == 0


def test_equal_tokens_agree_and_their_distance_is_over_the_spread(config, generator):
    model = Agreement(config)
    fractions = fractions_of(2, generator)
    patches = tokens_of(1, generator).patch_tokens.detach()
    shown = group_of(fractions[:1])
    target = mean_tokens(EncoderOutput(None, patches), shown)
    class_tokens = target[:, :, None].expand(-1, -1, SHAPE[2], -1)
    teacher = EncoderOutput(class_tokens, patches)
    same = EncoderOutput(class_tokens.repeat(2, 1, 1, 1), patches.repeat(2, *[1] * 5))
    group = group_of(fractions[:1].repeat(2, 1, 1, 1, 1))
    terms = model(same, same.patch_tokens, group, teacher, shown)
    assert terms.agreement.item() == pytest.approx(0, abs=1e-9)
    assert terms.consistency.item() == pytest.approx(0, abs=1e-9)
    assert terms.within_between.item() == pytest.approx(0, abs=1e-9)
    apart = same.patch_tokens + 0.1
    first = model.eval()(same, apart, group, teacher, shown).agreement
    for spread in (model.tokens, model.subjects):
        spread.variance.mul_(4)
    second = model(same, apart, group, teacher, shown).agreement
    assert second.item() == pytest.approx(first.item() / 4, rel=1e-4)


def test_agreement_trains_tokens_and_the_class_token(config, generator):
    model = Agreement(config)
    student, teacher = tokens_of(2, generator), tokens_of(1, generator)
    group = group_of(fractions_of(2, generator))
    shown = group_of(fractions_of(1, generator))
    terms = model(student, student.patch_tokens, group, teacher, shown)
    for name in ("agreement", "consistency"):
        for part in student:
            part.grad = None
        getattr(terms, name).backward(retain_graph=True)
        assert all(part.grad.abs().sum() > 0 for part in student), name


def test_smaller_tokens_are_not_more_consistent(config, generator):
    config = replace(config, consistency_parts=(0.5, 1.0, 0.0))
    model = Agreement(config).eval()
    student, group = tokens_of(2, generator), group_of(fractions_of(2, generator))
    scale = torch.ones((), requires_grad=True)
    shown = EncoderOutput(student.cls_token, scale * student.patch_tokens)
    # Below one standard deviation, where the distance is quadratic.
    model.student.variance.fill_(4.0)
    model(shown, shown.patch_tokens, group, None, None).consistency.backward()
    gradient = student.patch_tokens.grad
    assert gradient.abs().sum() > 0
    assert abs(scale.grad.item()) < 1e-5
    assert abs((gradient * student.patch_tokens.detach()).sum().item()) < 1e-5


def test_only_patches_inside_both_brains_are_compared(config, generator):
    config = replace(config, agreement_parts=(1.0, 0.0, 0.0))
    student, teacher = tokens_of(2, generator), tokens_of(1, generator)
    fractions, own = fractions_of(2, generator), fractions_of(1, generator)
    group, shown = group_of(fractions), group_of(own)
    terms = Agreement(config)(student, student.patch_tokens, group, teacher, shown)
    terms.agreement.backward()
    compared = student.patch_tokens.grad.abs().sum(dim=-1) > 0
    assert torch.equal(compared, (fractions > 0.5) & (own > 0.5))


def test_spread_follows_the_variance_between_rows(generator):
    spread, rows = Spread(4), torch.randn(50, 4, generator=generator)
    spread.move(rows)
    torch.testing.assert_close(spread.variance, rows.var(dim=0))
    spread.move(3 * rows, 0.75)
    torch.testing.assert_close(spread.variance, 3 * rows.var(dim=0))
    spread.move(rows[:1])  # one row has no variance
    torch.testing.assert_close(spread.variance, 3 * rows.var(dim=0))


def test_spread_between_subjects_is_followed_while_training(config, generator):
    model = Agreement(config)
    student, group = tokens_of(2, generator), group_of(fractions_of(2, generator))
    rows = mean_tokens(student, group).mean(dim=0)
    ratios = [
        model(student, student.patch_tokens, group, None, None).subject_spread.item()
        for _ in range(300)
    ]
    assert ratios[-1] == pytest.approx(rows.var(dim=0).mean().item(), rel=0.1)
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": ViewConfig()}, "global_boxes: expected 'shared' or 'whole'"),
        ({"batch_size": 4, "accumulation_steps": 4}, "two subjects in each .* agree"),
        ({"agreement_parts": (0.0, 0.0, 0.0)}, "agreement_parts: expected a weight"),
        (
            {"views": ViewConfig(global_boxes="whole", n_global=1)},
            "at least 2 for DINO, InfoNCE, consistency",
        ),
    ],
)
def test_impossible_agreement_is_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, encoder=PretrainingConfig().encoder, **changes)
