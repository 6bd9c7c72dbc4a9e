"""Units of the objectives, measured on a few batches before the first step."""

__all__ = ["calibrate"]

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.heads import AnatomyHead
from brainfeat.pretraining.agreement import Spread, inner_tokens, mean_tokens
from brainfeat.pretraining.ranks import all_ranks_mean
from brainfeat.pretraining.self_distillation import SelfDistillation, unwrapped
from brainfeat.pretraining.views import ViewGroup, Views

# Sums that hardly vary between the subjects at hand still have this standard deviation.
_SMALLEST_SPREAD = 0.05  # of the mean
_RIDGE = 1e-3  # of the mean square of a token's features


class _Sample(NamedTuple):
    """What one batch contributes; rows are subjects or patches."""

    targets: Tensor | None  # V B S h w R
    fractions: Tensor  # V B S h w
    known: Tensor | None  # V B R
    tokens: Tensor | None  # N D
    means: Tensor | None  # B D
    read: Tensor | None  # V B S h w D: tokens that the targets are read from


@torch.no_grad()
def calibrate(
    model: SelfDistillation, batches: Iterable[Views], target_weights: Iterable[float]
) -> None:
    """Set the units of an unwrapped model to those of batches of views."""
    head = unwrapped(model.student).anatomy_head
    samples = [_sample(model, views) for views in batches]
    if head is not None:
        head.emphasis.copy_(torch.tensor(list(target_weights)))
        _calibrate_targets(head, model.whole_spread, samples)
        _read_initially(head, samples)
        teacher = unwrapped(model.teacher).get_submodule("anatomy_head")
        teacher.load_state_dict(head.state_dict())
    if model.agreement is not None:
        means = [sample.means for sample in samples if sample.means is not None]
        tokens = [sample.tokens for sample in samples if sample.tokens is not None]
        model.agreement.calibrate(torch.cat(tokens), torch.cat(means))
    model.update_teacher(1.0)


def _sample(model: SelfDistillation, views: Views) -> _Sample:
    group, tokens, means = views.global_views, None, None
    if model.agreement is not None:
        shown = views.reference or group
        output = model.encode_initially(shown)
        tokens, means = inner_tokens(output, shown), _subject_means(output, shown)
    known = group.known
    if known is not None:
        known = known.expand(len(group.fractions), -1, -1)
    read = None
    if group.targets is not None:
        read = model.encode_initially(group).patch_tokens.float()
    return _Sample(group.targets, group.fractions, known, tokens, means, read)


def _subject_means(output: EncoderOutput, group: ViewGroup) -> Tensor:
    return mean_tokens(output, group).mean(dim=0)


def _calibrate_targets(
    head: AnatomyHead, whole_spread: Spread | None, samples: list[_Sample]
) -> None:
    targets = torch.cat([s.targets for s in samples if s.targets is not None])
    fractions = torch.cat([sample.fractions for sample in samples])
    known = [sample.known for sample in samples if sample.known is not None]
    weights = fractions
    if known:
        shown = torch.cat(known)[:, :, None, None, None].float()  # V B 1 1 1 R
        weights = fractions[..., None] * shown
    head.calibrate(targets, weights)
    for name in ("mean", "spread"):
        # All ranks must use the same units.
        value = all_ranks_mean(getattr(head, name))
        getattr(head, name).copy_(value)
    if whole_spread is not None:
        is_inside = (fractions > 0)[..., None]
        sums = (targets * is_inside).sum(dim=(2, 3, 4)).flatten(0, 1)  # N R
        shown = torch.cat(known).flatten(0, 1) if known else sums.isfinite()
        variance = _variance(sums, shown).to(sums.device)
        whole_spread.variance.copy_(all_ranks_mean(variance))


def _read_initially(head: AnatomyHead, samples: list[_Sample]) -> None:
    """Start the head from a ridge regression of the targets on the initial tokens."""
    n_targets, dim = head.linear.weight.shape
    gram = torch.zeros(n_targets, dim + 1, dim + 1, dtype=torch.float64)
    moments = torch.zeros(n_targets, dim + 1, dtype=torch.float64)
    for sample in samples:
        if sample.targets is None or sample.read is None:
            continue
        targets = head.standardise(sample.targets)
        for view, subject in np.ndindex(*sample.fractions.shape[:2]):
            weights = sample.fractions[view, subject]
            inside = weights > 0
            rows = nn.functional.pad(
                sample.read[view, subject][inside], (0, 1), value=1.0
            )
            weighed = (rows * weights[inside, None]).cpu().double()
            known = torch.ones(n_targets, dtype=torch.float64)
            if sample.known is not None:
                known = sample.known[view, subject].cpu().double()
            gram += known[:, None, None] * (weighed.T @ rows.cpu().double())
            products = weighed.T @ targets[view, subject][inside].cpu().double()
            moments += known[:, None] * products.T
    gram, moments = _shared(gram, head), _shared(moments, head)
    size = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-6)
    gram += _RIDGE * size[:, None, None] * torch.eye(dim + 1, dtype=torch.float64)
    fitted = torch.linalg.solve(gram, moments).to(head.linear.weight)
    head.linear.weight.copy_(fitted[:, :-1])
    head.linear.bias.copy_(fitted[:, -1])


def _shared(sums: Tensor, head: AnatomyHead) -> Tensor:
    """Average over ranks, on the device that they communicate by."""
    return all_ranks_mean(sums.to(head.linear.weight)).cpu().double()


def _variance(sums: Tensor, known: Tensor) -> Tensor:
    """Return the variance of each column over its known rows, bounded from below."""
    sums, known = sums.cpu(), known.cpu()  # Apple's MPS has no float64
    weights = known.double() / known.sum(dim=0).clamp(min=1)
    mean = (weights * sums).sum(dim=0)
    variance = (weights * (sums - mean).square()).sum(dim=0)
    return (variance + (_SMALLEST_SPREAD * mean).square()).clamp(min=1e-6).float()
