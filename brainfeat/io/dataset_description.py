"""What BIDS datasets of ours say of themselves."""

from pathlib import Path
from typing import Any

from brainfeat._version import __version__
from brainfeat.exceptions import InputError
from brainfeat.io.json_files import read_json_object

__all__ = ["check_description", "describe_derivatives"]

_BIDS_VERSION = "1.10.0"


def describe_derivatives(name: str) -> dict[str, Any]:
    """Say in BIDS's words what a folder of ours is.

    Parameters
    ----------
    name : str
        Name of the dataset.

    Returns
    -------
    dict
        For ``dataset_description.json``.
    """
    return {
        "Name": name,
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "brainfeat", "Version": __version__}],
    }


def check_description(root: Path, name: str) -> None:
    """Keep out of the folder of another dataset.

    Parameters
    ----------
    root : Path
        Where to write; it need not be there.
    name : str
        Name of the dataset that may be there already.

    Raises
    ------
    InputError
        If its ``dataset_description.json`` has another name.
    """
    path = root / "dataset_description.json"
    if path.exists() and (read_json_object(path) or {}).get("Name") != name:
        raise InputError(f"{root}: holds another dataset; choose another folder.")
