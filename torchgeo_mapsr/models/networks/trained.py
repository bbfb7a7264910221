# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks that were trained before, from their checkpoints, as a model of chips."""

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...atomic import file_digest
from ...datasets.bands import UNNAMED, BandDescriptions
from ...datasets.chip import Chip
from ...datasets.legends.legend import Legend
from ...errors import InputError
from ..chip_model import Timer, no_timer
from ..features import HALF
from ..head.calibration import Calibration
from .ensemble import Ensemble
from .segmentation import Network, SegmentationNetwork

#: Key of a checkpoint for what is to be known of its task without its class.
ABOUT = 'torchgeo-mapsr'

# Where a task keeps the network. Earlier checkpoints have another prefix and no digest.
_PREFIX, _OLD_PREFIX = 'model.', 'network.'
_OLD_NAMES = ('model', 'backbone', 'image_dtype', 'mean', 'std')


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """Networks that turn a chip into class probabilities, the mean of theirs.

    Args:
        ensemble: From images (B, C, H, W) as read to probabilities (B, K, H, W), on the
            device.
        bands: Bands of the imagery, C.
        target: Legend of the classes.
        halo: Pixels at a chip's border that lack context.
        stride: Largest stride of the networks, in pixels; chips start at multiples
            of it.
        provenance: Where they come from, as JSON types.
        device: Where they compute.
        precision: fp32, bf16 or fp16.
        descriptions: What is said of the bands that they were trained on.
        pixel_size: Side of the pixels of that imagery in metres; 0 where it is not known.
    """

    ensemble: Ensemble
    bands: int
    target: Legend
    halo: int
    stride: int
    provenance: dict[str, Any]
    device: torch.device
    precision: str = 'fp32'
    descriptions: BandDescriptions = UNNAMED
    pixel_size: float = 0.0

    #: Networks see the imagery alone.
    uses_labels = False

    #: A network's probabilities are taken as they are.
    calibration = Calibration(description='not calibrated: the networks’ own')

    @torch.no_grad()
    def probabilities(self, chip: Chip, timer: Timer = no_timer) -> Tensor:
        """Class probabilities of a chip's core, (C, h, w) float32.

        Args:
            chip: The chip.
            timer: Counts the time of each stage.
        """
        half = HALF.get(self.precision)
        with timer('network'):
            image = chip.image[None].to(self.device)
            with torch.autocast(self.device.type, half, enabled=half is not None):
                probabilities: Tensor = self.ensemble(image)[0]
            if self.device.type == 'cuda':
                # Wait, or the GPU's time would be counted to the next stage.
                torch.cuda.synchronize(self.device)
        rows, cols = chip.core or (slice(None), slice(None))
        return probabilities[:, rows, cols]


def load_networks(
    paths: Sequence[str | Path],
    weights: Sequence[float] | None = None,
    device: torch.device | str = 'cpu',
    precision: str = 'fp32',
) -> NetworkModel:
    """Load checkpoints of segmentation tasks.

    Nothing but tensors and plain values is read; no code of the file runs. The network
    is made again from the hyperparameters, so that the task's class (and discriminators,
    teachers and optimisers in the file) are not needed.

    Args:
        paths: Checkpoints that Lightning has written for a
            :class:`~torchgeo_mapsr.tasks.network.NetworkTask`: each task of this
            package that trains a network.
        weights: Weight of each; all alike by default.
        device: Where the networks compute.
        precision: fp32, bf16 or fp16.

    Returns:
        The networks; the mean of their probabilities, if they are several.

    Raises:
        InputError: If a file is none of that kind or is damaged, or if they do not
            fit together.
    """
    networks, targets, members = [], [], []
    descriptions, pixel_size = UNNAMED, 0.0
    for path in map(Path, paths):
        content = _read(path)
        try:
            network, target, task = _network(content)
        except InputError as error:
            raise InputError(f'{path}: {error}') from error
        except Exception as error:
            raise InputError(
                f'{path} does not fit its own hyperparameters: {_first_line(error)}'
            ) from error
        said = content[ABOUT].get('descriptions', {})
        descriptions = BandDescriptions.from_dict(said) if said else descriptions
        pixel_size = content[ABOUT].get('pixel_size', pixel_size)
        networks.append(network.eval().requires_grad_(False))
        targets.append(target)
        members.append(
            {
                'task': task,
                'sha256': file_digest(path),
                'steps': content.get('global_step'),
                **network.arguments.to_dict(),
            }
        )
    for name, target, network in zip(paths, targets, networks, strict=True):
        if target != targets[0] or network.in_channels != networks[0].in_channels:
            raise InputError(
                f'{name} and {paths[0]} have different classes or bands and cannot '
                'be averaged'
            )
    ensemble = Ensemble(networks, weights)
    return NetworkModel(
        ensemble.eval().to(device),
        networks[0].in_channels,
        targets[0],
        max(network.halo for network in networks),
        max(network.stride for network in networks),
        {'checkpoints': members, 'shares': ensemble.share.tolist()},
        torch.device(device),
        precision,
        descriptions,
        pixel_size,
    )


