# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A saved fit by its file, which is opened where it is used."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..atomic import file_digest
from .backbones.backbone import Backbone
from .devices import device_of
from .model import LandCoverModel


@dataclass(frozen=True)
class ModelFile:
    """A saved model by its file: what is sent to other processes.

    Args:
        path: The file, on a file system that all of them see.
        digest: SHA-256 of the file.
        device: Name of the device, looked for where it is opened.
        precision: Arithmetic of the backbone.
        weights: Weight file of the backbone, where it is not where it was.
        compiled: Whether networks are compiled.
        options: How the fit is used, see :meth:`LandCoverModel.with_options`.
    """

    path: Path
    digest: str
    device: str = 'auto'
    precision: str = 'fp32'
    weights: str | None = None
    compiled: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def open(self, backbone: Backbone | None = None) -> LandCoverModel:
        """Load the model, once in this process.

        Args:
            backbone: The backbone, where it is there already.

        Raises:
            InputError: If it cannot be loaded here.
            OSError: If the file is not the one that is meant, or not there.
        """
        return self._load(backbone) if backbone is not None else _opened(self)

    def _load(self, backbone: Backbone | None) -> LandCoverModel:
        if file_digest(self.path) != self.digest:
            raise OSError(None, 'The fit is another one', str(self.path))
        model = LandCoverModel.load(
            self.path, device_of(self.device), self.weights, backbone, self.precision
        )
        if self.compiled and backbone is None:
            model.backbone.compile()
        return model.with_options(**dict(self.options))


@lru_cache(maxsize=1)
def _opened(file: ModelFile) -> LandCoverModel:
    return file._load(None)
