"""``dataset_description.json`` of the BIDS derivatives that this library writes."""

from pathlib import Path
from typing import Any

from brainfeat._version import __version__
from brainfeat.exceptions import InputError
from brainfeat.io.json_files import read_json_object

__all__ = ["check_description", "describe_derivatives"]

_BIDS_VERSION = "1.10.0"


def describe_derivatives(name: str) -> dict[str, Any]:
    """Return the content of ``dataset_description.json`` for a dataset of ``name``."""
    return {
        "Name": name,
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "brainfeat", "Version": __version__}],
    }


def check_description(root: Path, name: str) -> None:
    """Raise InputError if a folder holds another dataset than that of ``name``."""
    path = root / "dataset_description.json"
    if path.exists() and (read_json_object(path) or {}).get("Name") != name:
        raise InputError(f"{root}: holds another dataset; choose another folder.")
