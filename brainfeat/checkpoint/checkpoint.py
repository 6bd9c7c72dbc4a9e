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

from brainfeat.checkpoint.card import write_card
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.foreign import convert_foreign
from brainfeat.checkpoint.known import find_known
from brainfeat.checkpoint.known_encoder import KnownEncoder
from brainfeat.checkpoint.locate import CONFIG_NAME, locate_checkpoint
from brainfeat.checkpoint.origin import announce_licence, bundled_origin
from brainfeat.checkpoint.summary import checkpoint_facts, headline
from brainfeat.checkpoint.weight_files import (
    check_weights_file,
    file_sha256,
    read_tensors,
)
from brainfeat.display.summarised import Summarised, format_facts
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    UntrainedCheckpointWarning,
)
from brainfeat.io.atomic import atomic_write
from brainfeat.io.json_files import format_json, read_json
from brainfeat.io.paths import expand_home
from brainfeat.models.config import NORM_EPS
from brainfeat.models.encoders import build_encoder
from brainfeat.models.protocol import Encoder
from brainfeat.models.transfer import check_state

StoredDtype = Literal["float32", "float16", "bfloat16"]

_FORMAT = "brainfeat-checkpoint-1"
_WEIGHTS, _CARD = "model.safetensors", "README.md"
CHECKPOINT_FILES = (_WEIGHTS, CONFIG_NAME, _CARD)
# These change no feature: tables made before and after an edit can be joined.
_NOT_FINGERPRINTED = ("description", "library_version", "origin")
# Fields of an encoder of slabs that came later, with values that change nothing.
_LATER = {
    "kind": "slab",
    "positions": "learned",
    "norm_eps": NORM_EPS,
    "structures": [],
    "projection": False,
}


class Checkpoint(Summarised):
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
        self.model_card = model_card or write_card(config)

    @classmethod
    def load(
        cls, source: str | os.PathLike[str], *, known_as: str | None = None
    ) -> Self:
        """Load a checkpoint, or weights of others in their own layout.

        The network, its input and its feature are those of the authors; the layout is
        found from the names and shapes of the weights. Where a licence is known, it is
        logged once, and kept in ``config.origin``.

        Parameters
        ----------
        source : str or path
            The name of a bundled checkpoint (``"brainfound-tiny"``) or of a known
            encoder (``"3dino"``; ``brainfeat info`` lists them), whose weights are
            taken from ``$BRAINFEAT_HOME`` (by default ``~/.brainfeat``), else from the
            hub; a checkpoint folder; a file of safetensors or of ``torch.save``, under
            any name, or a folder with one; or
            ``"hf-hub:organisation/name[:path/in/repository][@revision]"``.
        known_as : str, optional
            Name of the known encoder whose weights a file holds, where its content and
            name do not tell.

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
        name = os.fspath(source) if known_as is None else known_as
        known = find_known(name)
        if known_as is not None and known is None:
            raise CheckpointError(
                f"known_as: expected a name that 'brainfeat info' lists, got "
                f"{known_as!r}."
            )
        path = locate_checkpoint(source)
        if _is_own(path):
            checkpoint = cls._load_own(path, known)
        else:
            checkpoint = cls(*convert_foreign(path, known))
        announce_licence(checkpoint.config.origin)
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
        # For readers: the tools that a recipe replaces.
        settings["preprocessing"].pop("authors", None)
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

    def summary(self) -> str:
        """Describe the encoder, its input, features and licence.

        Returns
        -------
        str
            Lines for a terminal, as ``brainfeat info`` prints them.
        """
        facts = checkpoint_facts(self.config, self.state, self.fingerprint)
        return format_facts(facts)

    def _headline(self) -> str:
        return headline(self.config, self.state)

    @classmethod
    def _load_own(cls, folder: Path, known: KnownEncoder | None) -> Self:
        # Folders of earlier versions do not say where their weights are from.
        content = {"origin": bundled_origin(known).to_dict()} | _read_config(folder)
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
