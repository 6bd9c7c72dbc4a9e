"""Images that were given without a subject, joined to a row per subject."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError, ModalityError
from brainfeat.io.paths import image_stem
from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.contrast_notes import ContrastNotes
from brainfeat.subjects.image_names import (
    CONTRAST_AGENT,
    ImageName,
    find_channels,
    read_image_name,
)
from brainfeat.subjects.subject import Outcome, Subject

__all__ = [
    "JoinedImages",
    "LooseImage",
    "ModalityChoice",
    "join_contrasts",
    "unknown_channel",
    "unknown_contrast",
]

_T1W = "T1w"


@dataclass(frozen=True)
class LooseImage:
    """The absolute path of an image: named by the user, or found in a folder."""

    path: str
    is_named: bool

    @cached_property
    def name(self) -> ImageName:
        """What its name says."""
        return read_image_name(self.path)

    @property
    def subject_key(self) -> tuple[str, str]:
        """Folder and name without the contrast: equal for images of one subject."""
        folder, own = Path(self.path).parent, self.name
        inner = read_image_name(folder.name)
        # As in IXI-T1/IXI002-T1.nii.gz and IXI-T2/IXI002-T2.nii.gz.
        if inner.contrast == own.contrast:
            folder = folder.parent / inner.rest
        return str(folder), own.rest


@dataclass(frozen=True)
class ModalityChoice:
    """Modalities of the checkpoint, those in use, and the one that overrules names."""

    known: tuple[str, ...]
    used: tuple[str, ...]
    single: str | None = None


@dataclass(frozen=True)
class JoinedImages:
    """Rows in the order given, failures, and images that were given repeatedly.

    ``has_joined`` is whether a row has several images, so that names lose the contrast.
    """

    rows: tuple[Subject, ...]
    problems: tuple[Outcome[Any], ...]
    duplicates: tuple[str, ...]
    has_joined: bool


def join_contrasts(
    items: Sequence[Subject | LooseImage], choice: ModalityChoice
) -> JoinedImages:
    """Make one row of the images that the names tell to be of one subject.

    Other subjects stay as they are. Label maps, and contrasts that the checkpoint does
    not know, are left out with a note; such a contrast is a failure if its subject has
    no other image and it was named.
    """
    counts = Counter(item.path for item in items if isinstance(item, LooseImage))
    joiner = _Joiner(choice, find_channels([*counts]))
    groups: dict[Any, list[Subject | LooseImage]] = {}
    seen: set[str] = set()
    for position, item in enumerate(items):
        if isinstance(item, Subject):
            groups[position] = [item]
        elif item.path not in seen:
            seen.add(item.path)
            groups.setdefault(joiner.group_key(item), []).append(item)
    for members in groups.values():
        joiner.add_group(members)
    joiner.notes.log(choice.used[0], "--modality")
    duplicates = tuple(path for path, n in counts.items() if n > 1)
    return JoinedImages(
        tuple(joiner.rows), tuple(joiner.problems), duplicates, joiner.has_joined
    )


def unknown_contrast(
    path: str, name: ImageName, modalities: Sequence[str], option: str
) -> ModalityError:
    """Return the error for an image of a contrast that the checkpoint does not know."""
    return ModalityError(
        f"{path}: unknown modality {name.contrast!r} (by its name), expected one of "
        f"{', '.join(modalities)}; {option} overrules the name."
    )


def unknown_channel(path: str, option: str) -> InputError:
    """Return the error for an image whose contrast is a number, as in nnU-Net."""
    return InputError(
        f"{path}: its name ends in the number of a contrast, and nothing says which "
        f"contrast that is; use a manifest, or {option} if all images are of one."
    )


@dataclass
class _Joiner:
    """Rows, failures and notes so far."""

    choice: ModalityChoice
    channels: set[str]  # paths
    rows: list[Subject] = field(default_factory=list)
    problems: list[Outcome[Any]] = field(default_factory=list)
    notes: ContrastNotes = field(default_factory=ContrastNotes)
    has_joined: bool = False

    def group_key(self, image: LooseImage) -> Any:
        """Return what images of one row share; the path if it stands alone."""
        alone = self._is_overruled(image) or image.name.contrast is None
        is_alone = alone or image.name.is_label_map
        return image.path if is_alone else image.subject_key

    def add_group(self, members: Sequence[Subject | LooseImage]) -> None:
        images = [item for item in members if isinstance(item, LooseImage)]
        self.rows += [item for item in members if isinstance(item, Subject)]
        if len(images) == 1 and self._add_alone(images[0]):
            return
        found: dict[str, list[str]] = {}
        others = []
        for image in images:
            modality = self._modality_of(image.name)
            if modality is None:
                others.append(image)
            elif image.is_named or modality in {*self.choice.used, CONTRAST_AGENT}:
                found.setdefault(modality, []).append(image.path)
        self._resolve_agent(found)
        self._add_rows({n: found[n] for n in self.choice.known if n in found})
        for image in others:
            self._add_other(image, has_row=bool(found))

    def _add_alone(self, image: LooseImage) -> bool:
        """Add an image whose name does not count or says nothing, else return False."""
        choice, name = self.choice, image.name
        if self._is_overruled(image) and choice.single:
            self._add_rows({choice.single: [image.path]})
        elif name.is_label_map:
            self.notes.label_maps.append(image.path)
        elif name.contrast is not None:
            return False
        elif image.path in self.channels and not choice.single:
            self._fail(image.path, unknown_channel(image.path, "--modality"))
        else:
            if not choice.single:
                self.notes.unnamed.append(image.path)
            self._add_rows({choice.used[0]: [image.path]})
        return True

    def _is_overruled(self, image: LooseImage) -> bool:
        return image.is_named and self.choice.single is not None

    def _modality_of(self, name: ImageName) -> str | None:
        modality = name.find_modality(self.choice.known)
        if modality is None and name.contrast == CONTRAST_AGENT:
            return CONTRAST_AGENT if _T1W in self.choice.used else None
        return modality

    def _resolve_agent(self, found: dict[str, list[str]]) -> None:
        """Take T1w images with contrast agent for T1w, where there are none without."""
        if CONTRAST_AGENT in self.choice.known or CONTRAST_AGENT not in found:
            return
        paths = found.pop(CONTRAST_AGENT)
        if _T1W in found:
            self.notes.agent_left_out.extend(paths)
        else:
            self.notes.agent_used.extend(paths)
            found[_T1W] = paths

    def _add_rows(self, found: Mapping[str, Sequence[str]]) -> None:
        """Add a row, a row per image of a single modality, or a failure."""
        unused = {n: paths for n, paths in found.items() if n not in self.choice.used}
        for path in chain.from_iterable(unused.values()):
            name = read_image_name(path)
            error = unknown_contrast(path, name, self.choice.used, "--modality")
            self._fail(path, error)
        used = {name: found[name] for name in found if name not in unused}
        if len(used) == 1:
            ((modality, paths),) = used.items()
            self.rows += [_subject({modality: path}) for path in paths]
            return
        self.has_joined |= bool(used)
        for modality, paths in used.items():
            if len(paths) > 1:
                names = ", ".join(Path(path).name for path in paths)
                clash = InputError(
                    f"{paths[0]}: several {modality} images fit ({names}); name one in "
                    "a manifest."
                )
                self._fail(paths[0], clash)
                return
        if used:
            self.rows.append(_subject({name: paths[0] for name, paths in used.items()}))

    def _add_other(self, image: LooseImage, *, has_row: bool) -> None:
        if has_row or not image.is_named:
            self.notes.other_contrasts.append(image.path)
            return
        name, used = image.name, self.choice.used
        self._fail(image.path, unknown_contrast(image.path, name, used, "--modality"))

    def _fail(self, path: str, error: Exception) -> None:
        subject = Subject(_subject({"": path}).participant_id, {}, source=path)
        self.problems.append(Outcome(subject, error=error))


def _subject(images: Mapping[str, str]) -> Subject:
    path = next(iter(images.values()))
    name = parse_bids_name(Path(path).name)
    return Subject(
        participant_id=name.participant_id or image_stem(path),
        session_id=name.session_id,
        images=images,
    )
