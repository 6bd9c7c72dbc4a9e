"""Units and initial read-out of the anatomy head."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.pretraining.calibration import calibrate
from brainfeat.pretraining.self_distillation import SelfDistillation


@pytest.fixture
def config(small_config):
    weights = {"dino_weight": 0.0, "ibot_weight": 0.0, "koleo_weight": 0.0}
    return replace(small_config, **weights, infonce_weight=0.0, anatomy_weight=1.0)


def test_the_head_starts_as_a_ridge_regression_on_the_initial_tokens(
    config, make_views
):
    torch.manual_seed(3)
    model = SelfDistillation(config, 3)
    batches = [make_views(config, step) for step in range(4)]
    calibrate(model, batches, (1.0, 1.0, 1.0))
    head = model.student.anatomy_head
    rows, targets, weights = [], [], []
    for views in batches:
        group = views.global_views
        inside = group.fractions > 0
        rows.append(model.encode_initially(group).patch_tokens[inside].detach())
        targets.append(head.standardise(group.targets)[inside])
        weights.append(group.fractions[inside])
    x = torch.cat(rows).double().numpy()
    x = np.column_stack([x, np.ones(len(x))])
    y, w = torch.cat(targets).double().numpy(), torch.cat(weights).double().numpy()
    gram = (x * w[:, None]).T @ x
    ridge = 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    expected = np.linalg.solve(gram + ridge, (x * w[:, None]).T @ y)
    fitted = torch.cat([head.linear.weight, head.linear.bias[:, None]], dim=1)
    np.testing.assert_allclose(fitted.detach().numpy().T, expected, atol=2e-3)
    teacher = model.teacher.anatomy_head.linear.weight
    assert torch.equal(teacher, head.linear.weight)
