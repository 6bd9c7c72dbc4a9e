"""The index of a store: which array holds which scan."""

__all__ = ["INDEX_NAME", "StoreIndex", "StoredScan", "used_fields"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from brainfeat.configs import from_plain
from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.json_files import read_json, write_json
from brainfeat.pretraining.structures import Structures

INDEX_NAME = "index.json"
_FORMAT = "brainfeat-store-2"
_FIRST_FORMAT = "brainfeat-store-1"  # without copies and label maps


@dataclass(frozen=True, kw_only=True)
class StoredScan:
    """One acquisition of one subject.

    `file` names its array in the store: float16 of shape (M + 1, I, J, K), the
    modalities and then the foreground; `present` says which modalities it has. A copy,
    which `degradation` describes, has only those that are present.
    """

    subject: str
    file: str
    present: tuple[bool, ...]
    visit: str = ""  # scans of one visit show the same anatomy
    degradation: str = ""  # what a copy differs in; empty for the scan itself
    thickness: float = 0.0  # largest voxel edge of the scan in mm; 0 if unknown
    labels: str = ""  # array of its label map, uint8 (I, J, K), if there is one
    known: tuple[bool, ...] = ()  # which structures the label map tells
    doubt: str = ""  # why the brain may not have been found; empty for a copy


@dataclass(frozen=True, kw_only=True)
class StoreIndex:
    """Contents of a store, saved as ``index.json``."""

    modalities: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    scans: tuple[StoredScan, ...]
    structures: Structures = field(default_factory=Structures)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the index of a store."""
        path = folder / INDEX_NAME
        if not path.is_file():
            raise InputError(f"{folder}: holds no finished store ({INDEX_NAME}).")
        content = read_json(path, "the index of a store")
        if content.get("format") not in {_FORMAT, _FIRST_FORMAT}:
            raise InputError(
                f"{path}: expected format {_FORMAT}, got {content.get('format')} of "
                "another version of brainfeat; preprocess the scans again."
            )
        try:
            index = cls(
                modalities=tuple(content["modalities"]),
                preprocessing=dict(content["preprocessing"]),
                scans=tuple(
                    from_plain(StoredScan, scan, where="scan")
                    for scan in content["scans"]
                ),
                structures=from_plain(
                    Structures, content.get("structures", {}), where="structures"
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: expected the index of a store, got a damaged one "
                f"({brief_reason(error)})."
            ) from error
        n_modalities = len(index.modalities)
        for scan in index.scans:
            if len(scan.present) != n_modalities:
                raise InputError(
                    f"{path}: expected {n_modalities} modalities of {scan.subject}, "
                    f"got {len(scan.present)}."
                )
        return index

    def save(self, folder: Path) -> None:
        """Write the index, after all arrays."""
        content = {
            "format": _FORMAT,
            "modalities": list(self.modalities),
            "preprocessing": dict(self.preprocessing),
            "scans": [used_fields(scan) for scan in self.scans],
            "structures": asdict(self.structures),
        }
        if not self.structures.names and not any(s.degradation for s in self.scans):
            # Earlier versions read it, too.
            content["format"] = _FIRST_FORMAT
            del content["structures"]
        write_json(folder / INDEX_NAME, content, indent=1)


def used_fields(scan: StoredScan) -> dict[str, Any]:
    """Return the fields that differ from their defaults, as in earlier versions."""
    values = asdict(scan)
    defaults = {item.name: item.default for item in fields(StoredScan)}
    return {name: v for name, v in values.items() if v != defaults[name]}
