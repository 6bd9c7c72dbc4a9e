"""A checkpoint: weights, preprocessing and model card in one folder."""

__all__ = ["CHECKPOINT_FILES", "Checkpoint"]

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.hub import CONFIG_NAME, locate_checkpoint
from brainfeat.checkpoint.layouts import Converted, convert_file
from brainfeat.checkpoint.weight_files import (
    check_weights_file,
    file_sha256,
    read_tensors,
)
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    UntrainedCheckpointWarning,
)
from brainfeat.io.atomic import atomic_write
from brainfeat.io.json_files import format_json, read_json
from brainfeat.io.paths import expand_home
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoders import EncoderKind, build_encoder
from brainfeat.models.protocol import Encoder
from brainfeat.models.transfer import check_state

StoredDtype = Literal["float32", "float16", "bfloat16"]

_FORMAT = "brainfeat-checkpoint-1"
_WEIGHTS, _CARD = "model.safetensors", "README.md"
CHECKPOINT_FILES = (_WEIGHTS, CONFIG_NAME, _CARD)
# These change no feature: tables made before and after an edit can be joined.
_NOT_FINGERPRINTED = ("description", "library_version")
# Fields of an encoder of slabs that came later, with values that change nothing.
_LATER = {"kind": "slab"}


class Checkpoint:
    """An encoder's weights with the configuration that they need.

    Parameters
    ----------
    config : CheckpointConfig
        Sizes, preprocessing and provenance.
    state : mapping of str to Tensor
        Parameters of the encoder; copied to the CPU as float32.
    model_card : str
        Markdown for ``README.md``; a short one is written if it is empty.

    Raises
    ------
    CheckpointError
        If the weights are not exactly those of the configuration.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        state: Mapping[str, Tensor],
        model_card: str = "",
    ) -> None:
        check_state(state, config.encoder)
        self.config = config
        # Copies, since training may continue to change the network.
        self.state = {
            name: value.detach().to("cpu", torch.float32, copy=True)
            for name, value in state.items()
        }
        self.model_card = model_card or _short_card(config)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Self:
        """Load a checkpoint, or weights of DINOv2 in another library's layout.

        DINOv2's RGB kernels are kept: the encoder takes T1w slabs of three slices on
        a 1 mm grid whose sides are multiples of the patch size.

        Parameters
        ----------
        source : str or path
            The name of a bundled checkpoint (``"brainfound-tiny"``); a checkpoint
            folder; a ``.pth`` or ``.safetensors`` file or a folder of Meta,
            transformers or timm; or ``"hf-hub:organisation/name@revision"``.

        Returns
        -------
        Checkpoint
            Weights in float32, whatever their stored precision.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it is damaged or incomplete.
        MissingDependencyError
            If the source is on the hub and ``huggingface_hub`` is not installed.

        Warns
        -----
        UntrainedCheckpointWarning
            If the weights are random.
        """
        path = locate_checkpoint(source)
        checkpoint = cls._load_own(path) if _is_own(path) else cls._convert(path)
        if not checkpoint.config.trained:
            warnings.warn(
                f"{os.fspath(source)} is not trained: its features come from random "
                "weights.",
                UntrainedCheckpointWarning,
                stacklevel=2,
            )
        return checkpoint

    @classmethod
    def untrained(cls, config: CheckpointConfig, *, seed: int = 0) -> Self:
        """Return a checkpoint with random weights.

        Parameters
        ----------
        config : CheckpointConfig
            Its ``trained`` must be false.
        seed : int
            Seed of the weights.

        Returns
        -------
        Checkpoint
            Identical for identical seeds.

        Raises
        ------
        ConfigError
            If the configuration claims to be trained.
        """
        if config.trained:
            raise ConfigError("untrained: expected config.trained=False, got True.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, build_encoder(config.encoder).state_dict())

    def save(
        self, folder: str | os.PathLike[str], *, dtype: StoredDtype = "float32"
    ) -> Path:
        """Write ``model.safetensors``, ``README.md`` and ``config.json``.

        Files are written under temporary names first, so a failed save leaves the
        folder unchanged. The configuration holds the hash of the weights, so that
        files of two checkpoints are never mixed.

        Parameters
        ----------
        folder : path
            Created if needed; ``~`` is the home folder. Other files in it are kept.
        dtype : {"float32", "float16", "bfloat16"}
            Precision of the stored weights.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ConfigError
            If `dtype` is unknown.
        """
        folder = expand_home(folder)
        if dtype not in get_args(StoredDtype):
            raise ConfigError(
                f"dtype: expected one of {get_args(StoredDtype)}, got {dtype!r}."
            )
        stored = getattr(torch, dtype)
        state = {k: v.to(stored).contiguous() for k, v in self.state.items()}
        with ExitStack() as stack:
            # Renamed in reverse order: weights first, configuration last.
            config, card, weights = (
                stack.enter_context(atomic_write(folder / name))
                for name in (CONFIG_NAME, _CARD, _WEIGHTS)
            )
            save_file(state, weights)
            content = {
                "format": _FORMAT,
                **self.config.to_dict(),
                "weights_sha256": file_sha256(weights),
            }
            card.write_text(self.model_card, encoding="utf-8")
            config.write_text(format_json(content), encoding="utf-8")
        return folder

    def build_encoder(self) -> Encoder:
        """Return the network with these weights, in evaluation mode.

        Returns
        -------
        Encoder
            An independent module: training it does not change the checkpoint.
        """
        with torch.device("meta"):
            encoder = build_encoder(self.config.encoder)
        copies = {name: value.clone() for name, value in self.state.items()}
        encoder.load_state_dict(copies, assign=True)
        return encoder.eval()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of every setting that changes a feature."""
        settings = self.config.to_dict()
        for name in _NOT_FINGERPRINTED:
            del settings[name]
        if settings["encoder"]["kind"] == "slab":
            # Checkpoints of earlier versions keep their fingerprint.
            encoder = settings["encoder"].items()
            settings["encoder"] = {k: v for k, v in encoder if _LATER.get(k) != v}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name in sorted(self.state):
            value = self.state[name].contiguous()
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def _load_own(cls, folder: Path) -> Self:
        content = _read_config(folder)
        if content.pop("format") != _FORMAT:
            raise CheckpointError(
                f"{folder}: expected format {_FORMAT!r}, got one of another version."
            )
        expected = content.pop("weights_sha256", None)
        weights, card = folder / _WEIGHTS, folder / _CARD
        if not weights.is_file():
            raise CheckpointError(f"{folder}: expected {_WEIGHTS}, got no such file.")
        try:
            check_weights_file(weights)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        if file_sha256(weights) != expected:
            raise CheckpointError(
                f"{weights}: expected the SHA-256 in {CONFIG_NAME}, got another; "
                "the file is damaged or was replaced."
            )
        try:
            config = CheckpointConfig.from_dict(content)
            return cls(config, read_tensors(weights), _read_card(card))
        except (CheckpointError, ConfigError) as error:
            raise CheckpointError(f"{folder}: {error}") from error

    @classmethod
    def _convert(cls, path: Path) -> Self:
        try:
            converted = convert_file(path)
        except CheckpointError as error:
            if not path.is_dir():
                raise
            reason = str(error).removeprefix(f"{path}: ")
            raise CheckpointError(
                f"{path}: expected {CONFIG_NAME} of a brainfeat checkpoint, or weights "
                f"of DINOv2; {reason}"
            ) from error
        config = CheckpointConfig(
            encoder=converted.encoder,
            preprocessing=_foreign_preprocessing(converted.encoder),
            missing_modalities=len(converted.encoder.modalities) > 1,
            description=_describe(path.name, converted),
        )
        return cls(config, converted.state)


