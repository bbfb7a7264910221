# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Saved fits in tasks and in checkpoints."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..datasets.legends.legend import Legend
from ..errors import InputError
from ..models.backbones.backbone import Backbone
from ..models.head.head import Classifier


def load_for(backbone: Backbone, target: Legend, path: str | Path) -> Classifier:
    """Load a saved fit, and give the backbone what it had learned.

    Args:
        backbone: The backbone that the fit was made with; it is calibrated here.
        target: Legend of the map.
        path: The file.

    Returns:
        The classifier.

    Raises:
        InputError: If the fit is for another backbone or another legend.
    """
    saved = Classifier.load(path)
    if saved.target != target:
        raise InputError(
            f"{path} maps the classes of '{saved.target.name}', not of "
            f"'{target.name}': give target={saved.target.name}"
        )
    made = saved.provenance['backbone']
    alike = made['channels'] == sum(backbone.channels)
    alike = alike and _shapes(saved.calibration) == _shapes(backbone.calibration())
    if alike:
        backbone.load_calibration(dict(saved.calibration))
    if not alike or backbone.weights_digest() != made['weights']:
        raise InputError(
            f'{path} was made with the backbone {made["spec"]} for {made["bands"]} '
            f'bands and other weights than {backbone.spec} for {backbone.bands}: give '
            'backbone, bands and weights of the fit'
        )
    return saved


def to_bytes(classifier: Classifier) -> Tensor:
    """The file of a classifier, without the backbone's calibration, (n,) uint8.

    Args:
        classifier: The classifier.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'fit.safetensors'
        replace(classifier, calibration={}).save(path)
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def from_bytes(content: Tensor, calibration: Mapping[str, Tensor]) -> Classifier:
    """What :func:`to_bytes` was given.

    Args:
        content: What it returned.
        calibration: The backbone's calibration.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'fit.safetensors'
        path.write_bytes(content.cpu().numpy().tobytes())
        return replace(Classifier.load(path), calibration=calibration)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
