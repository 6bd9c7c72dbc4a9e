"""The loss is MONAI's, in value and gradient."""

import numpy as np
import pytest
import torch

from brainfeat.segmentation.losses import dice_ce_loss, dice_loss


def draw(n_classes, shape=(2, 5, 6, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, *grid = shape
    logits = 3 * torch.randn(batch, n_classes, *grid, generator=generator)
    labels = torch.randint(n_classes, (batch, 1, *grid), generator=generator)
    return logits.requires_grad_(), labels.float()


@pytest.mark.slow  # monai takes seconds to import
@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_loss_and_gradient_are_those_of_monai(n_classes):
    from monai.losses import DiceCELoss

    logits, labels = draw(n_classes)
    labels[labels == n_classes - 1] = 0  # a class that the crop lacks
    reference = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True
    )
    expected = reference(logits, labels)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = dice_ce_loss(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_loss_equals_its_naive_loop_and_has_a_gradient():
    logits, labels = draw(4)
    probabilities = logits.detach().softmax(1).numpy()
    losses = []
    for label in range(1, 4):
        overlap = total = 0.0
        for probability, truth in zip(probabilities, labels.numpy(), strict=True):
            is_label = truth[0] == label
            overlap += probability[label][is_label].sum()
            total += probability[label].sum() + is_label.sum()
        losses.append(1 - 2 * overlap / total)
    dice = dice_loss(logits, labels).item()
    assert dice == pytest.approx(np.mean(losses), rel=1e-4)
    pairs = zip(probabilities, labels.int().numpy(), strict=True)
    entropies = [-np.log(np.take_along_axis(p, t, 0)) for p, t in pairs]
    loss = dice_ce_loss(logits, labels)
    assert loss.item() == pytest.approx(dice + np.mean(entropies), rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).any(dim=(0, 2, 3, 4)).all()


def test_perfect_prediction_has_no_loss():
    _, labels = draw(3)
    one_hot = torch.nn.functional.one_hot(labels[:, 0].long(), 3).movedim(-1, 1)
    assert dice_ce_loss(100.0 * one_hot, labels).item() == pytest.approx(0, abs=1e-6)
