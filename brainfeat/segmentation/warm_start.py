"""Start the training of a decoder from a segmentation model."""

__all__ = ["DecoderStart"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from brainfeat.exceptions import ModalityError
from brainfeat.models.decoder import SegmentationDecoder
from brainfeat.segmentation.folder import read_folder


@dataclass(frozen=True, eq=False)
class DecoderStart:
    """A trained decoder, whose features another one starts from."""

    encoder: str  # name or folder of the encoder that it decodes
    decoder: SegmentationDecoder
    prior: Tensor  # (K, i, j, k), by which the decoder knows positions
    modalities: tuple[str, ...]
    names: tuple[str, ...]  # of classes, background first

    @classmethod
    def read(cls, folder: Path) -> "DecoderStart":
        """Read the folder of a segmentation model."""
        content = read_folder(folder)
        fitted = content.fitted
        names = (fitted["names_"][int(label)] for label in fitted["classes_"])
        return cls(
            encoder=content.parameters["checkpoint"],
            decoder=fitted["decoder_"],
            prior=fitted["prior_"],
            modalities=fitted["modalities_"],
            names=tuple(names),
        )

    @torch.no_grad()
    def apply(
        self,
        decoder: SegmentationDecoder,
        modalities: Sequence[str],
        names: Sequence[str],
    ) -> None:
        """Copy all weights but those of classes with other names, in place.

        At first the features are exactly those of the trained decoder, of which
        ``modalities`` are shown: the prior of its classes is one of the inputs.
        """
        if not set(modalities) <= set(self.modalities):
            raise ModalityError(
                f"checkpoint: expected a model of {tuple(modalities)} to start from, "
                f"got one of {self.modalities}."
            )
        old, new = self.decoder.state_dict(), decoder.state_dict()
        changed = ("fine.", "modality_embed", "from_voxels.", "places.", "head.")
        for name, value in new.items():
            if not name.startswith(changed):
                value.copy_(old[name])
        width, n_classes = self.decoder.config.width, len(names)
        shown = [self.modalities.index(name) for name in modalities]
        hidden = [i for i in range(len(self.modalities)) if i not in shown]
        embed = old["modality_embed"]
        new["fine.weight"].copy_(old["fine.weight"][:, shown])
        new["fine.bias"].copy_(old["fine.bias"] + embed[hidden].sum(0))
        new["modality_embed"].copy_(embed[shown])
        channels = [*range(width), *(width + index for index in shown)]
        new["from_voxels.weight"].copy_(old["from_voxels.weight"][:, channels])
        new["from_voxels.bias"].copy_(old["from_voxels.bias"])
        # Its inputs are the foreground, the prior, and the prior of the start.
        places = new["places.weight"]
        places.zero_()
        places[:, :1] = old["places.weight"][:, :1]
        places[:, 1 + n_classes :] = old["places.weight"][:, 1:]
        new["places.bias"].copy_(old["places.bias"])
        for index, name in enumerate(names):
            if name in self.names:
                for part in ("head.weight", "head.bias"):
                    new[part][index] = old[part][self.names.index(name)]
