"""A fitted model as a folder of safetensors and JSON."""

__all__ = ["MODEL_NAME", "FolderContent", "read_folder", "write_folder"]

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from brainfeat._version import __version__
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_checkpoint
from brainfeat.checkpoint.weight_files import file_sha256
from brainfeat.exceptions import CheckpointError, ConfigError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.json_files import read_json, write_json
from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.segmentation.locate import MODEL_NAME, bundled_models
from brainfeat.segmentation.names import name_classes
from brainfeat.segmentation.volumes import as_json

if TYPE_CHECKING:
    from brainfeat.segmentation.estimator import SegmentationEstimator

_ENCODER, _WEIGHTS = "encoder", "decoder.safetensors"
_FORMAT = "brainfeat-segmentation-1"
# Parameters that the fitted model depends on, unlike device or n_jobs.
_PARAMETERS = (
    "n_steps",
    "learning_rate",
    "freeze_encoder",
    "batch_size",
    "random_state",
    "where",
    "grid",
    "n_folds",
    "validation_fraction",
)
# Raised while reading a folder with missing, cut or foreign content.
_DAMAGES = (ConfigError, KeyError, OSError, RuntimeError, SafetensorError)


class FolderContent(NamedTuple):
    """Parameters of the estimator's constructor, and its fitted attributes."""

    parameters: dict[str, Any]
    fitted: dict[str, Any]


def write_folder(
    folder: Path,
    estimator: "SegmentationEstimator",
    checkpoint: Checkpoint,
    *,
    encoder_name: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a fitted estimator with its encoder, or with the name of a bundled one.

    ``dtype`` is the precision of the stored decoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if encoder_name is None:
        checkpoint.save(folder / _ENCODER)
    state = estimator.decoder_.state_dict()
    tensors = {f"decoder.{name}": v for name, v in state.items()}
    tensors["prior"] = estimator.prior_
    stored = {n: v.to("cpu", dtype).contiguous() for n, v in tensors.items()}
    with atomic_write(folder / _WEIGHTS) as partial:
        save_file(stored, partial)
    parameters = estimator.get_params(deep=False)
    content = {
        "format": _FORMAT,
        "library_version": __version__,
        "parameters": {name: _plain(parameters[name]) for name in _PARAMETERS},
        "modality": parameters["modality"],
        "classes": [int(label) for label in estimator.classes_],
        "names": {str(label): name for label, name in estimator.names_.items()},
        "modalities": list(estimator.modalities_),
        "modality_scores": as_json(estimator.modality_scores_),
        "label_grid": estimator.label_grid_,
        "held_out_score": as_json({"": estimator.held_out_score_})[""],
        "held_out_scores": as_json(estimator.held_out_scores_),
        "decoder": dataclasses.asdict(estimator.decoder_.config),
        "decoder_sha256": file_sha256(folder / _WEIGHTS),
        "encoder_name": encoder_name,
        "encoder_sha256": estimator.checkpoint_fingerprint_,
        "loss_curve": [round(loss, 6) for loss in estimator.loss_curve_],
        "validation_scores": [round(s, 6) for s in estimator.validation_scores_],
    }
    write_json(folder / MODEL_NAME, content)
    return folder


def read_folder(folder: Path) -> FolderContent:
    """Read what `write_folder` wrote, and check that no file was replaced."""
    path = folder / MODEL_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: expected a folder that 'brainfeat segment fit' or "
            f"SegmentationEstimator.save wrote, or one of {bundled_models()}, got "
            f"none with {MODEL_NAME}."
        )
    content = read_json(path, "a segmentation model", error=CheckpointError)
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{folder}: written by another version of brainfeat.")
    # Absolute, since it is opened again when it is used.
    encoder = content.get("encoder_name") or str((folder / _ENCODER).resolve())
    _check_encoder(encoder, content)
    try:
        return FolderContent(
            {
                "checkpoint": encoder,
                "modality": content["modality"],
                # Earlier versions predicted in the head, on the grid of the first
                # image, and the first stored no parameters.
                "where": "head",
                "grid": "first",
                **content.get("parameters", {}),
            },
            _read_fitted(content, folder / _WEIGHTS, encoder),
        )
    except _DAMAGES as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: damaged ({reason}).") from error


def _plain(value: Any) -> Any:
    """Convert to a JSON value; a random generator, whose state changed, to None."""
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | float) else None


def _check_encoder(encoder: str, content: Mapping[str, Any]) -> None:
    if not content.get("encoder_name") and not Path(encoder).is_dir():
        raise CheckpointError(
            f"{encoder}: no such folder; it held the model's encoder."
        )
    if shared_checkpoint(encoder).fingerprint != content.get("encoder_sha256"):
        raise CheckpointError(
            f"{encoder}: expected the encoder that {MODEL_NAME} names, got another; it "
            "is damaged or was replaced."
        )


def _read_fitted(
    content: Mapping[str, Any], weights: Path, encoder: str
) -> dict[str, Any]:
    with torch.device("meta"):
        decoder = SegmentationDecoder(_decoder_config(content["decoder"]))
    if not weights.is_file():
        raise CheckpointError(f"{weights}: no such file; it held the model's decoder.")
    if file_sha256(weights) != content["decoder_sha256"]:
        raise CheckpointError(
            f"{weights}: the weights do not have the SHA-256 that {MODEL_NAME} names; "
            "the file is damaged or was replaced."
        )
    tensors = {name: value.float() for name, value in load_file(weights).items()}
    prior = tensors.pop("prior")
    state = {name.removeprefix("decoder."): value for name, value in tensors.items()}
    decoder.load_state_dict(state, assign=True)
    names = content.get("names") or name_classes(content["classes"], {})
    return {
        "classes_": np.array(content["classes"]),
        "names_": {int(label): name for label, name in names.items()},
        "modality_scores_": _read_scores(content.get("modality_scores", {})),
        "label_grid_": content.get("label_grid"),
        "held_out_score_": _read_scores({"": content.get("held_out_score")})[""],
        "held_out_scores_": _read_scores(content.get("held_out_scores", {})),
        "modalities_": tuple(content["modalities"]),
        "loss_curve_": content["loss_curve"],
        "validation_scores_": content["validation_scores"],
        "encoder_": encoder,
        "checkpoint_fingerprint_": content["encoder_sha256"],
        "decoder_": decoder.eval(),
        "prior_": prior,
        "tuned_checkpoint_": None,
    }


def _decoder_config(values: Mapping[str, Any]) -> DecoderConfig:
    return DecoderConfig.from_dict({"n_places": 0, **values})  # new since 0.1


def _read_scores(scores: Mapping[str, float | None]) -> dict[str, float]:
    """Read scores as `as_json` wrote them."""
    return {k: math.nan if v is None else float(v) for k, v in scores.items()}
