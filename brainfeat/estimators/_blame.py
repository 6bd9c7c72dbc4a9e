"""Errors that begin with the file they are about."""

from brainfeat.estimators._subjects import Subject
from brainfeat.exceptions import BrainfeatError

__all__ = ["blame"]


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
        error.add_note(f"while preprocessing {subject.culprit}")
        return error
    if any(name in str(error) for name in (*subject.file_names, subject.name)):
        return error
    blamed = type(error)(f"{subject.culprit}: {error}")
    blamed.__cause__ = error
    return blamed