def _is_own(path: Path) -> bool:
    return (path / CONFIG_NAME).is_file() and "format" in _read_config(path)


def _read_config(folder: Path) -> dict[str, Any]:
    what = "the configuration of a checkpoint"
    return read_json(folder / CONFIG_NAME, what, error=CheckpointError)


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path.name}: expected text in UTF-8 ({error})."
        ) from error


def _describe(name: str, converted: Converted) -> str:
    if isinstance(converted.encoder, EncoderConfig):
        return f"Weights of {name}, which were not trained on brain MRI."
    unused = len(converted.unused)
    dropped = f", without {unused} parameters that it does not use" if unused else ""
    return f"Weights of {name}: {converted.layout}{dropped}."


def _foreign_preprocessing(encoder: EncoderKind) -> dict[str, Any]:
    """Return a grid of 1 mm, the detail that patches of 14 voxels need."""
    if not isinstance(encoder, EncoderConfig):
        return {}
    patch, thickness = encoder.patch_size, encoder.thickness
    steps_and_sizes = ((patch, 150), (patch, 190), (thickness, 150))
    return {
        "shape": [-(-size // step) * step for step, size in steps_and_sizes],
        "spacing": 1.0,
        "alignment": "rigid",
        "bias_correction": False,
        "brain_mask": None,
        "percentiles": [0.5, 99.5],
    }


def _short_card(config: CheckpointConfig) -> str:
    encoder = config.encoder
    return f"""# brainfeat checkpoint

{config.description or "No description was given."}

- state: {"trained" if config.trained else "**not trained: random weights**"}
- modalities: {", ".join(encoder.modalities)}
- plane of slabs: {config.plane}
- network: {encoder.summary}
- recommended pooling: {config.pooling}
- written by brainfeat {config.library_version}

For research. Not a medical device.
"""
