"""Where the encoder runs, in which precision, and on how many subjects at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import joblib
import torch

from brainfeat.exceptions import ConfigError

__all__ = [
    "MOST_SEGMENTED_AT_ONCE",
    "count_encoders",
    "is_out_of_memory",
    "resolve_batch_size",
    "resolve_device",
    "resolve_dtype",
    "resolve_n_jobs",
    "share_cores",
    "use_cores",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Enough tokens to fill a large accelerator; a fixed number, so that rows are the
# same on cards with more or less memory.
_TOKENS_PER_BATCH = 65_536
_LARGEST_BATCH = 32
# More would hold up each other by the interpreter's lock, and need memory each.
_MOST_ENCODED_AT_ONCE = 8
MOST_SEGMENTED_AT_ONCE = 4  # a gigabyte each


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
    is_integer = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if not is_integer or batch_size < 1:
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


def count_encoders(device: torch.device, n_most: int = _MOST_ENCODED_AT_ONCE) -> int:
    """Choose how many batches are encoded side by side.

    On a CPU each thread encodes a batch by itself: threads that share a product wait
    for each other at every layer, and for whatever else has a core at that moment.

    Parameters
    ----------
    device : torch.device
        Where the encoder runs.
    n_most : int
        Upper limit.

    Returns
    -------
    int
        Number of threads; one unless the device is a CPU.
    """
    if device.type != "cpu":
        return 1
    return min(torch.get_num_threads(), n_most)


def share_cores(n_threads: int, n_busy: int, n_encoders: int = 1) -> int:
    """Divide the cores that other threads leave among encoders.

    Parameters
    ----------
    n_threads : int
        Threads that PyTorch may use.
    n_busy : int
        Threads that need a core each.
    n_encoders : int
        Threads that encode, and divide what is left.

    Returns
    -------
    int
        Threads for one encoder; at least one.
    """
    n_free = min(n_threads, int(joblib.cpu_count()) - n_busy)
    return max(1, n_free // n_encoders)


@contextmanager
def use_cores(device: torch.device, n_cores: int, n_threads: int) -> Iterator[None]:
    """Let PyTorch's products in the calling thread use some of the cores only.

    Parameters
    ----------
    device : torch.device
        Where the encoder runs; nothing is done unless it is a CPU.
    n_cores : int
        Threads of a product meanwhile.
    n_threads : int
        Threads of a product afterwards, and in threads that begin later.

    Yields
    ------
    None
        While the limit holds.
    """
    if device.type != "cpu":
        yield
        return
    torch.set_num_threads(n_cores)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
