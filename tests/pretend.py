# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A GPU for machines without one: tensors that say they are on it, and are not.

Every operation computes on the CPU and fails where a GPU's would, because some of its
tensors are on the GPU and others are not. How fast one is, and what its kernels give in
their last digits, only a real one can tell.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

GPU = torch.device('cuda', 0)

# What may have tensors here and there: copies, and indices on the CPU.
_ACROSS = {'aten::_to_copy', 'aten::copy_', 'aten::index', 'aten::index_put_'}

# What the CPU has to wait for, since the shape of the result depends on values.
_WAITS = {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select'}


class OnGpu(Tensor):
    """A tensor on the GPU, whose values are in another one on the CPU."""

    held: Tensor

    def __new__(cls, held: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f'OnGpu({self.held})'

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {}, Counter())


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """All tensors of arguments; torch's own way round takes longer than a product."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _run(func: Any, args: Any, kwargs: dict[str, Any], log: Counter[str]) -> Any:
    """Compute on the CPU, and put the result where it belongs."""
    name = func._schema.name
    tensors = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
    there = any(isinstance(tensor, OnGpu) for tensor in tensors)
    here = any(not isinstance(tensor, OnGpu) and tensor.dim() for tensor in tensors)
    if there and here and name not in _ACROSS:
        raise RuntimeError(f'{name} has tensors on the CPU and on the GPU')
    asked = kwargs.get('device')
    to = there if asked is None else torch.device(asked).type == GPU.type
    if not there and not to:
        # Most of a fit is computed on the CPU: not one operation more for that.
        return func(*args, **kwargs)
    if asked is not None:
        kwargs = {**kwargs, 'device': torch.device('cpu')}
    log['operations'] += 1
    back = name == 'aten::_to_copy' and not to
    log['waits'] += back or name in _WAITS or name.startswith('aten::_unique')

    def take(leaf: Any) -> Any:
        return leaf.held if isinstance(leaf, OnGpu) else leaf

    def put(leaf: Any) -> Any:
        return OnGpu(leaf) if to and type(leaf) is Tensor else leaf

    return tree_map(put, func(*tree_map(take, args), **tree_map(take, kwargs)))


class _Operations(TorchDispatchMode):
    """Puts new tensors on the GPU where they are asked for."""

    def __init__(self, log: Counter[str]) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {}, self.log)


class _FromValues(TorchFunctionMode):
    """Makes tensors of numbers on the CPU and moves them: torch does it out of reach."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], OnGpu):
            like = args[0]
            kwargs = {'dtype': like.dtype, 'device': like.device, **kwargs}
            func, args = torch.tensor, args[1:]
        if func in (torch.tensor, torch.as_tensor) and kwargs.get('device'):
            device = kwargs.pop('device')
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[Counter[str]]:
    """Have this thread believe in a GPU.

    Yields:
        How many operations it did, and how often the CPU had to wait for it.
    """
    log: Counter[str] = Counter()
    # Where torch looks for a driver and none is.
    torch._C._ensureCUDADeviceGuardSet()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            patch('torch.cuda._lazy_init', lambda: None),
            patch('torch.cuda.synchronize', lambda device=None: None),
            patch('torch.cuda.current_device', lambda: GPU.index),
            # Tensors made by hand cannot be inference tensors.
            patch('torch._C._InferenceMode', lambda mode: torch.no_grad()),
            torch.backends.cudnn.flags(enabled=False),
            _Operations(log),
            _FromValues(),
        ):
            yield log
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
