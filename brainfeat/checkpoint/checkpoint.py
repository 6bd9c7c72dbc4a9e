"""A checkpoint: weights, preprocessing and model card, which travel together."""

__all__ = [
    "CHECKPOINT_FILES",
    "Checkpoint",
    "CheckpointConfig",
    "lasting_name",
    "locate_checkpoint",
]

import dataclasses
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

from brainfeat._version import __version__
from brainfeat.checkpoint.layouts import load_foreign
from brainfeat.checkpoint.weight_files import download, file_sha256, read_foreign
from brainfeat.configs import check_fields, from_plain, to_plain
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    UntrainedCheckpointWarning,
)
from brainfeat.io.atomic import atomic_write
from brainfeat.io.json_files import read_json
from brainfeat.io.paths import expand_home
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.pooling import PoolingMode
from brainfeat.models.transfer import check_state
from brainfeat.slabs.grid import Plane

StoredDtype = Literal["float32", "float16", "bfloat16"]

_BUNDLED = Path(__file__).parents[1] / "weights"
_FORMAT = "brainfeat-checkpoint-1"
CHECKPOINT_FILES = _WEIGHTS, _CONFIG, _CARD = (
    "model.safetensors",
    "config.json",
    "README.md",
)
# These change no feature, so tables made before and after such an edit agree.
_NOT_FINGERPRINTED = ("description", "library_version")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What an encoder must be told to give the features it was trained for.

    Parameters
    ----------
    encoder : EncoderConfig
        Sizes of the network, its modalities and thickness.
    preprocessing : mapping
        What ``Preprocessor.from_dict`` reads.
    plane : {"axial", "coronal", "sagittal"}
        Orientation of the slabs.
    pooling : {"mean", "cls", "cls+mean"}
        The pooling that served best.
    missing_modalities : bool
        Whether training hid modalities, so that subjects may lack some.
    trained : bool
        Whether the weights have learnt anything.
    description : str
        What it was trained on and for, in a sentence.
    library_version : str
        Version of brainfeat that wrote it.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or impossible.
    """

    encoder: EncoderConfig
    preprocessing: Mapping[str, Any]
    plane: Plane = "axial"
    pooling: PoolingMode = "mean"
    missing_modalities: bool = False
    trained: bool = True
    description: str = ""
    library_version: str = __version__

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from plain JSON values.

        Parameters
        ----------
        values : mapping
            Field names and values, the encoder's in a mapping of its own.

        Returns
        -------
        CheckpointConfig
            The configuration.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value impossible.
        """
        config: Self = from_plain(cls, values, complete=True)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values.

        Returns
        -------
        dict
            What `from_dict` reads.
        """
        values: dict[str, Any] = to_plain(self)
        return values


class Checkpoint:
    """An encoder's weights with the configuration that they need.

    Parameters
    ----------
    config : CheckpointConfig
        Sizes, preprocessing and provenance.
    state : mapping of str to Tensor
        Parameters of ``SlabEncoder(config.encoder)``; copied to the CPU as float32.
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
        # Copies, since a network may go on learning.
        self.state = {
            name: value.detach().to("cpu", torch.float32, copy=True)
            for name, value in state.items()
        }
        self.model_card = model_card or _short_card(config)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Self:
        """Load a checkpoint, or weights of DINOv2 in another library's layout.

        Foreign weights keep their RGB kernels: the encoder takes T1w slabs of
        three slices on a 1 mm grid whose sides are multiples of the patch size.

        Parameters
        ----------
        source : str or path
            The name of a bundled checkpoint (``"brainfound-tiny"``); a checkpoint
            folder; a ``.pth`` or ``.safetensors`` file or a folder of Meta,
            transformers or timm; or ``"hf-hub:organisation/name@revision"``.

        Returns
        -------
        Checkpoint
            Weights in float32, whatever they are stored in.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it is damaged or incomplete.
        MissingDependencyError
            If the hub is asked and ``huggingface_hub`` is not installed.

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
                "weights and say little about a brain.",
                UntrainedCheckpointWarning,
                stacklevel=2,
            )
        return checkpoint

    @classmethod
    def untrained(cls, config: CheckpointConfig, *, seed: int = 0) -> Self:
        """Draw random weights.

        Parameters
        ----------
        config : CheckpointConfig
            Its ``trained`` must be false.
        seed : int
            Seed of the weights.

        Returns
        -------
        Checkpoint
            The same for the same seed.

        Raises
        ------
        ConfigError
            If the configuration claims to be trained.
        """
        if config.trained:
            raise ConfigError("random weights cannot have a config with trained=True.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, SlabEncoder(config.encoder).state_dict())

    def save(
        self, folder: str | os.PathLike[str], *, dtype: StoredDtype = "float32"
    ) -> Path:
        """Write ``model.safetensors``, ``README.md`` and ``config.json``.

        A save that fails leaves the folder as it was: the files are written under
        other names first. The hash of the weights is in the configuration, so that
        files of two checkpoints are never taken for one.

        Parameters
        ----------
        folder : path
            Made if it is not there, ``~`` is the home folder; other files in it are
            left alone.
        dtype : {"float32", "float16", "bfloat16"}
            Precision of the stored weights.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ConfigError
            If weights are not stored in such a precision.
        """
        folder = expand_home(folder)
        if dtype not in get_args(StoredDtype):
            raise ConfigError(
                f"dtype: expected one of {get_args(StoredDtype)}, got {dtype!r}."
            )
        stored = getattr(torch, dtype)
        state = {k: v.to(stored).contiguous() for k, v in self.state.items()}
        with ExitStack() as stack:
            # Left in reverse: the weights come first, the configuration last.
            config, card, weights = (
                stack.enter_context(atomic_write(folder / name))
                for name in (_CONFIG, _CARD, _WEIGHTS)
            )
            save_file(state, weights)
            content = {
                "format": _FORMAT,
                **self.config.to_dict(),
                "weights_sha256": file_sha256(weights),
            }
            card.write_text(self.model_card, encoding="utf-8")
            config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return folder

    def build_encoder(self) -> SlabEncoder:
        """Return the network with these weights, in evaluation mode.

        Returns
        -------
        SlabEncoder
            A module of its own: training it leaves the checkpoint alone.
        """
        with torch.device("meta"):
            encoder = SlabEncoder(self.config.encoder)
        copies = {name: value.clone() for name, value in self.state.items()}
        encoder.load_state_dict(copies, assign=True)
        return encoder.eval()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of every setting that changes a feature."""
        settings = self.config.to_dict()
        for name in _NOT_FINGERPRINTED:
            del settings[name]
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
            raise CheckpointError(f"{folder}: written by another version of brainfeat.")
        expected = content.pop("weights_sha256", None)
        weights, card = folder / _WEIGHTS, folder / _CARD
        if not weights.is_file():
            raise CheckpointError(f"{folder}: there is no {_WEIGHTS}.")
        if file_sha256(weights) != expected:
            raise CheckpointError(
                f"{weights}: the weights do not have the SHA-256 that {_CONFIG} names; "
                "the file is damaged or was replaced."
            )
        try:
            config = CheckpointConfig.from_dict(content)
            return cls(config, read_foreign(weights), _read_card(card))
        except (CheckpointError, ConfigError) as error:
            raise CheckpointError(f"{folder}: {error}") from error

    @classmethod
    def _convert(cls, path: Path) -> Self:
        try:
            encoder, state = load_foreign(path)
        except CheckpointError as error:
            if not path.is_dir():
                raise
            reason = str(error).removeprefix(f"{path}: ")
            raise CheckpointError(
                f"{path}: expected {_CONFIG} of a brainfeat checkpoint, or weights of "
                f"DINOv2; {reason}"
            ) from error
        config = CheckpointConfig(
            encoder=encoder,
            preprocessing=_foreign_preprocessing(encoder),
            description=f"Weights of {path.name}, which learnt from other images "
            "than brain MRI.",
        )
        return cls(config, state)


