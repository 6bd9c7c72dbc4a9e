"""Student, teacher, and the objectives between them."""

__all__ = ["HeadOutputs", "HeadedEncoder", "LossTerms", "SelfDistillation", "unwrapped"]

import copy
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from brainfeat.models.encoder import EncoderOutput, SlabEncoder
from brainfeat.models.heads import AnatomyHead, Projector, PrototypeHead
from brainfeat.pretraining import losses
from brainfeat.pretraining.agreement import (
    Agreement,
    Spread,
    mean_class_tokens,
    mean_tokens,
)
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.views import ViewGroup, Views, mask_weights

_CENTRINGS: dict[str, Callable[[int], nn.Module]] = {
    "sinkhorn": losses.SinkhornKnopp,
    "moving_average": losses.MovingAverageCentring,
}
_OF_PAIRS = ("agreement", "consistency")


class HeadOutputs(NamedTuple):
    """Outputs of one network for all views; None where no objective needs them."""

    class_tokens: Tensor  # V B D, of the global views
    class_logits: Tensor | None  # V+L B K, prototypes of global, then local views
    patch_logits: Tensor | None  # M K, prototypes of the masked global patches
    projections: Tensor | None  # V B P, of the mean patch token of global views
    predicted_targets: Tensor | None  # V B S h w R, standardised
    tokens: EncoderOutput | None = None  # V B S (h w) D, of the global views
    read_tokens: Tensor | None = None  # V B S h w D, as compared with the teacher's


class LossTerms(NamedTuple):
    """The weighted total, and each objective before its weight; 0 where unused."""

    total: Tensor
    dino: Tensor
    ibot: Tensor
    koleo: Tensor
    infonce: Tensor
    anatomy: Tensor
    agreement: Tensor
    consistency: Tensor


class HeadedEncoder(nn.Module):
    """The encoder with the heads of the objectives; `n_targets` anatomy targets R."""

    def __init__(self, config: PretrainingConfig, n_targets: int) -> None:
        super().__init__()
        self.encoder = SlabEncoder(config.encoder)
        self.encoder.set_activation_checkpointing(config.activation_checkpointing)
        dim = config.encoder.embed_dim
        hidden_dim, out_dim = config.head_hidden_dim, config.head_bottleneck_dim
        sizes = {"hidden_dim": hidden_dim, "bottleneck_dim": out_dim}
        self.dino_head = self.ibot_head = self.projector = self.anatomy_head = None
        if config.dino_weight > 0:
            self.dino_head = PrototypeHead(dim, config.n_prototypes, **sizes)
        if config.ibot_weight > 0:
            self.ibot_head = PrototypeHead(dim, config.n_prototypes, **sizes)
        if config.infonce_weight > 0:
            self.projector = Projector(dim, hidden_dim=hidden_dim, out_dim=out_dim)
        if config.anatomy_weight > 0:
            self.anatomy_head = AnatomyHead(dim, n_targets)
        self.uses_pairs, self.readout = config.uses_pairs, None
        if config.agreement_weight > 0 and config.agreement_readout == "linear":
            self.readout = _identity(dim)
        # DDP would wait for the gradient of a mask token that is never used.
        self.encoder.mask_token.requires_grad_(self.ibot_head is not None)

    def forward(self, views: Views, *, masked: bool) -> HeadOutputs:
        """Encode global and local views; hide masked patches if `masked`."""
        group = views.global_views
        hides = masked and self.ibot_head is not None
        tokens = _encode(self.encoder, group, group.masks if hides else None)
        class_tokens = mean_class_tokens(tokens, group)  # V B D
        patch_logits = predicted_targets = projections = None
        if self.ibot_head is not None and group.masks is not None:
            patch_logits = self.ibot_head(tokens.patch_tokens[group.masks])
        if self.anatomy_head is not None:
            predicted_targets = self.anatomy_head(tokens.patch_tokens)
        if self.projector is not None:
            projections = self.projector(mean_tokens(tokens, group))
        return HeadOutputs(
            class_tokens=class_tokens,
            class_logits=self._class_logits(class_tokens, views.local_views),
            patch_logits=patch_logits,
            projections=projections,
            predicted_targets=predicted_targets,
            tokens=tokens if self.uses_pairs else None,
            read_tokens=self._read(tokens) if self.uses_pairs else None,
        )

    def _read(self, tokens: EncoderOutput) -> Tensor:
        patches = tokens.patch_tokens
        return patches if self.readout is None else self.readout(patches)

    def _class_logits(
        self, class_tokens: Tensor, local_views: ViewGroup | None
    ) -> Tensor | None:
        if self.dino_head is None:
            return None
        if local_views is not None:
            tokens = _encode(self.encoder, local_views, None)
            local_tokens = mean_class_tokens(tokens, local_views)
            class_tokens = torch.cat([class_tokens, local_tokens])
        logits: Tensor = self.dino_head(class_tokens)
        return logits


