import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from brainfeat.pretraining.self_distillation import (
    HeadedEncoder,
    LossTerms,
    SelfDistillation,
    unwrapped,
)
from brainfeat.pretraining.views import Views

OBJECTIVES = ("dino", "ibot", "koleo", "infonce", "anatomy")
HEADS = {
    "dino": "dino_head",
    "ibot": "ibot_head",
    "infonce": "projector",
    "anatomy": "anatomy_head",
}


class Wrapped(nn.Module):
    """A stand-in for `DistributedDataParallel`."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def build(config, seed=0):
    torch.manual_seed(seed)
    return SelfDistillation(config, n_targets=3)


def only(config, *names):
    """Set the weights of all other objectives to 0."""
    weights = {f"{name}_weight": float(name in names) for name in OBJECTIVES}
    return replace(config, **weights)


def count_calls(module):
    """Return a list that grows with each call of a module."""
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_total_is_the_weighted_sum_of_the_terms(small_config, make_views):
    config = replace(small_config, dino_weight=0.7, ibot_weight=0.9, koleo_weight=0.3)
    terms, _, _ = build(config)(make_views(config), teacher_temperature=0.2)
    expected = sum(
        getattr(config, f"{name}_weight") * getattr(terms, name) for name in OBJECTIVES
    )
    torch.testing.assert_close(terms.total, expected)
    assert all(getattr(terms, name) != 0 for name in OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_without_weight_has_no_head_and_no_loss(
    small_config, make_views, name
):
    config = replace(small_config, **{f"{name}_weight": 0.0})
    model = build(config)
    terms, _, _ = model(make_views(config), teacher_temperature=0.2)
    others = [other for other in OBJECTIVES if other != name]
    assert getattr(terms, name) == 0
    assert all(getattr(terms, other) != 0 for other in others)
    if name in HEADS:
        assert HEADS[name] not in dict(model.student.named_children())


@pytest.mark.parametrize(
    ("name", "n_student", "n_teacher"),
    [
        ("dino", 2, 1),
        ("ibot", 1, 1),
        ("koleo", 1, 0),
        ("infonce", 1, 0),
        ("anatomy", 1, 0),
    ],
)
def test_objective_alone_encodes_only_what_it_compares(
    small_config, make_views, name, n_student, n_teacher
):
    config = only(small_config, name)
    model = build(config)
    student, teacher = (
        count_calls(network.encoder) for network in (model.student, model.teacher)
    )
    terms, _, targets = model(make_views(config), teacher_temperature=0.2)
    assert len(student) == n_student
    assert len(teacher) == n_teacher
    assert (targets is None) == (n_teacher == 0)
    assert terms.total == getattr(terms, name)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_trained_parameter_is_used_and_the_teacher_has_no_gradient(
    small_config, make_views, name
):
    # DDP would wait for a parameter without gradient.
    config = only(small_config, name)
    config = replace(config, encoder=replace(config.encoder, drop_path=0.0))
    views = replace(
        config.views, mask_probability=1.0, hidden_modalities=0.5, n_global=6
    )
    config = replace(config, views=views)
    model = build(config)
    with torch.no_grad():
        # Layers that are initialised to zero pass no gradient, and KoLeo's vanishes
        # where all tokens are alike.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    terms, _, _ = model(make_views(config), teacher_temperature=0.2)
    terms.total.backward()
    unused = [
        key
        for key, parameter in model.student.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert unused == []
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


def test_teacher_starts_as_the_student_and_never_trains(small_config):
    model = build(small_config)
    student, teacher = model.student.state_dict(), model.teacher.state_dict()
    assert all(torch.equal(student[key], teacher[key]) for key in student)
    assert not model.teacher.training
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


def test_teacher_is_the_moving_average_of_the_student(small_config):
    model = build(small_config)
    expected = {key: value.double() for key, value in model.teacher.named_parameters()}
    generator = torch.Generator().manual_seed(4)
    for momentum in (0.9, 0.5, 0.99):
        with torch.no_grad():
            for key, value in model.student.named_parameters():
                value.add_(torch.randn(value.shape, generator=generator))
                expected[key] = momentum * expected[key] + (1 - momentum) * value
        model.update_teacher(momentum)
    for key, value in model.teacher.named_parameters():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-5)


def test_teacher_copies_the_standardisation_of_the_anatomy_head(small_config):
    model = build(small_config)
    model.student.anatomy_head.mean.fill_(3.0)
    model.update_teacher(1.0)
    assert (model.teacher.anatomy_head.mean == 3.0).all()


def test_momentum_of_one_keeps_the_teacher(small_config):
    model = build(small_config)
    before = {key: value.clone() for key, value in model.teacher.named_parameters()}
    with torch.no_grad():
        for value in model.student.parameters():
            value.add_(1.0)
    model.update_teacher(1.0)
    for key, value in model.teacher.named_parameters():
        assert torch.equal(value, before[key])


def test_teacher_encodes_what_is_hidden_from_the_student(small_config, make_views):
    views = replace(
        small_config.views, hidden_modalities=1.0, mask_probability=1.0, n_local=0
    )
    encoder = replace(small_config.encoder, drop_path=0.0)
    config = replace(small_config, views=views, encoder=encoder)
    model = build(config)
    with torch.no_grad():
        for network in (model.student, model.teacher):
            # They are initialised to zero, which would conceal hiding.
            network.encoder.absent_embed.fill_(0.5)
            network.encoder.mask_token.fill_(-0.5)
    shown = make_views(config)
    _, student, teacher = model(shown, teacher_temperature=0.2)
    group = replace(shown.global_views, visible=shown.global_views.present, masks=None)
    _, bare, _ = model(replace(shown, global_views=group), teacher_temperature=0.2)
    torch.testing.assert_close(teacher.class_tokens, bare.class_tokens)
    assert not torch.allclose(student.class_tokens, bare.class_tokens, atol=1e-3)


def test_centre_moves_once_a_step_by_all_views(small_config, make_views):
    model = build(only(small_config, "dino"))
    _, _, teacher = model(make_views(small_config), teacher_temperature=0.2)
    mean = teacher.class_logits.float().mean(dim=(0, 1))
    torch.testing.assert_close(model.dino_centring.center, 0.1 * mean)


def test_heads_have_outputs_for_their_views(small_config, make_views):
    views = make_views(small_config)
    _, student, teacher = build(small_config)(views, teacher_temperature=0.2)
    n_masked = int(views.global_views.masks.sum())
    assert student.class_tokens.shape == (2, 5, 24)
    assert student.class_logits.shape == (3, 5, 11)
    assert teacher.class_logits.shape == (2, 5, 11)
    assert student.patch_logits.shape == teacher.patch_logits.shape == (n_masked, 11)
    assert student.projections.shape == (2, 5, 9)
    assert student.predicted_targets.shape == (2, 5, 3, 2, 3, 3)


def test_tokens_of_a_view_are_averaged_by_their_foreground(small_config, make_views):
    group = make_views(small_config).global_views
    generator = torch.Generator().manual_seed(6)
    fractions = torch.rand(group.fractions.shape, generator=generator)
    fractions[:, :, 1] = 0  # a slab without foreground
    group = replace(group, fractions=fractions)
    model = build(small_config)
    with torch.no_grad():
        output = model.teacher(Views(group), masked=False)
        for view, subject in itertools.product(range(2), range(5)):
            rows = {
                "present": group.visible[view, subject],
                "positions": group.positions[view, subject],
                "foreground": fractions[view, subject] > 0,
            }
            tokens = model.teacher.encoder(
                group.slabs[view, subject][None],
                **{name: value[None] for name, value in rows.items()},
            )
            slab_weights = fractions[view, subject].sum(dim=(1, 2))
            expected = slab_weights @ tokens.cls_token[0] / slab_weights.sum()
            torch.testing.assert_close(
                output.class_tokens[view, subject], expected, rtol=1e-3, atol=1e-4
            )
            weights = fractions[view, subject].flatten()
            mean = weights @ tokens.patch_tokens[0].flatten(0, 2) / weights.sum()
            torch.testing.assert_close(
                output.projections[view, subject],
                model.teacher.projector(mean[None])[0],
                rtol=1e-3,
                atol=1e-4,
            )


def test_masked_patches_do_not_count_in_the_anatomy_loss(small_config, make_views):
    config = only(small_config, "ibot", "anatomy")
    model = build(config)
    views = make_views(config)
    torch.manual_seed(1)
    before, _, _ = model(views, teacher_temperature=0.2)
    targets = torch.where(
        views.global_views.masks[..., None], 9.0, views.global_views.targets
    )
    changed = replace(views, global_views=replace(views.global_views, targets=targets))
    torch.manual_seed(1)
    after, _, _ = model(changed, teacher_temperature=0.2)
    assert views.global_views.masks.any()
    assert torch.equal(before.anatomy, after.anatomy)


@pytest.mark.parametrize(
    ("background", "matters"), [("kept", True), ("skipped", False)]
)
def test_background_matters_to_encoders_that_keep_it(
    small_config, make_views, background, matters
):
    encoder = replace(small_config.encoder, background=background)
    config = replace(small_config, encoder=encoder)
    views = make_views(config)
    fractions = views.global_views.fractions.clone()
    fractions[..., 0, :] = 0  # the first row of patches holds no brain
    fractions[1, 2] = 0  # nor does a whole view
    masks = views.global_views.masks & (fractions > 0)
    losses = []
    for brightness in (0.0, 5.0):
        slabs = views.global_views.slabs.clone()
        slabs[..., : encoder.patch_size, :] += brightness
        slabs[1, 2] += brightness
        model = build(config)
        group = replace(
            views.global_views, slabs=slabs, fractions=fractions, masks=masks
        )
        torch.manual_seed(0)  # of stochastic depth
        changed = replace(views, global_views=group)
        terms, _, _ = model(changed, teacher_temperature=0.2)
        losses.append(terms.total)
    assert (losses[0] != losses[1]) == matters
    losses[0].backward()
    gradients = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_loss_decreases_in_training(small_config, make_views):
    config = only(small_config, "anatomy")
    model, views = build(config), make_views(config)
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        terms, _, _ = model(views, teacher_temperature=0.2)
        terms.total.backward()
        optimizer.step()
        losses.append(float(terms.total.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_terms_are_named_as_the_weights_of_the_configuration():
    assert LossTerms._fields == ("total", *OBJECTIVES, "agreement", "consistency")


def test_unwrapped_finds_the_network(small_config):
    network = HeadedEncoder(small_config, 3)
    assert unwrapped(network) is network
    assert unwrapped(Wrapped(network)) is network
    with pytest.raises(TypeError, match="Linear"):
        unwrapped(Wrapped(nn.Linear(2, 3)))
