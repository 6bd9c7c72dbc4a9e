"""Label maps as a BIDS derivative: their file names and sources, and resuming."""

__all__ = [
    "LabelMapFolder",
    "label_map_path",
]

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nibabel import Nifti1Image

from brainfeat.checkpoint.weight_files import file_sha256
from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.hashing import hash_images
from brainfeat.io.json_files import read_json_object, write_json
from brainfeat.io.paths import image_stem
from brainfeat.io.volumes import write_image
from brainfeat.segmentation.folder import MODEL_NAME
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.names import NAMES_FILE, read_names, write_names
from brainfeat.subjects.bids.description import check_description, describe_derivatives
from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.subject import Outcome, Subject

_DESCRIPTION, _DATASET = "dataset_description.json", "Segmentations"
# Keys of a label map's JSON file.
_MODEL, _SOURCES, _INPUT = "ModelSHA256", "Sources", "InputSHA256"
_LOGGER = logging.getLogger(__name__)


@dataclass(eq=False)
class LabelMapFolder:
    """A folder of label maps that one model writes, and resumes."""

    folder: Path
    space: SegmentationSpace
    model_sha256: str
    _provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    _written: dict[Path, Subject] = field(default_factory=dict)

    @classmethod
    def create(
        cls, folder: Path, model: Path, space: SegmentationSpace, classes: Iterable[int]
    ) -> Self:
        """Write the files that describe the dataset; refuse one in other use."""
        check_description(folder, _DATASET)
        if (folder / MODEL_NAME).exists():
            raise InputError(f"{folder}: holds a model; choose another folder.")
        names = folder / NAMES_FILE
        if names.exists() and not (folder / _DESCRIPTION).exists():
            raise InputError(f"{names}: exists and is not ours; choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _DESCRIPTION, describe_derivatives(_DATASET))
        write_names(names, classes, read_names(model / NAMES_FILE))
        # This file has the hashes of decoder and encoder, which loading has checked.
        return cls(folder, space, file_sha256(model / MODEL_NAME))

    def is_done(self, subject: Subject) -> bool:
        """Whether this model segmented these images already; hashes them.

        Thread-safe. Raises an InputError if the label map was not written by brainfeat,
        or is of another scan.
        """
        files = self.space.preprocessor.input_files(
            subject.paths, self.space.encoder_modalities
        )
        provenance = {
            _SOURCES: sorted(subject.paths.values()),
            _INPUT: hash_images(files),
            _MODEL: self.model_sha256,
        }
        self._provenance[subject.key] = provenance
        return _is_up_to_date(self.folder / label_map_path(subject), provenance)

    def write(self, outcome: Outcome[Nifti1Image]) -> Outcome[Nifti1Image]:
        """Write a label map and its provenance, in the order of the run.

        Of several subjects with one path, the first that succeeds is written and the
        others fail. Raises an InputError if the disk is full, which ends the run.
        """
        subject = outcome.subject
        provenance = self._provenance.pop(subject.key, {})
        target = self.folder / label_map_path(subject)
        first = self._written.get(target)
        if first is not None:
            error = InputError(
                f"{subject.image}: {target.name} is the label map of {first.image} in "
                "this run; a manifest has a row a scan with all of its images, and a "
                "session_id where a participant has several."
            )
            return Outcome(subject, error=error)
        if outcome.status == "failed":
            return outcome
        self._written[target] = subject
        _write_label_map(target, outcome.result, provenance)
        return outcome


def label_map_path(subject: Subject) -> Path:
    """Name a label map after its image: ``sub-01_T1w`` gives ``sub-01_dseg``.

    In the same folders if the image's follow BIDS.
    """
    image = Path(subject.image)
    stem = image_stem(image)
    name = parse_bids_name(stem)
    session = name.session_id
    if session is None and subject.session_id:
        session = _to_file_name(f"ses-{subject.session_id.removeprefix('ses-')}")
    if name.participant_id is None:
        text = "_".join(filter(None, (subject.participant_id, session)))
        return Path(f"{_to_file_name(text) or 'image'}_dseg.nii.gz")
    stem = stem.removesuffix(f"_{name.suffix}")
    if session is not None and name.session_id is None:
        first, *rest = stem.split("_")
        stem = "_".join([first, session, *rest])
    parts = [name.participant_id, *([session] if session else [])]
    is_bids = image.parent.parts[-len(parts) - 1 :] == (*parts, "anat")
    folder = Path(*parts, "anat") if is_bids else Path()
    return folder / f"{stem}_dseg.nii.gz"


def _to_file_name(text: str) -> str:
    """Replace what would leave the folder or hide the file."""
    return re.sub(r"[^\w.+-]+", "-", text).lstrip(".")


def _is_up_to_date(target: Path, provenance: Mapping[str, Any]) -> bool:
    sidecar = _sidecar(target)
    stored = read_json_object(sidecar) or {}
    if _MODEL not in stored and (target.exists() or sidecar.exists()):
        raise InputError(f"{target}: exists and is not ours; choose another folder.")
    if not target.exists() or _SOURCES not in stored:
        return False
    if {**stored, _SOURCES: provenance[_SOURCES]} == provenance:
        return True
    # A scan may be corrected or moved; one that differs in both is another scan, as
    # 002/T1.nii is after 001/T1.nii.
    is_moved = set(stored[_SOURCES]).isdisjoint(provenance[_SOURCES])
    if is_moved and stored[_INPUT] != provenance[_INPUT]:
        raise InputError(
            f"{target}: exists and is the label map of {stored[_SOURCES][0]}; choose "
            f"another folder for {provenance[_SOURCES][0]}."
        )
    return False


def _write_label_map(
    target: Path, image: Nifti1Image | None, provenance: Mapping[str, Any]
) -> None:
    sidecar = _sidecar(target)
    try:
        if image is not None:
            # If the run is killed here, the file is ours and is written again.
            write_json(sidecar, {_MODEL: provenance[_MODEL]})
            write_image(image, target)
        if read_json_object(sidecar) != provenance:
            write_json(sidecar, provenance)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({brief_reason(error)}); "
            "the same command resumes."
        ) from error


def _sidecar(target: Path) -> Path:
    return target.with_name(target.name.replace(".nii.gz", ".json"))
