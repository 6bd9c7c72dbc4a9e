"""A GPU that is not there: tensors that say ``cuda:0`` and compute on the CPU.

Operators raise, as CUDA's do, where tensors of two devices or a generator of another
device meet. `compile_guard` must have been loaded before torch.
"""

import threading
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_aten = torch.ops.aten
# Tensors of two devices meet in them by right.
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
# CUDA takes indices of its own tensors from the CPU.
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
    _aten._index_put_impl_.default,
}

_ON_GPU = {}  # generators by their place in memory, since operators get copies


class DeviceError(RuntimeError):
    """What would fail on a GPU."""


class FakeTensor(torch.Tensor):
    """A tensor on the CPU that says it is on a GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        fake = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
            requires_grad=inner.requires_grad,
        )
        fake.inner = inner
        return fake

    def __repr__(self):
        return f"FakeTensor({self.inner})"

    def tolist(self):
        return self.inner.tolist()

    def record_stream(self, stream):
        pass

    def new_tensor(self, data, *, device=CUDA, **options):
        made = self.inner.new_tensor(data, **options)
        return FakeTensor(made) if torch.device(device).type == "cuda" else made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class FakeMode(TorchDispatchMode):
    """Makes tensors on the GPU, which no argument of an operator shows."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class FakeGenerator(torch._C.Generator):
    """A generator of either device, whose numbers are those of the CPU."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls, device="cpu")
        if torch.device(device).type == "cuda":
            _ON_GPU[generator._cdata] = (
                generator  # kept, so that no other has its place
            )
        return generator

    @property
    def device(self):
        return CUDA if self._cdata in _ON_GPU else CPU


def run(func, args, kwargs):
    """Run an operator on the CPU, and return tensors of the device that it is on."""
    target = kwargs.get("device")
    device = _device_of(func, args, kwargs) if target is None else torch.device(target)
    if device.type == "meta":
        return func(*args, **kwargs)
    if func is _aten._fused_sdp_choice.default:
        return 0  # plain products, the only ones that both devices have
    if func is _aten.record_stream.default:
        return None
    _check_generator(func, kwargs.get("generator"), device)
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    if target is not None:
        inner_kwargs["device"] = CPU
    inner_kwargs.pop("pin_memory", None)
    out = func(*inner_args, **inner_kwargs)
    if device.type == "cpu":
        return out
    # An operator that changes a tensor returns that tensor.
    same = {
        id(x.inner): x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor)
    }
    return tree_map(lambda x: same[id(x)] if id(x) in same else _wrap(x), out)


def _device_of(func, args, kwargs):
    """Return the device of the tensors of an operator; raise if there are two."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    fakes = [x for x in tensors if isinstance(x, FakeTensor)]
    if not fakes:
        return CPU
    if func in _COPIES:
        return CUDA if isinstance(args[0], FakeTensor) else CPU
    others = [x for x in tensors if not isinstance(x, FakeTensor)]
    if func in _INDEXING and isinstance(args[0], FakeTensor):
        others = [x for x in others if x.dtype not in {torch.long, torch.bool}]
    # CUDA's operators take single numbers from the CPU.
    if any(x.ndim > 0 for x in others):
        raise DeviceError(f"{func}: expected all tensors on one device, found two.")
    return CUDA


def _check_generator(func, generator, device):
    if generator is None:
        return
    is_on_gpu = generator._cdata in _ON_GPU
    if is_on_gpu != (device.type == "cuda"):
        raise DeviceError(f"{func}: expected a generator on the {device.type}.")


def _inner(value):
    return value.inner if isinstance(value, FakeTensor) else value


def _wrap(value):
    return FakeTensor(value) if isinstance(value, torch.Tensor) else value


@contextmanager
def fake_gpu():
    """Let torch believe that there is a GPU, in this and in new threads."""
    start, from_data = threading.Thread.run, torch.tensor

    def make_tensor(data, *, device=None, **options):
        made = from_data(data, **options)
        return made if device is None else made.to(device)

    def run_in_mode(thread):
        with FakeMode():
            start(thread)

    patches = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "synchronize": lambda *_: None,
        "manual_seed_all": lambda _: None,
        "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
        "device": lambda _: nullcontext(),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "Stream": lambda *_, **__: mock.MagicMock(),
        "Event": lambda *_, **__: mock.MagicMock(),
        "stream": lambda _: nullcontext(),
        "current_stream": lambda *_: mock.MagicMock(),
    }
    with ExitStack() as stack:
        # Modules take new parameters when they move: the old ones are of another class.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(
            torch.__future__.set_overwrite_module_params_on_conversion, False
        )
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_in_mode))
        stack.enter_context(
            mock.patch.object(torch.Tensor, "pin_memory", lambda self, *_: self)
        )
        stack.enter_context(mock.patch.object(torch, "tensor", make_tensor))
        stack.enter_context(FakeMode())
        yield CUDA
