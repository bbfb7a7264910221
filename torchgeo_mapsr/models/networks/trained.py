# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks that were trained before, from their checkpoints."""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...datasets.legends.legend import Legend
from ...errors import InputError
from .ensemble import Ensemble
from .segmentation import SegmentationNetwork

#: Key of a checkpoint for what is to be known of its task without its class.
ABOUT = 'torchgeo-mapsr'

_NETWORK = 'network.'
_ARGUMENTS = ('model', 'backbone', 'bands', 'image_dtype', 'mean', 'std')


@dataclass(frozen=True, eq=False)
class Trained:
    """One network, or several whose probabilities are averaged.

    Args:
        ensemble: From images (B, C, H, W) as read to probabilities (B, K, H, W).
        bands: Bands of the imagery, C.
        target: Legend of the classes.
        halo: Pixels at an image's border that lack context.
        stride: Least common stride of the networks, in pixels.
        provenance: Where they come from, as JSON types.
    """

    ensemble: Ensemble
    bands: int
    target: Legend
    halo: int
    stride: int
    provenance: dict[str, Any]

    @classmethod
    def load(
        cls, paths: Sequence[str | Path], weights: Sequence[float] | None = None
    ) -> 'Trained':
        """Load checkpoints of segmentation tasks.

        Nothing but tensors and plain values is read; no code of the file runs. The
        network is made again from the hyperparameters, so that the task's class (and
        discriminators, teachers and optimisers in the file) are not needed.

        Args:
            paths: Checkpoints that Lightning has written for a
                :class:`~torchgeo_mapsr.tasks.segmentation.SegmentationTask`, or a task
                derived from it.
            weights: Weight of each; all alike by default.

        Raises:
            InputError: If a file is none of that kind, or if they do not fit together.
        """
        contents = [_read(Path(path)) for path in paths]
        networks, targets, members = [], [], []
        for path, content in zip(paths, contents, strict=True):
            hparams, about = content['hyper_parameters'], content[ABOUT]
            target = Legend.load(about['target'])
            arguments = {name: hparams[name] for name in _ARGUMENTS}
            network = SegmentationNetwork(classes=len(target), **arguments)
            state = {
                name.removeprefix(_NETWORK): value
                for name, value in content['state_dict'].items()
                if name.startswith(_NETWORK)
            }
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise InputError(
                    f'{path} does not fit its own hyperparameters: '
                    f'{str(error).splitlines()[-1].strip()}'
                ) from error
            networks.append(network.eval().requires_grad_(False))
            targets.append(target)
            members.append(
                {
                    'task': about['task'],
                    'sha256': _digest(Path(path)),
                    'steps': content.get('global_step'),
                    **arguments,
                }
            )
        for path, target, network in zip(paths, targets, networks, strict=True):
            if target != targets[0] or network.bands != networks[0].bands:
                raise InputError(
                    f'{path} and {paths[0]} have different classes or bands and cannot '
                    'be averaged'
                )
        ensemble = Ensemble(networks, weights)
        return cls(
            ensemble.eval(),
            networks[0].bands,
            targets[0],
            max(network.halo for network in networks),
            max(network.stride for network in networks),
            {'checkpoints': members, 'shares': ensemble.share.tolist()},
        )


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a checkpoint, as far as it is plain."""
    if not path.is_file():
        raise InputError(f'Checkpoint {path} does not exist')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f'Checkpoint {path} cannot be read: {reason}') from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f'Checkpoint {path} holds more than tensors and plain values, and is not '
            'read: that may be harmful'
        ) from error
    if not isinstance(content, Mapping) or ABOUT not in content:
        raise InputError(
            f'{path} is no checkpoint of a segmentation task of this package (fits of '
            'MapSRTask are given with --model)'
        )
    return content


def _digest(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
