# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What the map pass costs beside the backbone."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchgeo_mapsr.datasets.geo.plan import Plan, default_overlap
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.mapping.extractor import chips_at_once
from torchgeo_mapsr.mapping.prefetch import prefetch, torch_threads
from torchgeo_mapsr.models.backbones.backbone import Backbone
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.backbones.rcf import RCF
from torchgeo_mapsr.models.head.head import Classifier

from .measure import Forwards, now, ratio
from .speed_scenes import VIT, fitted, made, run, stages

# Forwards in a thread that their time by themselves is the mean of, each time.
AT_A_TIME = 6

PROPAGATED = 'none', 'tokens', 'superpixels'

# What follows the backbone for every chip and tile, and what else a command does.
STEPS = ('match', 'propagate', 'blend', 'write')
STAGES = ('read', *STEPS, 'report')


def measure(
    folder: Path, size: int = 4096, spec: str = VIT, rcf: str = 'rcf', rounds: int = 3
) -> dict[str, Any]:
    """Map a made scene with both kinds of backbones.

    Args:
        folder: Where scenes and maps are put.
        size: Side of the scene.
        spec: A backbone whose features are tokens.
        rcf: Spec of the embedded backbone.
        rounds: How often everything is measured.
    """
    return {
        'size': size,
        'device': 'cuda' if torch.cuda.is_available() else 'cpu',
        'threads': torch.get_num_threads(),
        'tokens': of_tokens(folder, size, spec, rounds),
        'rcf': of_rcf(folder, size, rcf, rounds),
    }


def of_tokens(folder: Path, size: int, spec: str, rounds: int) -> dict[str, Any]:
    """What follows the backbone over its forward time, with any propagation.

    Forwards are those of as many chips by themselves: with all cores on one chip or
    of several chips at once, whichever are faster, measured before and after. Two
    things are held against them. ``steps`` are matching, upsampling, propagation,
    blending and writing: their seconds, shared by as many threads as there are chips
    at once. ``overhead`` is everything: the time from the first chip's forward to the
    end of the command, less the forwards. Chips are read meanwhile and the report and
    the panel are made, and threads wait for one another. Kinds of propagation take
    turns; the median of each figure's rounds counts.
    """
    scene = made(folder, size)
    fit = fitted(scene, folder, spec)
    at_once = chips_at_once(_device())
    alone = [_forwards(spec, scene.imagery)]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in PROPAGATED}
    for _ in range(rounds):
        for nodes, found in rows.items():
            with Forwards() as forwards:
                whole = run(scene, folder, model=fit, propagate=nodes)
            alone.append(_forwards(spec, scene.imagery))
            one, several = np.mean(alone[-2:], 0) * len(forwards.seconds)
            assert forwards.first is not None
            spent = whole.start + whole.seconds - forwards.first
            bare = min(one, several)
            parts = stages(whole.report, STAGES)
            steps = sum(parts[name] for name in STEPS) / at_once
            found.append(
                {
                    'chips': len(forwards.seconds),
                    'pass_seconds': round(spent, 3),
                    'forward_seconds': round(bare, 3),
                    'one_at_a_time_seconds': round(one, 3),
                    'several_at_once_seconds': round(several, 3),
                    'overhead': ratio(spent - bare, bare),
                    'steps': ratio(steps, bare),
                    'stages': parts,
                }
            )
    return {
        'backbone': spec,
        **{
            name: {**_median(r, 'overhead'), **_median_of(r, 'steps')}
            for name, r in rows.items()
        },
    }