def locate_checkpoint(source: str | os.PathLike[str]) -> Path:
    """Find the files of a checkpoint, without opening them.

    Parameters
    ----------
    source : str or path
        As for `Checkpoint.load`; a checkpoint on the hub is downloaded.

    Returns
    -------
    Path
        A file or a folder.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    MissingDependencyError
        If the hub is asked and ``huggingface_hub`` is not installed.
    """
    name = os.fspath(source)
    bundled = _bundled_names()
    if name in bundled:
        return _BUNDLED / name
    if name.startswith("hf-hub:"):
        return download(name)
    path = expand_home(name.removeprefix("local-dir:"))
    # Path.exists raises if a name is too long.
    if not name or not os.path.exists(path):  # noqa: PTH110
        raise CheckpointError(
            f"unknown checkpoint {name!r}: expected one of {bundled}, a file or folder "
            "that exists, or hf-hub:organisation/name."
        )
    return path


def lasting_name(source: str | os.PathLike[str]) -> str:
    """Name a checkpoint so that it is found from other folders, too.

    Parameters
    ----------
    source : str or path
        As for `Checkpoint.load`.

    Returns
    -------
    str
        A name or address as it is, a file or folder with its whole path.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    """
    name = os.fspath(source)
    if name in _bundled_names() or name.startswith("hf-hub:"):
        return name
    return os.fspath(locate_checkpoint(name).absolute())


def _bundled_names() -> list[str]:
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{_CONFIG}"))


def _is_own(path: Path) -> bool:
    return (path / _CONFIG).is_file() and "format" in _read_config(path)


def _read_config(folder: Path) -> dict[str, Any]:
    what = "the configuration of a checkpoint"
    return read_json(folder / _CONFIG, what, error=CheckpointError)


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path.name}: expected text in UTF-8 ({error})."
        ) from error


def _foreign_preprocessing(encoder: EncoderConfig) -> dict[str, Any]:
    """Return a 1 mm grid about a brain: patches of 14 voxels need that detail."""
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
- slabs: {config.plane}, {encoder.thickness} slices
- network: {encoder.depth} blocks of width {encoder.embed_dim}, patches of \
{encoder.patch_size} pixels
- written by brainfeat {config.library_version}

For research. Not a medical device.
"""
