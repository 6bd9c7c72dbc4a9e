"""Read what ``torch.save`` wrote, without running the code that a pickle may name.

torch's own reader of weights takes most files. Those with objects of other libraries,
such as Lightning's, it refuses; they are read here, with an inert object in place of
each. A pickle can call only what `find_class` gives it: here, what builds tensors.
"""

__all__ = ["TorchContent", "read_torch_file"]

import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from brainfeat.exceptions import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # begins files of torch before 1.6
_LEGACY_VERSION = 1001
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class TorchContent(NamedTuple):
    """What a file holds, and the names of the objects that are inert in it."""

    content: object
    foreign: tuple[str, ...] = ()


class _Inert(dict[Any, Any]):
    """Stands for an object of another library: runs nothing, keeps only items."""

    def __new__(cls, *_args: object, **_options: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        super().__init__()

    def __call__(self, *_args: object, **_options: object) -> "_Inert":
        return _Inert()

    def __setstate__(self, state: object) -> None:
        """Drop the state."""

    def append(self, item: object) -> None:
        """Drop an item of a sequence."""

    add = append

    def __hash__(self) -> int:  # type: ignore[override]  # may be a key of a mapping
        return id(self)


def read_torch_file(path: Path) -> TorchContent:
    """Load the content of a file; raise UnpicklingError if torch did not write it."""
    try:
        # Opened here, since torch takes a path's suffix for its format.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols
            content = torch.load(file, map_location="cpu", weights_only=True)
            return TorchContent(content)
    except pickle.UnpicklingError:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            return _read_legacy(file)


class _Unpickler(pickle.Unpickler):
    """Builds plain containers and tensors; anything else becomes inert."""

    def __init__(self, file: IO[bytes], read_storage: Callable[..., Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self.foreign: set[str] = set()
        self._read_storage = read_storage

    def find_class(self, module: str, name: str) -> Any:
        # Bound methods, since a pickle may set attributes of functions.
        builders = {
            "torch._utils._rebuild_tensor_v2": self._build_tensor,
            "torch._utils._rebuild_tensor": self._build_tensor,
            "torch._utils._rebuild_tensor_v3": self._build_typed_tensor,
            "torch._utils._rebuild_parameter": self._build_parameter,
            "collections.OrderedDict": OrderedDict,
            "torch.Size": torch.Size,
        }
        full_name = f"{module}.{name}"
        if full_name in builders:
            return builders[full_name]
        if module in {"torch", "torch.storage"} and name in _STORAGES:
            return _STORAGES[name]
        value = getattr(torch, name, None) if module == "torch" else None
        if isinstance(value, torch.dtype):
            return value
        self.foreign.add(full_name)
        # A class of its own, since a pickle may set attributes of classes.
        return type("_Inert", (_Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        kind, *details = pid
        if kind == "storage":
            return self._read_storage(*details)
        return details[0]  # a module's class, stored with its source

    def _build_tensor(
        self, storage: Tensor, offset: int, size: Any, stride: Any, *_rest: object
    ) -> Tensor:
        return storage.as_strided(tuple(size), tuple(stride), offset)

    def _build_typed_tensor(
        self,
        storage: Tensor,
        offset: int,
        size: Any,
        stride: Any,
        _requires_grad: bool,
        _hooks: object,
        dtype: torch.dtype,
        *_rest: object,
    ) -> Tensor:
        return self._build_tensor(storage.view(dtype), offset, size, stride)

    def _build_parameter(self, data: Tensor, *_rest: object) -> Tensor:
        return data


def _read_zip(file: IO[bytes]) -> TorchContent:
    with zipfile.ZipFile(file) as archive:
        (main,) = (n for n in archive.namelist() if PurePosixPath(n).name == "data.pkl")
        root = PurePosixPath(main).parent
        order = f"{root}/byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise CheckpointError("expected weights of a little-endian machine.")
        storages: dict[str, Tensor] = {}

        def read_storage(
            dtype: torch.dtype, key: str, _location: str, size: int
        ) -> Tensor:
            if key not in storages:
                content = archive.read(f"{root}/data/{key}")
                storages[key] = _to_tensor(content, dtype, size)
            return storages[key].view(dtype)

        with archive.open(main) as pickled:
            unpickler = _Unpickler(pickled, read_storage)
            content = unpickler.load()
    return TorchContent(content, tuple(sorted(unpickler.foreign)))


def _read_legacy(file: IO[bytes]) -> TorchContent:
    """Read a file in the format of torch before 1.6: pickles, then the storages."""
    storages: dict[str, Tensor] = {}

    def read_storage(
        dtype: torch.dtype, key: str, _location: str, size: int, view: Any = None
    ) -> Tensor:
        # The numbers follow at the end of the file.
        whole = storages.setdefault(key, torch.empty(size, dtype=dtype))
        return whole if view is None else whole[view[1] : view[1] + view[2]]

    def load() -> tuple[Any, set[str]]:
        unpickler = _Unpickler(file, read_storage)
        return unpickler.load(), unpickler.foreign

    try:
        begins_well = load()[0] == _LEGACY_MAGIC and load()[0] == _LEGACY_VERSION
    except Exception:  # a damaged pickle raises almost anything
        begins_well = False
    if not begins_well:
        raise pickle.UnpicklingError("expected a file of torch.save, got another.")
    load()  # sizes and order of bytes on the machine that wrote it
    content, foreign = load()
    for key in load()[0]:
        storage = storages[key]
        size = int.from_bytes(file.read(8), "little")
        read = file.read(size * storage.element_size())
        storage.copy_(_to_tensor(read, storage.dtype, size))
    return TorchContent(content, tuple(sorted(foreign)))


def _to_tensor(content: bytes, dtype: torch.dtype, size: int) -> Tensor:
    if len(content) < size * dtype.itemsize:
        raise EOFError("a tensor ends too early")
    if not size:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype, count=size)
