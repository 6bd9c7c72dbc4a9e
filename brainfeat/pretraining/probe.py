"""How much a linear classifier learns from few labels, while training goes on."""

__all__ = ["LinearProbe", "area_under_curve", "fit_logistic"]

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.seeds import seeded_generator
from brainfeat.pretraining.subjects import SubjectBatch
from brainfeat.slabs.crops import pool_patches, stack_to_slabs

_PLANE_ORDER = {
    "axial": (3, 2, 1),
    "coronal": (2, 3, 1),
    "sagittal": (1, 3, 2),
}


class LinearProbe:
    """Score an encoder by logistic regression on labelled subjects.

    Parameters
    ----------
    subjects : SubjectBatch
        Whole volumes; the first acquisition is used.
    labels : bool Tensor of shape (B,)
        Class of each subject.
    n_train : int
        Subjects that the classifier learns from, half of each class.
    n_splits : int
        Random splits that the score is averaged over.
    plane : {"axial", "coronal", "sagittal"}
        Plane of the slabs.
    seed : int
        Seed of the splits.
    """

    def __init__(
        self,
        subjects: SubjectBatch,
        labels: Tensor,
        *,
        n_train: int = 40,
        n_splits: int = 10,
        plane: str = "axial",
        seed: int = 0,
    ) -> None:
        self.subjects, self.labels = subjects, labels.bool()
        self.n_train, self.n_splits = n_train, n_splits
        self.plane, self.seed = plane, seed

    def __call__(self, encoder: SlabEncoder) -> float:
        """Score an encoder.

        Parameters
        ----------
        encoder : SlabEncoder
            In evaluation mode.

        Returns
        -------
        float
            Area under the ROC curve of the subjects that were held out, mean over
            splits.
        """
        rows = self.embed(encoder)
        scores = []
        for split in range(self.n_splits):
            train, test = self._split(split)
            predict = fit_logistic(rows[train], self.labels[train])
            scores.append(area_under_curve(predict(rows[test]), self.labels[test]))
        return sum(scores) / len(scores)

    @torch.no_grad()
    def embed(self, encoder: SlabEncoder) -> Tensor:
        """Average the patch tokens of each subject: (B, D).

        Parameters
        ----------
        encoder : SlabEncoder
            In evaluation mode.

        Returns
        -------
        Tensor of shape (B, D)
            One row a subject.
        """
        config = encoder.config
        order = _PLANE_ORDER[self.plane]
        device = encoder.cls_token.device
        rows = []
        for number in range(len(self.labels)):
            volumes = self.subjects.volumes[number, 0].to(device).permute(0, *order)
            foreground = self.subjects.foreground[number][None, None, None]
            stack = foreground.permute(0, 1, 2, *(axis + 2 for axis in order))
            pooled = pool_patches(stack, config.thickness, config.patch_size)
            fractions = config.count_foreground(pooled[0, ..., 0]).to(device)  # 1 S h w
            output = encoder(
                stack_to_slabs(volumes[None], config.thickness),
                present=self.subjects.present[number, :1].to(device),
                foreground=fractions > 0,
            )
            rows.append(pool_tokens(output, fractions).cpu())
        return torch.cat(rows)

    def _split(self, number: int) -> tuple[Tensor, Tensor]:
        generator = seeded_generator(self.seed, number)
        train, test = [], []
        for label in (False, True):
            rows = (self.labels == label).nonzero().flatten()
            rows = rows[torch.randperm(len(rows), generator=generator)]
            train.append(rows[: self.n_train // 2])
            test.append(rows[self.n_train // 2 :])
        return torch.cat(train), torch.cat(test)


def fit_logistic(
    rows: Tensor, labels: Tensor, *, penalty: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """Fit logistic regression with an L2 penalty, on standardised columns.

    Parameters
    ----------
    rows : Tensor of shape (N, D)
        One row a subject.
    labels : bool Tensor of shape (N,)
        Classes, both present.
    penalty : float
        Half of it times the squared weights is added to the summed loss, as with
        scikit-learn's ``C = 1 / penalty``.

    Returns
    -------
    callable
        Maps rows of shape (M, D) to logits (M,).
    """
    rows = rows.double()
    mean, spread = rows.mean(dim=0), rows.std(dim=0, correction=0).clamp(min=1e-9)
    x, y = (rows - mean) / spread, labels.double()
    weights = torch.zeros(x.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=200, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(
            x @ weights + bias, y, reduction="sum"
        )
        loss = loss + 0.5 * penalty * weights.square().sum()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(closure)

    def predict(new: Tensor) -> Tensor:
        return ((new.double() - mean) / spread) @ weights.detach() + bias.detach()

    return predict


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """Compute the chance that a positive row scores above a negative one.

    Parameters
    ----------
    scores : Tensor of shape (N,)
        Higher for the positive class.
    labels : bool Tensor of shape (N,)
        Classes, both present.

    Returns
    -------
    float
        Area under the ROC curve; ties count half.

    Examples
    --------
    >>> import torch
    >>> area_under_curve(torch.tensor([0.1, 0.4, 0.3]), torch.tensor([0, 1, 1]) == 1)
    1.0
    """
    difference = scores[labels][:, None] - scores[~labels][None, :]
    return float((difference.sign().mean() + 1) / 2)
