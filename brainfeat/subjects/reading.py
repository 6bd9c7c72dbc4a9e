"""Read a subject's files and take them to the encoder's grid."""

from collections.abc import Sequence

from brainfeat.io.volumes import MEMORY_LIMIT, read_volume
from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Volume

__all__ = ["read_and_preprocess"]


def read_and_preprocess(
    subject: Subject,
    preprocessor: SubjectPreprocessing,
    modalities: Sequence[str],
    *,
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[dict[str, Volume], PreprocessedSubject]:
    """Return the volumes as read, by modality, and all modalities on the grid.

    ``memory_limit`` is in bytes per volume.
    """
    volumes = {
        name: read_volume(source, memory_limit=memory_limit)
        for name in modalities
        if (source := subject.images.get(name)) is not None
    }
    return volumes, preprocessor.apply(volumes, modalities)