def describe(
    checkpoint: dict[str, Any],
    task: str,
    target: dict[str, Any],
    network: Network,
    descriptions: BandDescriptions = UNNAMED,
    pixel_size: float = 0.0,
) -> None:
    """Add to a checkpoint what :func:`load_networks` needs, and a digest.

    Args:
        checkpoint: What will be saved.
        task: Name of the task.
        target: Legend of the map, as plain values.
        network: What the network is made from.
        descriptions: What is said of the bands that it is trained on.
        pixel_size: Side of the pixels of that imagery in metres; 0 where it is not known.
    """
    about = {
        'task': task,
        'target': target,
        'network': network.to_dict(),
        'descriptions': descriptions.to_dict(),
        'pixel_size': pixel_size,
    }
    checkpoint[ABOUT] = about
    if 'state_dict' in checkpoint:  # sharded strategies save it elsewhere
        about['digest'] = _state_digest(about, checkpoint['state_dict'])


def verify(checkpoint: Mapping[str, Any]) -> None:
    """Make sure that a checkpoint is what was saved.

    Args:
        checkpoint: What was loaded. An earlier one, without a digest, passes.

    Raises:
        InputError: If it is not.
    """
    about = checkpoint.get(ABOUT, {})
    if 'digest' not in about:
        return
    if about['digest'] != _state_digest(about, checkpoint['state_dict']):
        raise InputError(
            'the checkpoint is damaged: its digest is that of other weights'
        )


def _state_digest(about: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """SHA-256 of all tensors of a state, and of what is said about the network."""
    digest = hashlib.sha256()
    described = {k: v for k, v in about.items() if k != 'digest'}
    digest.update(json.dumps(described, sort_keys=True).encode())
    for name in sorted(state):
        digest.update(name.encode())
        value = state[name]
        if isinstance(value, Tensor):
            digest.update(f'{value.dtype} {tuple(value.shape)}'.encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _network(content: Mapping[str, Any]) -> tuple[SegmentationNetwork, Legend, str]:
    """The network of a checkpoint, its classes, and the name of its task."""
    verify(content)
    about, prefix = content[ABOUT], _PREFIX
    if 'network' in about:
        arguments = Network(**about['network'])
    else:
        prefix, hparams = _OLD_PREFIX, content['hyper_parameters']
        named = {name: hparams[name] for name in _OLD_NAMES}
        arguments = Network(in_channels=hparams['bands'], **named)
    target = Legend.load(about['target'])
    network = SegmentationNetwork(arguments, len(target))
    network.load_state_dict(
        {
            name.removeprefix(prefix): value
            for name, value in content['state_dict'].items()
            if name.startswith(prefix)
        }
    )
    return network, target, about['task']


def read_checkpoint(path: Path) -> Any:
    """Read a checkpoint, as far as it is plain.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        InputError: If it cannot be read, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise InputError(f'Checkpoint {path} does not exist')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f'Checkpoint {path} holds more than tensors and plain values, which may be '
            'harmful, or is damaged; it is not read'
        ) from error
    except Exception as error:
        # What a damaged archive raises depends on where the damage is.
        raise InputError(
            f'Checkpoint {path} cannot be read: {_first_line(error)}'
        ) from error


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a checkpoint of this package."""
    content = read_checkpoint(path)
    if not isinstance(content, Mapping) or ABOUT not in content:
        raise InputError(
            f'{path} is no checkpoint of a segmentation task of this package (fits of '
            'MapSRTask are given with --model)'
        )
    return content


def _first_line(error: Exception) -> str:
    """One line of an error's message; torch has the reason in the last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:200]
