# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Weight files: read safely, and loaded only where they fit."""

import pickle
import urllib.error
import urllib.request
import warnings
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ...errors import InputError, InputWarning
from ...offline import VARIABLE, is_offline

# Where training frameworks keep the weights inside a checkpoint.
_NESTS = ('state_dict', 'model_state_dict', 'model', 'teacher', 'module', 'backbone')


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, without running any code that the file may hold.

    Args:
        path: A .safetensors file, or one that ``torch.load`` reads with
            ``weights_only=True``; the state dict may be nested in a checkpoint.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        InputError: If the file cannot be read or has no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'Weight file {path} does not exist')
    content: object
    try:
        if path.suffix == '.safetensors':
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, SafetensorError, EOFError, RuntimeError, ValueError) as error:
        raise InputError(f'Weight file {path} cannot be read: {error}') from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f'Weight file {path} is no plain state dict (it cannot be read with '
            'weights_only=True): save its state_dict() or convert it to .safetensors'
        ) from error
    while isinstance(content, dict):
        nested = [n for n in _NESTS if isinstance(content.get(n), dict)]
        if not nested:
            break
        content = content[nested[0]]
    if isinstance(content, dict):
        tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise InputError(f'Weight file {path} holds no state dict')


def strip_prefix(state: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Drop the prefix that wrappers put before a network's own names.

    Args:
        state: Tensors by name, e.g. ``module.backbone.conv1.weight``.
        names: The network's own names, e.g. ``conv1.weight``.

    Returns:
        The tensors under the prefix by which most names agree; all tensors if the
        plain names agree best.
    """
    expected, prefixes = set(names), Counter({'': 0})
    for key in state:
        parts = key.split('.')
        for i in range(len(parts)):
            if '.'.join(parts[i:]) in expected:
                prefixes['.'.join([*parts[:i], ''])] += 1
    # The first of equal counts: no prefix where nothing agrees.
    prefix = max(prefixes, key=lambda p: (prefixes[p], -len(p)))
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def load_weights(
    network: nn.Module,
    state: dict[str, Tensor],
    source: str,
    label: str,
    optional: Collection[str] = (),
) -> None:
    """Load weights into a network, all that it has or none.

    Tensors that the network does not have (a classifier's head, say) are left out.

    Args:
        network: The network, without parts that are not used.
        state: Tensors by name.
        source: Name of the weights' file in error messages.
        label: Name of the network in error messages.
        optional: Beginnings of names that may be missing.

    Raises:
        InputError: If the network has a tensor that the weights have not, or have in
            another shape: a network that is random in part gives wrong features in
            silence.
    """
    expected = network.state_dict()
    fits = {
        k: v for k, v in state.items() if k in expected and v.shape == expected[k].shape
    }
    missing = [
        name
        for name in expected
        if name not in fits
        and not name.endswith('num_batches_tracked')
        and not name.startswith(tuple(optional))
    ]
    if missing:
        first = f'{missing[0]} {tuple(expected[missing[0]].shape)}'
        if missing[0] in state:
            first += f', in the file {tuple(state[missing[0]].shape)}'
        raise InputError(
            f'{source} does not fit {label}: {len(missing)} of {len(expected)} tensors are '
            f'missing or have another shape (first: {first})'
        )
    network.load_state_dict(fits, strict=False)


def is_reachable(url: str, seconds: float = 5) -> bool:
    """Ask a server for a sign of life, through the proxies of the environment.

    Asked before a download, because the clients behind timm and torchgeo retry for
    most of a minute or wait for ever where there is no network.

    Args:
        url: Any address of the server.
        seconds: How long to wait.

    Returns:
        Whether it answered.
    """
    try:
        request = urllib.request.Request(url, method='HEAD')
        with urllib.request.urlopen(request, timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def announce_download(label: str, url: str, cached: bool = False) -> None:
    """Say that a server is asked for weights, and make sure that it may be and answers.

    Args:
        label: Name of the network; also that of a saved fit, whose file holds none of
            its backbone's weights.
        url: Address of the server.
        cached: Whether the weights may be on this machine all the same: then whoever
            reads them finds out.

    Raises:
        InputError: The network is forbidden, or the server cannot be reached.

    Warns:
        InputWarning: The server is asked.
    """
    reachable = not is_offline() and is_reachable(url)
    if cached and not reachable:
        return
    if is_offline():
        raise no_weights(
            label, f'they are at {url} and the network is forbidden (--offline)'
        )
    if not reachable:
        raise no_weights(label, f'{url} cannot be reached')
    warnings.warn(
        f'Weights of backbone {label}: {url} is asked for them (--offline, or '
        f'{VARIABLE}=1, forbids that)',
        InputWarning,
        stacklevel=3,
    )


def no_weights(label: str, reason: str) -> InputError:
    """The error of a network without weights.

    Args:
        label: Name of the network.
        reason: What was tried.

    Returns:
        The error, which says what to do.
    """
    return InputError(
        f'No weights for backbone {label}: {reason}. Give a local file with --weights '
        'FILE (or the option weights=FILE), or use the embedded default, rcf'
    )
