# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Checkpoints of networks by their files, which are opened where they are used."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...atomic import file_digest
from ...errors import InputError
from ..devices import device_of

if TYPE_CHECKING:
    from .trained import NetworkModel


@dataclass(frozen=True)
class NetworkFiles:
    """Checkpoints of networks by their files: what is sent to other processes.

    Args:
        paths: Checkpoints.
        digests: SHA-256 of each.
        weights: Weight of each; all alike if empty.
        device: Name of the device, looked for where they are opened.
        precision: fp32, bf16 or fp16.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    weights: tuple[float, ...]
    device: str
    precision: str

    @classmethod
    def of(
        cls,
        paths: tuple[Path, ...],
        weights: tuple[float, ...],
        device: str,
        precision: str,
    ) -> 'NetworkFiles':
        """Look at files.

        Args:
            paths: Checkpoints.
            weights: Weight of each; all alike if empty.
            device: Name of the device.
            precision: fp32, bf16 or fp16.

        Raises:
            InputError: If one is not there.
        """
        for path in paths:
            if not path.is_file():
                raise InputError(f'Checkpoint {path} does not exist.')
        digests = tuple(file_digest(path) for path in paths)
        absolute = tuple(path.absolute() for path in paths)
        return cls(absolute, digests, weights, device, precision)

    def open(self) -> 'NetworkModel':
        """Load them, once in this process.

        Raises:
            InputError: If they are no checkpoints, or are others than those that were
                looked at.
        """
        return _opened(self)

    def on(self, device: str) -> 'NetworkFiles':
        """The same on another device.

        Args:
            device: Its name.
        """
        return replace(self, device=device)


@lru_cache(maxsize=1)
def _opened(files: NetworkFiles) -> 'NetworkModel':
    for path, digest in zip(files.paths, files.digests, strict=True):
        if not path.is_file() or file_digest(path) != digest:
            raise InputError(f'Checkpoint {path} is not there or is another one.')
    # It imports timm and others, which a map by frozen features does not need.
    from .trained import load_networks

    return load_networks(
        files.paths, files.weights or None, device_of(files.device), files.precision
    )
