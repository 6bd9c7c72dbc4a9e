"""Errors that begin with the file they are about."""

from collections.abc import Iterator
from contextlib import contextmanager

from brainfeat.exceptions import BrainfeatError
from brainfeat.subjects.subject import Subject

__all__ = ["blame", "blaming"]


def blame(error: Exception, subject: Subject) -> Exception:
    """Let an error begin with the file, or the subject that is in memory.

    Parameters
    ----------
    error : Exception
        What a subject's images raised.
    subject : Subject
        Whose they are.

    Returns
    -------
    Exception
        Of the same type; with a note if it is none of ours.
    """
    if not isinstance(error, BrainfeatError):
        # No error of ours: its type and traceback say most.
        error.add_note(f"while preprocessing {subject.source_name}")
        return error
    beginnings = tuple(
        f"{name}: " for name in (*subject.paths.values(), subject.participant_id)
    )
    if str(error).startswith(beginnings):
        return error
    blamed = type(error)(f"{subject.source_name}: {error}")
    blamed.__cause__ = error
    return blamed


@contextmanager
def blaming(subject: Subject) -> Iterator[None]:
    """Let errors that are raised meanwhile begin with the file or the subject.

    Parameters
    ----------
    subject : Subject
        Whose images are worked on.

    Yields
    ------
    None
        While it holds.

    Raises
    ------
    Exception
        What was raised, as `blame` returns it.
    """
    try:
        yield
    except Exception as error:  # whatever a damaged file makes a library raise
        blamed = blame(error, subject)
        if blamed is error:
            raise
        raise blamed from error
