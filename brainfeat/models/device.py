"""Where the encoder runs, in which precision, and on how many subjects at a time."""

from numbers import Integral
from typing import Any

import joblib
import torch

from brainfeat.configs import is_integer
from brainfeat.exceptions import ConfigError

__all__ = [
    "is_out_of_memory",
    "resolve_batch_size",
    "resolve_device",
    "resolve_dtype",
    "resolve_n_jobs",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Enough tokens to fill a large accelerator; a fixed number, so that rows are the
# same on cards with more or less memory.
_TOKENS_PER_BATCH = 65_536
_LARGEST_BATCH = 32


def resolve_device(device: Any) -> torch.device:
    """Choose the device.

    Parameters
    ----------
    device : "auto", str or torch.device
        ``"auto"`` takes the current CUDA device, if there is one, else the CPU.

    Returns
    -------
    torch.device
        A device that is there, with its index: the current device of another thread
        may be another one.

    Raises
    ------
    ConfigError
        If the device is unknown or not there.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    try:
        # Asking for one number is the only test that every backend has.
        return torch.empty(1, device=torch.device(device)).device
    except (AssertionError, RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device: expected 'auto' or a device that is there, got {device!r} "
            f"({reason})."
        ) from error


def resolve_dtype(dtype: Any, device: torch.device) -> torch.dtype:
    """Choose the precision of the encoder's matrix products.

    Parameters
    ----------
    dtype : {"auto", "float32", "bfloat16"}
        ``"auto"`` takes bfloat16 where the processor multiplies it natively,
        which is about three times as fast, else float32.
    device : torch.device
        Where the encoder runs.

    Returns
    -------
    torch.dtype
        ``torch.float32`` or ``torch.bfloat16``.

    Raises
    ------
    ConfigError
        If ``dtype`` is another value.
    """
    if isinstance(dtype, str) and dtype == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ConfigError(
            f"dtype: expected one of {('auto', *_DTYPES)}, got {dtype!r}."
        )
    return _DTYPES[dtype]


def resolve_batch_size(batch_size: Any, device: torch.device, n_tokens: int) -> int:
    """Choose how many subjects share a batch.

    Parameters
    ----------
    batch_size : "auto" or int
        ``"auto"`` is one on a CPU, whose caches hold the slabs of one subject,
        and what fills an accelerator elsewhere.
    device : torch.device
        Where the encoder runs.
    n_tokens : int
        Tokens of one subject.

    Returns
    -------
    int
        Number of subjects.

    Raises
    ------
    ConfigError
        If ``batch_size`` is another value.
    """
    if isinstance(batch_size, str) and batch_size == "auto":
        if device.type == "cpu":
            return 1
        return max(1, min(_LARGEST_BATCH, _TOKENS_PER_BATCH // n_tokens))
    if not is_integer(batch_size, at_least=1):
        raise ConfigError(
            f"batch_size: expected 'auto' or a positive integer, got {batch_size!r}."
        )
    return int(batch_size)


def resolve_n_jobs(n_jobs: Any) -> int:
    """Choose the number of threads.

    Parameters
    ----------
    n_jobs : None or int
        As scikit-learn's: -1 is one a core.

    Returns
    -------
    int
        Number of threads.

    Raises
    ------
    ConfigError
        If ``n_jobs`` is another value.
    """
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
        raise ConfigError(
            "n_jobs: expected None, a positive integer, or -1 for one a core, "
            f"got {n_jobs!r}."
        )
    return int(joblib.effective_n_jobs(n_jobs))


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory was short.

    Parameters
    ----------
    error : Exception
        What a computation raised.

    Returns
    -------
    bool
        Whether less work at a time could succeed.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What torch raises on a CPU has no type of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
