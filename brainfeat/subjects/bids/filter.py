"""Which participants, sessions and images of a BIDS folder are wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError
from brainfeat.io.json_files import read_json

__all__ = ["BidsName", "BidsSelection", "read_filters"]

# What filter files call the parts of a name, as pybids does.
_ENTITIES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "tracer": "trc",
    "reconstruction": "rec",
    "inversion": "inv",
    "resolution": "res",
    "description": "desc",
}
_SHORT = {*_ENTITIES.values(), "run", "echo", "part", "chunk", "space", "mt", "flip"}
# Every image that is looked for has these.
_IGNORED = {"datatype", "suffix", "extension"}


@dataclass(frozen=True)
class BidsName:
    """A file name taken apart, as BIDS builds it [1]_.

    Parameters
    ----------
    entities : mapping of str to str
        Such as ``{"sub": "01", "ses": "2", "run": "1"}``.
    suffix : str
        What kind of image it is, such as ``"T1w"``.

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


@dataclass(frozen=True, kw_only=True)
class BidsSelection:
    """What to take from a BIDS folder; everything by default.

    Parameters
    ----------
    participants : sequence of str
        Labels, with or without ``sub-``; none means all.
    sessions : sequence of str
        Labels, with or without ``ses-``; none means all.
    filters : mapping of str to mapping
        By modality, the values that entities of its images may have; from
        `read_filters`.
    """

    participants: Sequence[str] = ()
    sessions: Sequence[str] = ()
    filters: Mapping[str, Mapping[str, tuple[str | None, ...]]] = field(
        default_factory=dict
    )

    def take_participants(self, folder: Path, found: Sequence[Path]) -> list[Path]:
        """Choose the folders of subjects.

        Parameters
        ----------
        folder : Path
            Root of the dataset.
        found : sequence of Path
            Its folders ``sub-*``.

        Returns
        -------
        list of Path
            Those that are wanted.

        Raises
        ------
        InputError
            If one that is wanted is not there.
        """
        wanted = {f"sub-{label.removeprefix('sub-')}" for label in self.participants}
        absent = sorted(wanted - {path.name for path in found})
        if absent:
            raise InputError(f"{folder}: there is no {', '.join(absent)}.")
        return [path for path in found if not wanted or path.name in wanted]

    def has_session(self, session_id: str | None) -> bool:
        """Tell whether a session is wanted.

        Parameters
        ----------
        session_id : str or None
            With ``ses-``; None is what lies in no session.

        Returns
        -------
        bool
            Whether to look into it.
        """
        wanted = {f"ses-{label.removeprefix('ses-')}" for label in self.sessions}
        return not wanted or session_id in wanted

    def has_image(self, name: BidsName) -> bool:
        """Tell whether an image is wanted.

        Parameters
        ----------
        name : BidsName
            Its name.

        Returns
        -------
        bool
            Whether the filter of its modality lets it through.
        """
        return all(
            _plain(name.entities.get(entity)) in map(_plain, values)
            for entity, values in self.filters.get(name.suffix, {}).items()
        )


def _plain(value: str | None) -> str | None:
    # Indices may have leading zeros: run-01 is run 1.
    return str(int(value)) if value is not None and value.isdecimal() else value


def read_filters(
    path: Path, modalities: Sequence[str]
) -> dict[str, dict[str, tuple[str | None, ...]]]:
    """Read a filter file as other BIDS apps take it.

    Parameters
    ----------
    path : Path
        JSON such as ``{"t1w": {"acquisition": "mprage", "run": [1, 2]}}``; null
        stands for an entity that the name does not have.
    modalities : sequence of str
        Modalities that there may be filters for; others are left alone.

    Returns
    -------
    dict
        Values that each entity may have, by modality.

    Raises
    ------
    InputError
        If it is no such file, or names an unknown entity.
    """
    content = read_json(path, "a filter per modality")
    known = {modality.casefold(): modality for modality in modalities}
    return {
        known[name.casefold()]: _read_filter(path, name, values)
        for name, values in content.items()
        if name.casefold() in known
    }


def _read_filter(
    path: Path, name: str, values: Any
) -> dict[str, tuple[str | None, ...]]:
    if not isinstance(values, dict):
        raise InputError(f"{path}: {name}: expected entities and their values.")
    chosen = {}
    for entity, value in values.items():
        if entity in _IGNORED:
            continue
        short = _ENTITIES.get(entity, entity)
        if short not in _SHORT:
            raise InputError(f"{path}: {name}: unknown entity {entity!r}.")
        each = value if isinstance(value, list) else [value]
        chosen[short] = tuple(None if one is None else str(one) for one in each)
    return chosen
