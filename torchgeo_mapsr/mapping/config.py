# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Everything that a mapping job can be told, in one place.

The command line's options and help, the configuration digest that resuming depends on,
and the settings in the report are all read off the fields of :class:`MapJob`.
"""

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.backbones.spec import map_option


def _about(
    group: str,
    help: str,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    result: bool = True,
) -> dict[str, Any]:
    """What else is to be known of a field, for ``--help`` and the digest.

    Args:
        group: Heading.
        help: What it does.
        metavar: Name of its value.
        choices: Allowed values.
        result: Whether its value decides what the map is. Files do by their content.
    """
    return locals()


# Settings of backbones, fits and what scores with them.
_OF_FITS = frozenset(
    [
        'backbone',
        'weights',
        'score',
        'prior',
        'prompts',
        'confidence_quantile',
        'centre',
        'class_balance',
        'class_weight',
        'noise',
        'upsampler',
        'propagate',
        'max_chips',
        'compile',
    ]
)


@dataclass(frozen=True, kw_only=True)
class MapJob:
    """A land-cover map to be made.

    Args:
        imagery: HR rasters, each a path that rasterio opens.
        output: The map (one mosaic), or a folder (a map for each file of imagery).
        labels: LR label rasters; may be left out if *model* is given.

    The other fields are documented by ``torchgeo-mapsr map --help``.

    Raises:
        InputError: If the fields contradict one another.
    """

    imagery: tuple[str, ...] = field(
        metadata=_about(
            'input', 'HR imagery, one or more files', 'IMAGERY', result=False
        )
    )
    labels: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            'input',
            'coarse label rasters, in any grid and CRS, of a part of the imagery or all',
            'FILE',
            result=False,
        ),
    )
    legend: str | None = field(
        default=None,
        metadata=_about(
            'input',
            'legend of the labels: nlcd, worldcover, chesapeake-7, openearthmap, '
            'dynamic-world, land-cover-4 or a YAML or JSON file',
            'NAME|FILE',
        ),
    )
    target: str = field(
        default='land-cover-4',
        metadata=_about('input', 'legend of the map', 'NAME|FILE'),
    )
    crosswalk: str | None = field(
        default=None,
        metadata=_about(
            'input',
            'how the labels’ classes become the map’s, if there are several',
            'NAME|FILE',
        ),
    )
    bands: tuple[int, ...] | None = field(
        default=None,
        metadata=_about(
            'input', 'bands of the imagery to use, from 1 (default: all but alpha)', 'N'
        ),
    )
    nodata: float | None = field(
        default=None,
        metadata=_about(
            'input',
            'value of imagery pixels without data (default: what the files say)',
            'VALUE',
        ),
    )
    output: str | Path = field(
        metadata=_about(
            'output',
            'the map, a .tif; or a folder, which gets a map for each file of imagery',
            'PATH',
            result=False,
        )
    )
    overwrite: bool = field(
        default=False,
        metadata=_about('output', 'replace outputs that exist', result=False),
    )
    confidence: bool = field(
        default=True,
        metadata=_about(
            'output',
            'write NAME_confidence.tif: probability of the mapped class, 0–100',
        ),
    )
    scores: bool = field(
        default=False,
        metadata=_about(
            'output', 'write NAME_scores.tif: probability of every class, 0–100'
        ),
    )
    save_model: Path | None = field(
        default=None,
        metadata=_about(
            'output',
            'keep the fit, to map other imagery with --model',
            'FILE',
            None,
            False,
        ),
    )
    quiet: bool = field(
        default=False,
        metadata=_about('output', 'print nothing but errors', result=False),
    )
    backbone: str = field(
        default='rcf',
        metadata=_about(
            'model',
            'frozen features: rcf, identity (embedding rasters), timm:NAME?options, '
            'torchgeo:WEIGHTS, or several joined by +',
            'SPEC',
        ),
    )
    weights: str | None = field(
        default=None,
        metadata=_about(
            'model',
            'weights of the backbone, .safetensors or .pth',
            'FILE',
            result=False,
        ),
    )
    model: Path | None = field(
        default=None,
        metadata=_about(
            'model',
            'a fit kept with --save-model, and its backbone; needs no labels',
            'FILE',
            result=False,
        ),
    )
    checkpoint: tuple[Path, ...] = field(
        default=(),
        metadata=_about(
            'model',
            'map with a network that a task of this package has trained, in place of a '
            'fit; of several the probabilities are averaged',
            'FILE',
            result=False,
        ),
    )
    ensemble_weights: tuple[float, ...] = field(
        default=(),
        metadata=_about(
            'model', 'weight of each checkpoint (default: all alike)', 'WEIGHT'
        ),
    )
    score: str = field(
        default='auto',
        metadata=_about(
            'model',
            'what scores a pixel; fusion: the mean of probe and lda',
            choices=('auto', 'fusion', 'probe', 'lda', 'cosine'),
        ),
    )
    prior: float | None = field(
        default=None,
        metadata=_about(
            'model',
            'weight of the coarse labels at prediction, or auto: by held-out cells '
            '(default: auto)',
            'WEIGHT',
        ),
    )
    prompts: int = field(default=1, metadata=_about('model', 'prompts per class', 'N'))
    confidence_quantile: float = field(
        default=0.0,
        metadata=_about(
            'model', 'build prompts above this quantile of the probe’s confidence', 'Q'
        ),
    )
    centre: bool = field(
        default=False,
        metadata=_about('model', 'centre the features before prompts are matched'),
    )
    class_balance: float = field(
        default=0.5,
        metadata=_about(
            'model',
            '0: every coarse cell counts alike in the fit, 1: every class',
            '0..1',
        ),
    )
    class_weight: str = field(
        default='power',
        metadata=_about(
            'model',
            'how classes weigh in the fit; power: by --class-balance, log: 1 / log(1 + '
            'share)',
            choices=('power', 'log'),
        ),
    )
    noise: str = field(
        default='none',
        metadata=_about(
            'model',
            'how coarse cells whose label seems wrong weigh less in the fit; sce: by '
            'symmetric cross entropy, small-loss: not at all',
            choices=('none', 'sce', 'small-loss'),
        ),
    )
    upsampler: str = field(
        default='bilinear',
        metadata=_about(
            'model',
            'how scores get from tokens to pixels',
            None,
            ('bilinear', 'bilateral'),
        ),
    )
    propagate: str = field(
        default='none',
        metadata=_about(
            'model',
            'spatial refinement of the scores',
            choices=('none', 'tokens', 'superpixels'),
        ),
    )
    chip_size: int = field(
        default=448,
        metadata=_about(
            'computing', 'side of what the backbone sees at once', 'PIXELS'
        ),
    )
    overlap: int | None = field(
        default=None,
        metadata=_about(
            'computing', 'what chips share (default: what the backbone needs)', 'PIXELS'
        ),
    )
    tile_size: int = field(
        default=2048,
        metadata=_about(
            'computing', 'side of what is written, and resumed, at once', 'PIXELS'
        ),
    )
    max_chips: int = field(
        default=64,
        metadata=_about('computing', 'chips that the fit looks at, at most', 'N'),
    )
    device: str = field(
        default='auto',
        metadata=_about('computing', 'auto, cpu or cuda:N', 'DEVICE', result=False),
    )
    precision: str = field(
        default='fp32',
        metadata=_about(
            'computing', 'arithmetic of the backbone', choices=('fp32', 'bf16', 'fp16')
        ),
    )
    compile: bool = field(
        default=False,
        metadata=_about(
            'computing', 'compile the backbone (torch.compile): for long runs on a GPU'
        ),
    )
    seed: int = field(default=0, metadata=_about('computing', 'random seed', 'N'))
    executor: str = field(
        default='process',
        metadata=_about(
            'computing',
            'where chips are computed: in this process, or by the workers of Dask',
            choices=('process', 'dask'),
            result=False,
        ),
    )
    scheduler: str | None = field(
        default=None,
        metadata=_about(
            'computing',
            'scheduler of a Dask cluster that sees the same files, tcp://HOST:8786 '
            '(default: workers on this machine)',
            'ADDRESS',
            result=False,
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=_about(
            'computing',
            'Dask workers on this machine (default: one a core, or one a GPU)',
            'N',
            result=False,
        ),
    )

    def __post_init__(self) -> None:
        for name in ('chip_size', 'tile_size', 'max_chips', 'prompts'):
            if getattr(self, name) < 1:
                raise InputError(f'{flag(name)} must be at least 1.')
        if not 0 <= self.confidence_quantile < 1:
            raise InputError('--confidence-quantile must be at least 0 and below 1.')
        if not 0 <= self.class_balance <= 1:
            raise InputError('--class-balance must be between 0 and 1.')
        if self.prior is not None and self.prior < 0:
            raise InputError('--prior must not be negative.')
        for item in fields(self):
            choices, value = item.metadata['choices'], getattr(self, item.name)
            if choices and value not in choices:
                raise InputError(
                    f'{flag(item.name)} must be one of {", ".join(choices)}, '
                    f'not {value!r}.'
                )
        if self.executor != 'dask' and (self.scheduler or self.workers):
            raise InputError('--scheduler and --workers need --executor dask.')
        if self.scheduler and self.workers:
            raise InputError(
                'A --scheduler has workers of its own; leave out --workers.'
            )
        if self.workers is not None and self.workers < 1:
            raise InputError('--workers must be at least 1.')
        if not self.imagery:
            raise InputError('Give at least one file of imagery.')
        if not self.labels and self.model is None and not self.checkpoint:
            raise InputError(
                'Give coarse labels with --labels, a saved fit with --model, or a '
                'trained network with --checkpoint.'
            )
        if self.checkpoint and (self.model or self.save_model):
            raise InputError(
                '--checkpoint maps with a trained network, which has no fit: leave out '
                '--model and --save-model.'
            )
        for item in fields(self) if self.checkpoint else ():
            if item.name in _OF_FITS and getattr(self, item.name) != item.default:
                raise InputError(
                    f'{flag(item.name)} has no effect on a trained network; leave it '
                    'out with --checkpoint.'
                )
        if self.ensemble_weights and not self.checkpoint:
            raise InputError('--ensemble-weights needs --checkpoint.')
        if self.labels and self.legend is None:
            raise InputError('Give the legend of the labels with --legend.')

    def located(self) -> 'MapJob':
        """The same job with absolute paths of what is on this machine.

        Workers may have another working directory, and the same work is to be known
        again from another one.
        """
        return replace(
            self,
            imagery=tuple(map(_absolute, self.imagery)),
            labels=tuple(map(_absolute, self.labels)),
            weights=None if self.weights is None else _absolute(self.weights),
            backbone=map_option(self.backbone, 'weights', _absolute),
            model=None if self.model is None else self.model.absolute(),
            checkpoint=tuple(path.absolute() for path in self.checkpoint),
        )

    def to_dict(self, *, results_only: bool = False) -> dict[str, Any]:
        """The settings as JSON types.

        Args:
            results_only: Only those whose values decide what the map is.
        """
        return {
            item.name: _plain(getattr(self, item.name))
            for item in fields(self)
            if item.metadata['result'] or not results_only
        }


def flag(name: str) -> str:
    """The command line's name of a field."""
    return '--' + name.replace('_', '-')


def _absolute(path: str) -> str:
    """An absolute path of what is there; anything else is a URL or a name of GDAL's."""
    return os.path.abspath(path) if os.path.exists(path) else path


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