def of_rcf(folder: Path, size: int, spec: str, rounds: int) -> dict[str, Any]:
    """The whole command with a saved fit, over the convolutions of all its chips.

    Bare convolutions are those of the same filters at the same strides, one call of
    torch a stride, and the 1 x 1 convolution of the colours, on whole chips of the scene;
    they are timed before and after. ``in_parts`` are the same in parts whose results stay
    in the cache.
    """
    scene = made(folder, size)
    fit = fitted(scene, folder, spec)
    backbone = create_backbone(spec, 4)
    assert isinstance(backbone, RCF)
    backbone.load_calibration(dict(Classifier.load(fit).calibration))
    image = _chip(scene.imagery)
    images = Imagery([str(scene.imagery)])
    plan = Plan(
        images.geobox,
        448,
        2048,
        default_overlap(448, backbone.halo),
        backbone.halo,
        max(backbone.strides),
    )
    chips = len(list(plan.lattice()))
    bare = [_timed(lambda: _convolutions(backbone, image, None))]
    parts = [_timed(lambda: _convolutions(backbone, image, 16))]
    rows = []
    for _ in range(rounds):
        whole = run(scene, folder, model=fit)
        bare.append(_timed(lambda: _convolutions(backbone, image, None)))
        parts.append(_timed(lambda: _convolutions(backbone, image, 16)))
        both = [float(np.mean(times[-2:])) * chips for times in (bare, parts)]
        rows.append(
            {
                'chips': chips,
                'pass_seconds': round(whole.seconds, 3),
                'bare_seconds': round(both[0], 3),
                'in_parts_seconds': round(both[1], 3),
                'times_bare': ratio(whole.seconds, both[0]),
                'times_in_parts': ratio(whole.seconds, both[1]),
                'stages': stages(whole.report, ('backbone', *STAGES)),
            }
        )
    return {'backbone': spec, **_median(rows, 'times_bare')}


def _median(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The round with the median of a figure, and that figure of all rounds."""
    order = sorted(rows, key=lambda row: row[name])
    return {**order[len(order) // 2], 'rounds': [row[name] for row in rows]}


def _median_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The median of a figure, and that figure of all rounds."""
    found = [row[name] for row in rows]
    return {name: sorted(found)[len(found) // 2], f'{name}_rounds': found}


def _forwards(spec: str, imagery: Path) -> tuple[float, float]:
    """Seconds of a forward of a chip by itself: one at a time, and several at once."""
    device = _device()
    image = _chip(imagery).to(device)
    backbone: Backbone = create_backbone(spec, image.shape[1], dtype='uint8')
    backbone = backbone.to(device)
    one = _timed(lambda: backbone(image), AT_A_TIME)
    threads = chips_at_once(device)
    if threads == 1:
        return one, one

    @torch.inference_mode()
    def forward(chip: Tensor) -> None:
        backbone(chip)

    each = max(torch.get_num_threads() // threads, 1)
    chips = [image] * (AT_A_TIME * threads)
    with torch_threads(1):
        start = now()
        for _ in prefetch(forward, chips, threads, threads, each):
            pass
        return one, (now() - start) / len(chips)


@torch.inference_mode()
def _timed(call: Any, times: int = 3) -> float:
    """Mean seconds of a call, after a first one."""
    call()
    start = now()
    for _ in range(times):
        call()
    return (now() - start) / times


def _device() -> torch.device:
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def _chip(imagery: Path) -> Tensor:
    images = Imagery([str(imagery)])
    image, _ = images.read(images.geobox[:448, :448])
    return torch.from_numpy(image)[None]


def _convolutions(backbone: RCF, image: Tensor, step: int | None) -> None:
    """The convolutions of a chip, all filters at once or some at a time."""
    reach = backbone.kernel // 2
    for i, stride in enumerate(backbone.strides[1:]):
        coarse = F.avg_pool2d(image, stride) if stride > 1 else image
        for kernels, bias in zip(
            backbone.weight[i].split(step or backbone.filters),
            backbone.bias[i].split(step or backbone.filters),
            strict=True,
        ):
            F.conv2d(coarse, kernels, bias, padding=reach)
    colours = backbone.frequency[:, :, None, None], backbone.phase
    strips = image.split(8, dim=2) if step else [image]
    for strip in strips:
        F.conv2d(strip, *colours)
