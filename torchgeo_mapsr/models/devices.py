# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where models compute."""

import torch

from ..errors import InputError

# Chips that are scored at once, at most; each takes some tens of megabytes.
_MAX_THREADS = 8


def device_of(name: str) -> torch.device:
    """The device of a name; ``auto`` is a GPU where there is one.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: If there is no such device here.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'There is no device {name!r} here: {reason}') from None


def device_of_module(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters are; the CPU if it has none.

    Args:
        module: The module.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device('cpu')


def chips_at_once(device: torch.device) -> int:
    """Chips that are best scored at once on a device.

    On a CPU the many small steps round a chip's large products use one core each: with
    a core to each chip, none is idle. Results are the same, whatever the number.

    Args:
        device: The device.
    """
    return min(torch.get_num_threads(), _MAX_THREADS) if device.type == 'cpu' else 1
