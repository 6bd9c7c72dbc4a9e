"""Entities and suffixes in the file names of BIDS."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BIDS_SUFFIXES", "BidsName", "bids_suffix", "parse_bids_name"]

# In lower case. Files with the suffix of another kind of image are not taken for the
# checkpoint's first modality.
BIDS_SUFFIXES = frozenset(
    {"t1w", "t2w", "flair", "pdw", "pdt2", "t2starw", "inplanet1", "inplanet2"}
    | {"unit1", "mp2rage", "angio", "swi", "t1map", "t2map", "t2starmap", "pdmap"}
    | {"bold", "sbref", "epi", "dwi", "asl", "m0scan", "pet", "mask", "dseg", "probseg"}
)


@dataclass(frozen=True)
class BidsName:
    """A parsed file name [1]_: entities such as ``{"sub": "01"}``, and the suffix.

    References
    ----------
    .. [1] https://bids-specification.readthedocs.io, "Entities"
    """

    entities: Mapping[str, str]
    suffix: str

    @property
    def participant_id(self) -> str | None:
        """``"sub-01"``, or None if the name has no subject."""
        return f"sub-{self.entities['sub']}" if "sub" in self.entities else None

    @property
    def session_id(self) -> str | None:
        """``"ses-2"``, or None if the name has no session."""
        return f"ses-{self.entities['ses']}" if "ses" in self.entities else None


def parse_bids_name(name: str) -> BidsName:
    """Parse a file name without folders; entities and suffix may be empty.

    >>> name = parse_bids_name("sub-01_ses-2_run-1_T1w.nii.gz")
    >>> name.participant_id, name.session_id, name.suffix
    ('sub-01', 'ses-2', 'T1w')
    """
    pairs = name.split("_")[:-1]
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    suffix = bids_suffix(name)
    return BidsName(entities, "" if "-" in suffix else suffix)


def bids_suffix(name: str) -> str:
    """Return what follows the last underscore, without file extensions.

    >>> bids_suffix("sub-01_acq-0.8mm_T1w.nii.gz")
    'T1w'
    """
    # An earlier dot may be part of a label.
    return name.split("_")[-1].split(".")[0]
