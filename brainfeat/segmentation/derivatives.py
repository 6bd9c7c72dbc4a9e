"""Label maps as a BIDS derivative: their file names and sources, and resuming."""

__all__ = [
    "REPORT_NAME",
    "VOLUMES_NAME",
    "LabelMapFolder",
    "SegmentedScan",
    "label_map_path",
]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from nibabel import Nifti1Image

from brainfeat.checkpoint.weight_files import file_sha256
from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.delimited_rows import write_records
from brainfeat.io.hashing import hash_images
from brainfeat.io.json_files import read_json_object, write_json
from brainfeat.io.paths import image_stem
from brainfeat.io.volumes import to_image_like, write_image
from brainfeat.preprocessing.quality import Quality
from brainfeat.segmentation.folder import MODEL_NAME
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.names import NAMES_FILE, write_names
from brainfeat.segmentation.prediction import PredictionSettings, Segmentation
from brainfeat.segmentation.volumes import as_json, measure_labels
from brainfeat.subjects.bids.description import check_description, describe_derivatives
from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.subject import Outcome, Subject

VOLUMES_NAME, REPORT_NAME = "volumes.csv", "report.html"
_DESCRIPTION, _DATASET = "dataset_description.json", "Segmentations"
# Keys of a label map's JSON file.
_MODEL, _SOURCES, _INPUT = "ModelSHA256", "Sources", "InputSHA256"
_WHERE, _GRID, _REFERENCE = "Where", "Grid", "SpatialReference"
_MEASURES = "Measures"


class SegmentedScan(NamedTuple):
    """What is written of a scan."""

    label_map: Nifti1Image
    uncertainty: Nifti1Image | None  # if it was asked for
    measures: dict[str, float | int | str]
    reference: str  # image whose grid the maps have
    quality: Quality

    @classmethod
    def of(
        cls, segmentation: Segmentation, names: Mapping[int, str], *, uncertainty: bool
    ) -> Self:
        """Label and measure a subject."""
        labelled, source = segmentation.label(), segmentation.source
        return cls(
            to_image_like(labelled.labels, source),
            to_image_like(labelled.uncertainty, source) if uncertainty else None,
            measure_labels(labelled, segmentation, names),
            str(source),
            segmentation.inputs.coarse.quality,
        )


@dataclass(eq=False, kw_only=True)
class LabelMapFolder:
    """A folder of label maps that one model writes, and resumes."""

    folder: Path
    space: SegmentationSpace
    settings: PredictionSettings
    model_sha256: str
    uncertainty: bool = False  # whether each label map has a map of it
    _provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    _written: dict[Path, Subject] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        folder: Path,
        model: Path,
        space: SegmentationSpace,
        settings: PredictionSettings,
        names: Mapping[int, str],
        *,
        uncertainty: bool = False,
    ) -> Self:
        """Write the files that describe the dataset; refuse one in other use."""
        check_description(folder, _DATASET)
        if (folder / MODEL_NAME).exists():
            raise InputError(f"{folder}: holds a model; choose another folder.")
        for name in (NAMES_FILE, VOLUMES_NAME, REPORT_NAME):
            path = folder / name
            if path.exists() and not (folder / _DESCRIPTION).exists():
                raise InputError(
                    f"{path}: exists and is not ours; choose another folder."
                )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _DESCRIPTION, describe_derivatives(_DATASET))
        write_names(folder / NAMES_FILE, names, names)
        return cls(
            folder=folder,
            space=space,
            settings=settings,
            # The hashes of decoder and encoder are in it, which loading has checked.
            model_sha256=file_sha256(model / MODEL_NAME),
            uncertainty=uncertainty,
        )

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
            _WHERE: "brain" if self.settings.in_brain else "head",
            _GRID: self.settings.grid or "first",
        }
        self._provenance[subject.key] = provenance
        target = self.folder / label_map_path(subject)
        has_all = not self.uncertainty or _uncertainty_path(target).exists()
        return _is_up_to_date(target, provenance) and has_all

    def write(self, outcome: Outcome[SegmentedScan]) -> Outcome[SegmentedScan]:
        """Write the maps of a scan and their provenance, in the order of the run.

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
        _write_scan(target, subject, outcome.result, provenance)
        return outcome

    def read_rows(self) -> list[dict[str, Any]]:
        """Read the measures of all label maps of this model in the folder.

        Those of earlier runs, too. Further columns are the paths ``label_map``, in the
        folder, and ``image``, whose grid it has.
        """
        rows = []
        for target in sorted(self.folder.rglob("*_dseg.nii.gz")):
            stored = read_json_object(_sidecar(target)) or {}
            if stored.get(_MODEL) != self.model_sha256 or _MEASURES not in stored:
                continue
            measures = dict(stored[_MEASURES])
            names = {k: measures.pop(k, None) for k in ("participant_id", "session_id")}
            paths = {
                "label_map": str(target.relative_to(self.folder)),
                "image": stored[_REFERENCE],
            }
            rows.append(names | paths | measures)
        return rows

    def write_volumes(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write what `read_rows` read as ``volumes.csv``."""
        path = self.folder / VOLUMES_NAME
        write_records(path, rows)
        return path


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
    is_same = all(stored.get(k) == v for k, v in provenance.items() if k != _SOURCES)
    if is_same and _MEASURES in stored:
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


def _write_scan(
    target: Path,
    subject: Subject,
    scan: SegmentedScan | None,
    provenance: Mapping[str, Any],
) -> None:
    sidecar = _sidecar(target)
    names = {"participant_id": subject.participant_id, "session_id": subject.session_id}
    try:
        content = read_json_object(sidecar) or {}
        if scan is None:  # it was written before, and its scan may have been moved
            by_name = {Path(path).name: path for path in provenance[_SOURCES]}
            name = Path(content[_REFERENCE]).name
            reference = by_name.get(name, content[_REFERENCE])
            content = {**content, **provenance, _REFERENCE: reference}
        else:
            # If the run is killed here, the file is ours and is written again.
            write_json(sidecar, {_MODEL: provenance[_MODEL]})
            if scan.uncertainty is not None:
                write_image(scan.uncertainty, _uncertainty_path(target))
            write_image(scan.label_map, target)
            content = {
                **provenance,
                _REFERENCE: scan.reference,
                _MEASURES: as_json({**names, **scan.measures}),
            }
        if read_json_object(sidecar) != content:
            write_json(sidecar, content)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({brief_reason(error)}); "
            "the same command resumes."
        ) from error


def _uncertainty_path(target: Path) -> Path:
    return target.with_name(target.name.replace("_dseg.nii.gz", "_uncertainty.nii.gz"))


def _sidecar(target: Path) -> Path:
    return target.with_name(target.name.replace(".nii.gz", ".json"))
