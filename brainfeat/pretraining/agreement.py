"""Agreement of acquisitions of one brain, over what tells brains apart."""

__all__ = [
    "Agreement",
    "AgreementTerms",
    "Spread",
    "inner_tokens",
    "mean_class_tokens",
    "mean_tokens",
]

from typing import NamedTuple

import torch
from torch import Tensor, nn

from brainfeat.models.encoder import EncoderOutput
from brainfeat.pretraining import losses, ranks
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.views import ViewGroup

_INSIDE = 0.5  # foreground fraction of the patches whose tokens are compared
_STUDENT_MOMENTUM = 0.98
_TEACHER_MOMENTUM = 0.99
_SMALLEST_SPREAD = 0.05  # of the variance of a feature between subjects, of the mean


class Spread(nn.Module):
    """Variance of each of D values between rows."""

    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(size))

    @torch.no_grad()
    def move(self, rows: Tensor, momentum: float = 0.0) -> None:
        """Move the variance towards that of rows (N, D); no effect below two rows."""
        if len(rows) < 2:
            return
        variance = ranks.all_ranks_mean(rows.float().var(dim=0)).clamp(min=1e-8)
        self.variance.lerp_(variance, 1.0 - momentum)


class AgreementTerms(NamedTuple):
    """Losses between acquisitions, and what the log shows of them."""

    agreement: Tensor
    consistency: Tensor
    within_between: Tensor  # variance within subjects over that between subjects
    subject_spread: Tensor  # variance between subjects over the initial one


class Agreement(nn.Module):
    """Distances of tokens that two acquisitions of one brain should share.

    Tokens are compared over the spread of tokens, the mean tokens of brains over their
    spread between subjects, so that no subject has to become like another. The class
    token learns the mean token of the brain.
    """

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder.embed_dim
        # Of the teacher's tokens, and of mean tokens of the teacher and the student.
        self.tokens, self.subjects, self.student = Spread(dim), Spread(dim), Spread(dim)

    def calibrate(self, tokens: Tensor, means: Tensor) -> None:
        """Set all spreads to those of the first encoder: rows (N, D) and (B, D)."""
        self.tokens.move(tokens)
        self.subjects.move(means)
        self.student.move(means)

    def forward(
        self,
        student: EncoderOutput,
        read_tokens: Tensor,
        group: ViewGroup,
        teacher: EncoderOutput | None,
        reference: ViewGroup | None,
    ) -> AgreementTerms:
        """Compare the student's views with the teacher's reference, and each other.

        `read_tokens` are the student's patch tokens as compared with the teacher's.
        """
        means = mean_tokens(student, group)  # V B D
        self._follow(means, teacher, reference)
        between = self._between(means)
        zero = means.new_zeros(())
        agreement = consistency = zero
        if teacher is not None and reference is not None:
            agreement = self._agree(student, read_tokens, group, teacher, reference)
        if len(means) > 1:
            consistency = self._be_consistent(student, means, group, between)
            within = means.detach().var(dim=0).mean()
        else:
            within = zero
        return AgreementTerms(
            agreement,
            consistency,
            within / between.detach().mean(),
            between.detach().mean() / self.subjects.variance.mean(),
        )

    def _follow(
        self, means: Tensor, teacher: EncoderOutput | None, reference: ViewGroup | None
    ) -> None:
        """Follow the spreads of encoders that change."""
        if not self.training:
            return
        rows = ranks.gather_rows(means.detach().mean(dim=0))
        self.student.move(rows, _STUDENT_MOMENTUM)
        moves = self.config.agreement_teacher == "moving_average"
        if moves and teacher is not None and reference is not None:
            rows = ranks.gather_rows(mean_tokens(teacher, reference)[0])
            self.subjects.move(rows, _TEACHER_MOMENTUM)
            self.tokens.move(inner_tokens(teacher, reference), _TEACHER_MOMENTUM)

    def _agree(
        self,
        student: EncoderOutput,
        read_tokens: Tensor,
        group: ViewGroup,
        teacher: EncoderOutput,
        reference: ViewGroup,
    ) -> Tensor:
        tokens, whole, classes = self.config.agreement_parts
        is_inside = (group.fractions > _INSIDE) & (reference.fractions > _INSIDE)
        if self.config.ibot_weight > 0 and group.masks is not None:
            is_inside = is_inside & ~group.masks
        target = mean_tokens(teacher, reference)  # 1 B D
        read = _weighted_mean(read_tokens, group)
        spread = self.subjects.variance
        return (
            tokens
            * losses.token_distance(
                read_tokens, teacher.patch_tokens, self.tokens.variance, is_inside
            )
            + whole * losses.subject_distance(read, target, spread)
            + classes
            * losses.subject_distance(mean_class_tokens(student, group), target, spread)
        )

    def _between(self, means: Tensor) -> Tensor:
        """Return the variances (D,) between subjects, averaged over steps.

        The gradient is that of the batch: tokens that all become smaller are no closer
        to each other.
        """
        average = self.student.variance
        average = torch.maximum(average, _SMALLEST_SPREAD * average.mean())
        rows = ranks.gather_rows(means.mean(dim=0))
        if len(rows) < 2:
            return average
        batch = rows.var(dim=0).mean().clamp(min=1e-8)
        return average * batch / batch.detach()

    def _be_consistent(
        self, student: EncoderOutput, means: Tensor, group: ViewGroup, between: Tensor
    ) -> Tensor:
        tokens, whole, classes = self.config.consistency_parts
        first, second = means[:-1], means[1:]
        loss = whole * losses.subject_distance(first, second, between)
        if tokens > 0:
            patches = student.patch_tokens
            is_inside = group.fractions > _INSIDE
            if self.config.ibot_weight > 0 and group.masks is not None:
                is_inside = is_inside & ~group.masks
            variance = inner_tokens(student, group).var(dim=0).mean()
            loss = loss + tokens * losses.token_distance(
                patches[:-1], patches[1:], variance, is_inside[:-1] & is_inside[1:]
            )
        if classes > 0:
            class_tokens = mean_class_tokens(student, group)
            target = means.detach().mean(dim=0, keepdim=True)
            loss = loss + classes * losses.subject_distance(
                class_tokens, target, between.detach()
            )
        return loss


def mean_tokens(tokens: EncoderOutput, group: ViewGroup) -> Tensor:
    """Average the patch tokens of each view over the foreground: (V, B, D)."""
    return _weighted_mean(tokens.patch_tokens, group)


def mean_class_tokens(tokens: EncoderOutput, group: ViewGroup) -> Tensor:
    """Average the class tokens of each view, weighted by foreground: (V, B, D)."""
    weights = group.fractions.sum(dim=(3, 4)) + 1e-6
    weights = weights / weights.sum(dim=2, keepdim=True)
    return torch.einsum("vbs,vbsd->vbd", weights, tokens.require_cls_token().float())


def inner_tokens(tokens: EncoderOutput, group: ViewGroup) -> Tensor:
    """Return the tokens (N, D) of patches that are mostly foreground."""
    return tokens.patch_tokens[group.fractions > _INSIDE].float()


def _weighted_mean(patch_tokens: Tensor, group: ViewGroup) -> Tensor:
    weights = group.fractions + 1e-6  # defined for a view without foreground, too
    weights = weights / weights.sum(dim=(2, 3, 4), keepdim=True)
    return torch.einsum("vbshw,vbshwd->vbd", weights, patch_tokens.float())