class SelfDistillation(nn.Module):
    """A student, its moving-average teacher, and the loss between them.

    The student is wrapped in `DistributedDataParallel` for several ranks; the teacher's
    encoder becomes the checkpoint.
    """

    def __init__(self, config: PretrainingConfig, n_targets: int = 0) -> None:
        super().__init__()
        self.config = config
        self.student: nn.Module = HeadedEncoder(config, n_targets)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.teacher.eval()  # no stochastic depth in the targets
        # The initial encoder, if it is needed after the student and the teacher moved.
        self.reference: SlabEncoder | None = None
        if config.has_frozen_teacher:
            self.reference = copy.deepcopy(self.teacher.encoder)
        self.agreement = Agreement(config) if config.uses_pairs else None
        self.whole_spread: Spread | None = None
        if config.anatomy_weight > 0 and config.anatomy_whole_weight > 0:
            self.whole_spread = Spread(n_targets)
        self.pair_measures: dict[str, Tensor] = {}  # of the last batch
        centring = _CENTRINGS[config.centring]
        self.dino_centring = centring(config.n_prototypes)
        self.ibot_centring = centring(config.n_prototypes)

    def forward(
        self, views: Views, *, teacher_temperature: float
    ) -> tuple[LossTerms, HeadOutputs, HeadOutputs | None]:
        """Return the loss, the student's outputs and the teacher's, if it is used."""
        config, group = self.config, views.global_views
        shown = views if config.uses_local_views else Views(group)
        student = self.student(shown, masked=True)
        teacher = None
        if config.uses_teacher:
            unhidden = dataclasses.replace(group, visible=group.present)
            with torch.no_grad():
                teacher = self.teacher(Views(unhidden), masked=False)
        target = self.encode_reference(views.reference)
        # Sums over prototypes and logarithms of distances need float32.
        with torch.autocast(group.slabs.device.type, enabled=False):
            terms = self._terms(student, teacher, group, teacher_temperature)
            terms |= self._compare(student, target, views)
            losses_ = self._weigh(terms)
        return losses_, student, teacher

    @torch.no_grad()
    def encode_reference(self, group: ViewGroup | None) -> EncoderOutput | None:
        """Encode the clean acquisition by the teacher of the agreement."""
        if group is None or self.config.agreement_weight == 0:
            return None
        if self.reference is not None:
            return _encode(self.reference, group, None)
        outputs: HeadOutputs = self.teacher(Views(group), masked=False)
        return outputs.tokens

    def encode_initially(self, group: ViewGroup) -> EncoderOutput:
        """Encode views by the teacher's encoder, before the first step."""
        return _encode(unwrapped(self.teacher).encoder, group, None)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Keep the fraction `momentum` of the teacher; take the rest of the student."""
        student = unwrapped(self.student)
        torch._foreach_lerp_(
            list(self.teacher.parameters()),
            [parameter.detach() for parameter in student.parameters()],
            1.0 - momentum,
        )
        buffers = zip(self.teacher.buffers(), student.buffers(), strict=True)
        for teacher_buffer, student_buffer in buffers:
            teacher_buffer.copy_(student_buffer)

    def _terms(
        self,
        student: HeadOutputs,
        teacher: HeadOutputs | None,
        group: ViewGroup,
        teacher_temperature: float,
    ) -> dict[str, Tensor]:
        config = self.config
        zero = student.class_tokens.new_zeros((), dtype=torch.float32)
        terms = dict.fromkeys(LossTerms._fields, zero)
        if teacher is not None:
            terms |= self._distil(student, teacher, group, teacher_temperature)
        if config.koleo_weight > 0:
            views = [losses.koleo_loss(rows) for rows in student.class_tokens]
            terms["koleo"] = torch.stack(views).mean()
        if student.projections is not None:
            first, second = student.projections[:2]
            terms["infonce"] = losses.infonce_loss(
                first, second, temperature=config.infonce_temperature
            )
        return terms | self._anatomy(student, group)

    def _weigh(self, terms: dict[str, Tensor]) -> LossTerms:
        config = self.config
        names = [name for name in LossTerms._fields[1:] if name not in _OF_PAIRS]
        # Only where they are used: further zeros can change the rounding of a sum.
        names += _OF_PAIRS if config.uses_pairs else ()
        weighted = [getattr(config, f"{name}_weight") * terms[name] for name in names]
        return LossTerms(**(terms | {"total": torch.stack(weighted).sum()}))

    def _compare(
        self, student: HeadOutputs, target: EncoderOutput | None, views: Views
    ) -> dict[str, Tensor]:
        """Compare acquisitions of one brain; keep what the log shows of it."""
        tokens, read_tokens = student.tokens, student.read_tokens
        if self.agreement is None or tokens is None or read_tokens is None:
            return {}
        terms = self.agreement(
            tokens, read_tokens, views.global_views, target, views.reference
        )
        self.pair_measures = {
            "within_between": terms.within_between.detach(),
            "subject_spread": terms.subject_spread.detach(),
        }
        return {"agreement": terms.agreement, "consistency": terms.consistency}

    def _distil(
        self,
        student: HeadOutputs,
        teacher: HeadOutputs,
        group: ViewGroup,
        teacher_temperature: float,
    ) -> dict[str, Tensor]:
        config, terms = self.config, {}
        if student.class_logits is not None and teacher.class_logits is not None:
            assignments = self.dino_centring(
                teacher.class_logits, temperature=teacher_temperature
            )
            terms["dino"] = losses.dino_loss(
                student.class_logits,
                assignments,
                temperature=config.student_temperature,
            )
        if (
            student.patch_logits is not None
            and teacher.patch_logits is not None
            and group.masks is not None
        ):
            assignments = self.ibot_centring(
                teacher.patch_logits, temperature=teacher_temperature
            )
            terms["ibot"] = losses.ibot_loss(
                student.patch_logits,
                assignments,
                mask_weights(group.masks.flatten(0, 1)),
                temperature=config.student_temperature,
            )
        return terms

    def _anatomy(self, output: HeadOutputs, group: ViewGroup) -> dict[str, Tensor]:
        head = unwrapped(self.student).anatomy_head
        if head is None or output.predicted_targets is None or group.targets is None:
            return {}
        weights = group.fractions
        if self.config.ibot_weight > 0 and group.masks is not None:
            weights = weights * ~group.masks  # the student does not see masked patches
        prediction = output.predicted_targets.flatten(0, 1).flatten(1, 3)  # VB N R
        targets = head.standardise(group.targets).flatten(0, 1).flatten(1, 3)
        rows = weights.flatten(0, 1).flatten(1)  # VB N
        known = None
        if group.known is None:
            loss = losses.anatomy_loss(prediction, targets, rows, head.emphasis)
        else:
            known = group.known.repeat(len(group.fractions), 1)  # VB R
            loss = losses.structure_loss(
                prediction, targets, rows, known, head.emphasis
            )
        if self.whole_spread is not None:
            # Sums of fractions over the patches that have foreground.
            error = (prediction.float() - targets) * head.spread
            sums = torch.einsum("bn,bnr->br", (rows > 0).float(), error)
            loss = loss + self.config.anatomy_whole_weight * losses.whole_loss(
                sums, self.whole_spread.variance, known, head.emphasis
            )
        return {"anatomy": loss}


def unwrapped(network: nn.Module) -> HeadedEncoder:
    """Return the network inside a `DistributedDataParallel`, or itself."""
    inner = getattr(network, "module", network)
    if not isinstance(inner, HeadedEncoder):
        raise TypeError(f"expected a HeadedEncoder, got {type(inner).__name__}.")
    return inner


def _encode(
    encoder: SlabEncoder, group: ViewGroup, masks: Tensor | None
) -> EncoderOutput:
    """Encode all views of a group as one batch: tokens of shape (V, B, ...)."""
    views = group.slabs.shape[:2]
    output = encoder(
        group.slabs.flatten(0, 1),
        present=group.visible.flatten(0, 1),
        masks=None if masks is None else masks.flatten(0, 1),
        positions=group.positions.flatten(0, 1),
        foreground=group.fractions.flatten(0, 1) > 0,
    )
    return EncoderOutput(
        output.require_cls_token().unflatten(0, views),
        output.patch_tokens.unflatten(0, views),
    )


def _identity(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
