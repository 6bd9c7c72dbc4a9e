"""Seconds of each stage between a file and its vector, run in sequence."""

from functools import partial
from pathlib import Path

import torch
from speed_floor import arithmetic, seconds_of

from brainfeat import Checkpoint, Preprocessor, read_volume
from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.packed_linear import pack_linear_layers
from brainfeat.models.pooling import pool_tokens
from brainfeat.models.threads import map_in_threads
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.intensities import repair, standardise
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.slabs.grid import SlabGrid

CPU = torch.device("cpu")
_N_BATCHES = 6


class Stages:
    """Stages of one volume."""

    def __init__(self, checkpoint: Checkpoint, path: Path) -> None:
        self.checkpoint, self.path = checkpoint, path
        self.config = checkpoint.config
        self.preprocessor = Preprocessor.from_dict(self.config.preprocessing)
        self.volume = read_volume(path)
        self.subject = self.preprocess()
        self.grid = SlabGrid(
            thickness=self.config.encoder.thickness, plane=self.config.plane
        )
        encoder = self.config.encoder
        fractions = self.grid.token_fractions(
            self.subject.foreground, encoder.patch_size
        )
        counted = encoder.count_foreground(fractions)
        self.fractions = torch.from_numpy(counted)[None]  # 1 S h w

    @property
    def operations(self) -> float:
        """Multiplications and additions of the encoder."""
        present = torch.from_numpy(self.subject.present)
        return arithmetic(self.config.encoder, self.fractions > 0, present)

    def preprocess(self) -> PreprocessedSubject:
        modalities = self.config.encoder.modalities
        return self.preprocessor.apply({modalities[0]: self.volume}, modalities)

    def before_encoder(self) -> dict[str, float]:
        """Time the stages before the encoder, each on one core."""
        clean, subject = repair(reorient_to_ras(self.volume)), self.subject
        grid = subject.geometry, subject.grid_to_scanner
        percentiles = self.preprocessor.percentiles
        stages = {
            "read": partial(read_volume, self.path),
            "align": partial(align_to_template, clean),
            "resample": partial(resample, clean, *grid),
            "normalise": partial(
                standardise, subject.data[0], subject.foreground, percentiles
            ),
        }
        seconds = {name: seconds_of(work, CPU) for name, work in stages.items()}
        parts = sum(seconds[name] for name in ("align", "resample", "normalise"))
        whole = seconds_of(self.preprocess, CPU)
        return seconds | {"brain mask and rest": max(whole - parts, 0.0)}

    def from_encoder(
        self, device: torch.device, dtype: torch.dtype, batch_size: int
    ) -> dict[str, float]:
        """Time the encoder on volumes in memory, with all cores."""
        encoder = self.checkpoint.build_encoder().to(device, dtype)
        pack_linear_layers(encoder)
        slabs = torch.from_numpy(self.grid.extract(self.subject.data))[None]
        present = torch.from_numpy(self.subject.present)[None]
        batch = [
            x.to(device).expand(batch_size, *x.shape[1:])
            for x in (slabs, present, self.fractions)
        ]

        @torch.inference_mode()
        def encode(_: int = 0) -> EncoderOutput:
            output: EncoderOutput = encoder(
                batch[0].to(dtype), present=batch[1], foreground=batch[2] > 0
            )
            return output

        def encode_all() -> None:
            # As the embedder does: on a CPU, each thread encodes its own volumes.
            with map_in_threads(encode, range(_N_BATCHES), device=device) as outputs:
                for _ in outputs:
                    pass

        pool = partial(pool_tokens, encode(), batch[2])
        return {
            "encode": seconds_of(encode_all, device) / _N_BATCHES / batch_size,
            "pool": seconds_of(pool, device) / batch_size,
        }
