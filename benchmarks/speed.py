# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Speed and memory, as ratios that are each measured in one run."""

import argparse
import operator
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import package, rivals, scaling
from .measure import Forwards, Peak, alone, now, ratio
from .package import TARGET, mapsr
from .published import Published, matched, published_map, upsampled
from .regions import REAL, Region, find_regions, tiny_data
from .scenes import MOBILENET, Fit
from .scores import figures_of
from .store import Record, Release, Row
from .table import Table, Trial, grid, unique

# ViT-S/14 and ViT-L/14 of DINOv2 without weights, which no time depends on.
VIT = 'timm:vit_small_patch14_dinov2?weights=random'
VIT_L = 'timm:vit_large_patch14_dinov2?weights=random'
VIT_TINY = 'timm:vit_tiny_patch16_224?weights=random'

# Memory is that of chips and tiles; the default backbone would take half an hour for
# 64 km² on two cores.
LIGHT = 'rcf?filters=8&colours=16&strides=1,4'
LIGHTEST = 'rcf?filters=4&colours=8&strides=1,4'

CHIP, CLASSES = 448, 4

# Of ViT-S/14: two tokens.
HALO = 28

# Forwards in a thread that their time by themselves is the mean of, each time.
AT_A_TIME = 6

NODES = 'none', 'tokens', 'superpixels'
NAMES = {'none': 'no propagation', **{n: f'propagation, {n}' for n in NODES[1:]}}

# What follows the backbone for every chip and tile, and what else a command does.
STEPS = ('match', 'propagate', 'blend', 'write')

# Processes side by side, and threads in each; and how often all chips are read, so that
# processes start at about the same time.
WAYS = (1, 1), (1, 2), (2, 1)
AGAIN = 4

# The last commit of version 0.1.0.
FIRST = '385455a'

# Seconds that everything after the chips may take, by cells.
FIT_LIMITS = {400: ('≤', 1.0), 20_000: ('≤', 5.0)}

# Small enough for a test of minutes on a CPU: it says that everything runs, no more.
TINY: dict[str, dict[str, Any]] = {
    'overhead': {'size': 320, 'spec': VIT_TINY, 'rcf': LIGHTEST, 'rounds': 1},
    'published': {'chip': 224, 'window': 32},
    'accuracy': {'spec': LIGHTEST, 'window': 32},
    'fit': {'sizes': ((200, 16, 2000), (400, 16, 2000)), 'dimensions': 16},
    'whole': {'size': 320, 'spec': LIGHTEST, 'rounds': 1},
    'before': {'size': 320, 'spec': LIGHTEST, 'rounds': 1},
    'flat': {'sizes': (256, 512)},
    'read': {'size': 512, 'rounds': 1},
    'gpu': {'size': 256, 'specs': ('timm:test_vit?weights=random',), 'chip': 160}
    | {'repeats': 2, 'compiled': (False,)},
}

_ASKED = {'≤': operator.le, '<': operator.lt, '≥': operator.ge, '=': operator.eq}


def line(
    what: str,
    value: float,
    form: str = '.2f',
    asked: tuple[str, float] | None = None,
    note: str = '',
) -> Row:
    """A line of the table.

    Args:
        what: What was measured.
        value: The figure.
        form: How it is written; may end with a unit after a blank.
        asked: What was asked for: a relation and a limit.
        note: What else stands beside the figure.
    """
    form, _, unit = form.partition(' ')
    unit = f' {unit}' if unit else ''
    row: Row = {'what': what, 'asked': '–', 'text': f'{value:{form}}{unit}{note}'}
    if asked is not None:
        limit = f'{asked[1]:.0%}' if form.endswith('%') else f'{asked[1]:g}'
        row['asked'] = f'{asked[0]} {limit}{unit}'
    row['good'] = None if asked is None else bool(_ASKED[asked[0]](value, asked[1]))
    return row


def _span(values: Sequence[float], form: str) -> str:
    """The least and the most of several rounds."""
    return f'{min(values):{form}} to {max(values):{form}}'


class Run(NamedTuple):
    """A run of the command: how long it took, when it began, and its report."""

    seconds: float
    start: float
    report: dict[str, Any]

    def since_first(self, forwards: Forwards) -> float:
        """Seconds from the first forward of a backbone to the end."""
        assert forwards.first is not None
        return self.start + self.seconds - forwards.first


def made(folder: Path, size: int) -> package.Scene:
    """A made scene of size x size metres and pixels, made once."""
    place, part = folder / str(size), folder / f'{size}.part'
    if not place.exists():
        mapsr.make_scene(part, seed=3, size=(size, size))
        part.rename(place)
    imagery, labels, truth = (place / f'{n}.tif' for n in ('imagery', 'lr', 'hr'))
    return package.Scene(imagery, labels, truth, 'nlcd')


def run(scene: package.Scene, folder: Path, **settings: Any) -> Run:
    """Map a scene."""
    files = [scene.imagery], [scene.labels], scene.legend, folder / 'map.tif'
    start = now()
    report = package.run_job(*files, **settings)
    return Run(now() - start, start, report)


def fitted(scene: package.Scene, folder: Path, spec: str, **settings: Any) -> Path:
    """A fit on eight chips of a scene, kept as a file."""
    path = folder / 'fit.safetensors'
    path.unlink(missing_ok=True)
    run(scene, folder, backbone=spec, max_chips=8, save_model=path, **settings)
    return path


def measure_overhead(
    folder: Path, size: int = 4096, spec: str = VIT, rcf: str = 'rcf', rounds: int = 3
) -> Row:
    """What the map pass costs beside the backbone."""
    tokens = overhead_of_tokens(folder, size, spec, rounds)
    embedded = overhead_of_rcf(folder, size, rcf, rounds)
    bare = tokens['none']
    return {
        'lines': [
            *(row for nodes in NODES for row in overhead_lines(tokens[nodes], nodes)),
            line(
                '`rcf`: whole command with a saved fit / bare convolutions',
                embedded['times_bare'],
                '.2f',
                ('≤', 1.5),
                f' ({_span(embedded["rounds"], ".2f")})',
            ),
            line(
                '… / the same convolutions in parts that stay in the cache',
                embedded['times_in_parts'],
            ),
        ],
        'paper': {
            'threads': torch.get_num_threads(),
            'forward_seconds': bare['forward_seconds'] / bare['chips'],
            'overhead': bare['overhead'],
            'overhead_tokens': tokens['tokens']['overhead'],
            'rcf_seconds': embedded['pass_seconds'] / (size / 1e3) ** 2,
        },
    }


def overhead_lines(row: Row, nodes: str) -> list[Row]:
    """Both figures of a kind of propagation."""
    limit = '≤', 0.10 if package.device_of('auto').type == 'cuda' else 0.15
    one = row['pass_seconds'] / row['one_at_a_time_seconds'] - 1
    note = f'{_span(row["rounds"], ".1%")}; over forwards with all cores on one chip: '
    return [
        line(
            f'matching, blending, writing / forwards of ViT-S/14, {NAMES[nodes]}',
            row['steps'],
            '.1%',
            limit,
            f' ({_span(row["steps_rounds"], ".1%")})',
        ),
        line(
            f'whole command from the first forward on, likewise, {NAMES[nodes]}',
            row['overhead'],
            '.1%',
            limit,
            f' ({note}{one:.1%})',
        ),
    ]


def overhead_of_tokens(folder: Path, size: int, spec: str, rounds: int) -> Row:
    """What follows the backbone over its forward time, with any propagation.

    Forwards are those of as many chips by themselves: with all cores on one chip or
    of several chips at once, whichever are faster, measured before and after. Two
    things are held against them. ``steps`` are matching, upsampling, propagation,
    blending and writing: their seconds, shared by as many threads as there are chips
    at once. ``overhead`` is everything: the time from the first chip's forward to the
    end of the command, less the forwards. Kinds of propagation take turns.
    """
    scene = made(folder, size)
    fit = fitted(scene, folder, spec)
    at_once = package.chips_at_once(package.device_of('auto'))
    bare_seconds = [_forward_seconds(spec, scene.imagery)]
    rows: dict[str, list[Row]] = {name: [] for name in NODES}
    for _, nodes in product(range(rounds), NODES):
        with Forwards() as forwards:
            command = run(scene, folder, model=fit, propagate=nodes)
        bare_seconds.append(_forward_seconds(spec, scene.imagery))
        one, several = np.mean(bare_seconds[-2:], 0) * len(forwards.seconds)
        spent, bare = command.since_first(forwards), min(one, several)
        timings = command.report['timings']
        row = {
            'chips': len(forwards.seconds),
            'pass_seconds': round(spent, 3),
            'forward_seconds': round(bare, 3),
            'one_at_a_time_seconds': round(one, 3),
            'overhead': ratio(spent - bare, bare),
            'steps': ratio(sum(timings.get(s, 0.0) for s in STEPS) / at_once, bare),
        }
        rows[nodes].append(row)
    medians = {}
    for nodes, several_rounds in rows.items():
        steps = sorted(row['steps'] for row in several_rounds)
        more = {'steps': steps[len(steps) // 2], 'steps_rounds': steps}
        medians[nodes] = _median(several_rounds, 'overhead') | more
    return medians


def overhead_of_rcf(folder: Path, size: int, spec: str, rounds: int) -> Row:
    """The whole command with a saved fit, over the convolutions of all its chips.

    Bare convolutions are those of the same filters at the same strides, one call of
    torch a stride, and the 1 x 1 convolution of the colours, on whole chips of the scene;
    they are timed before and after. ``in_parts`` are the same in parts whose results stay
    in the cache.
    """
    scene = made(folder, size)
    fit, image = fitted(scene, folder, spec), _chip(scene.imagery)
    backbone = mapsr.LandCoverModel.load(fit).backbone
    assert isinstance(backbone, package.RCF)
    stride = max(backbone.strides)
    chips = package.plan_of(scene.imagery, CHIP, backbone.halo, stride).chip_count

    def time_convolutions() -> list[float]:
        steps = None, 16
        return [_timed(partial(_convolutions, backbone, image, s)) for s in steps]

    seconds, rows = [time_convolutions()], []
    for _ in range(rounds):
        command = run(scene, folder, model=fit)
        seconds.append(time_convolutions())
        bare, parts = np.mean(seconds[-2:], 0) * chips
        row = {
            'pass_seconds': round(command.seconds, 3),
            'times_bare': ratio(command.seconds, bare),
            'times_in_parts': ratio(command.seconds, parts),
        }
        rows.append(row)
    return _median(rows, 'times_bare')


def _median(rows: list[Row], name: str) -> Row:
    """The round with the median of a figure, and that figure of all rounds."""
    order = sorted(rows, key=lambda row: row[name])
    return {**order[len(order) // 2], 'rounds': [row[name] for row in rows]}


def _forward_seconds(spec: str, imagery: Path) -> tuple[float, float]:
    """Seconds of a forward of a chip by itself: one at a time, and several at once."""
    device = package.device_of('auto')
    image = _chip(imagery).to(device)
    backbone = mapsr.create_backbone(spec, image.shape[1], dtype='uint8').to(device)
    one = _timed(lambda: backbone(image), AT_A_TIME)
    threads = package.chips_at_once(device)
    if threads == 1:
        return one, one

    @torch.inference_mode()
    def forward(chip: Tensor) -> None:
        backbone(chip)

    each = max(torch.get_num_threads() // threads, 1)
    chips = [image] * (AT_A_TIME * threads)
    with package.torch_threads(1):
        start = now()
        for _ in package.prefetch(forward, chips, threads, threads, each):
            pass
        return one, (now() - start) / len(chips)


@torch.inference_mode()
def _timed(call: Callable[[], Any], times: int = 3, before: int = 1) -> float:
    """Mean seconds of a call, after first ones."""
    for _ in range(before):
        call()
    start = now()
    for _ in range(times):
        call()
    return (now() - start) / times


def _chip(imagery: Path, side: int = CHIP) -> Tensor:
    """The first chip of a raster, (1, C, side, side)."""
    with rasterio.open(imagery) as file:
        values = file.read(window=((0, side), (0, side)))
    return torch.from_numpy(values.astype(np.float32))[None]


def _convolutions(backbone: package.RCF, image: Tensor, step: int | None) -> None:
    """The convolutions of a chip, all filters at once or some at a time."""
    step = step or backbone.filters
    strides = backbone.strides[1:]
    for stride, weight, bias in zip(
        strides, backbone.weight, backbone.bias, strict=False
    ):
        coarse = F.avg_pool2d(image, stride) if stride > 1 else image
        for kernels, part in zip(weight.split(step), bias.split(step), strict=True):
            F.conv2d(coarse, kernels, part, padding=backbone.kernel // 2)
    colours = backbone.frequency[:, :, None, None], backbone.phase
    for strip in [image] if step == backbone.filters else image.split(8, dim=2):
        F.conv2d(strip, *colours)


def measure_published(folder: Path, chip: int = CHIP, window: int = 112) -> Row:
    """Time and memory of what follows the backbone, the published way and ours.

    Both have the same tokens of one chip, each in a process of its own.
    """
    image = _chip(made(folder, 1024).imagery, chip)
    backbone = mapsr.create_backbone(VIT, image.shape[1], dtype='uint8')
    with torch.inference_mode():
        (level,) = backbone(image).levels
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, chip, (CLASSES, 2)))
    tokens = package.Tokens((level,), backbone.strides, (chip, chip))
    prompts = tokens.gather(torch.zeros(CLASSES).long(), *pixels.T)
    path = folder / 'chip.safetensors'
    save_file({'grid': level, 'prompts': prompts, 'image': image}, path)
    published = alone('speed.published_way', str(path), window)
    ours = alone('speed.token_space', str(path))
    dense, short = (np.load(folder / f'{name}.npy') for name in ('published', 'ours'))
    total = published['all']
    what = f'published way, all after the backbone, one chip of {chip}²'
    memory = f', {total["added_mib"]:.0f} MiB'
    lines = [line(what, total['seconds'], '.0f s', note=memory)]
    for name in ('matched', *NODES[1:]):
        part = ours[name]
        more = ' alone' if name == 'matched' else f' and propagation, {name}'
        what = f'published way / ours, matching{more}'
        faster = total['seconds'] / part['seconds']
        smaller = total['added_mib'] / max(part['added_mib'], 0.1)
        lines.append(line(f'{what}: time', faster, '.0f', ('≥', 100)))
        lines.append(line(f'{what}: memory added', smaller, '.1f', ('≥', 20)))
    faster = published['matching']['seconds'] / ours['matched']['seconds']
    what = 'dense upsampling and cosines / ours in token space: time'
    difference = float(np.abs(dense - short).max())
    same = 'largest difference of the two matchings'
    lines.append(line(what, faster, '.0f'))
    return {'lines': [*lines, line(same, difference, '.1e', ('≤', 1e-5))]}


def published_way(path: str, window: int) -> Row:
    """Dense features and cosines, then propagation in windows; called alone."""
    tokens, prompts, _ = _load(path)
    with Peak() as total:
        with Peak() as matching:
            features = upsampled(tokens)
            scores = matched(features, prompts)
        with Peak() as spreading:
            Published(window=window).propagate(features, scores).argmax(2)
    total.peak = max(matching.peak, spreading.peak)
    np.save(Path(path).with_name('published.npy'), scores.permute(2, 0, 1).numpy())
    return {'matching': matching.to_dict(), 'all': total.to_dict()}


def token_space(path: str) -> Row:
    """Cosines in token space, and propagation on either kind of nodes; called alone."""
    tokens, prompts, image = _load(path)
    matcher = package.CosinePrompts(prompts[:, None], torch.zeros(prompts.shape[1]))
    parts: Row = {}
    matcher.match_tokens(tokens)  # what is loaded at the first call counts for neither
    blank = torch.zeros(1, CLASSES, *tokens.size)
    package.Propagation(nodes='superpixels')(blank, tokens, image)
    for name in ('matched', *NODES[1:]):
        with Peak() as part:
            scores = matcher.match_tokens(tokens)
            if name != 'matched':
                likely = (scores / 0.1).softmax(1)
                package.Propagation(nodes=name)(likely, tokens, image).argmax(1)
        parts[name] = part.to_dict()
    np.save(Path(path).with_name('ours.npy'), scores[0].numpy())
    return parts


def _load(path: str) -> tuple[package.Tokens, Tensor, Tensor]:
    tensors = load_file(path)
    level, image = tensors['grid'], tensors['image']
    size = image.shape[-2], image.shape[-1]
    tokens = package.Tokens((level,), (size[0] // level.shape[2],), size)
    return tokens, tensors['prompts'], image


def measure_accuracy(folder: Path, data: Path, spec: str, window: int = 112) -> Row:
    """Mean IoU of both whole ways on real scenes, from the same features and prompts.

    The published way sees each scene as one chip.
    """
    values: dict[str, list[float]] = {}
    for region in find_regions(data, ('openearthmap', 'chesapeake_wv')):
        if region.labels not in ('clean', REAL):
            continue
        work = folder / 'accuracy'
        fit = Fit(region, work / 'cosine', 0, backbone=spec, **package.COSINE)
        rows = {
            'ours, the same matching': fit.default(),
            'ours, the same matching + tokens': fit.map(propagate='tokens'),
            'published, matching only': _published(region, fit, None),
            'published': _published(region, fit, Published(window)),
            'ours, default': Fit(region, work, 0, backbone=spec).default(),
        }
        for row, maps in rows.items():
            total = np.sum(list(region.score(maps).values()), 0)
            several = values.setdefault(f'{region.set}: {row}', [])
            several.append(figures_of(total)['miou'])
    return {
        'lines': [
            line(f'mIoU, MobileNetV2, {row}', float(np.mean(several)), '.3f')
            for row, several in values.items()
        ]
    }


def _published(region: Region, fit: Fit, constants: Published | None) -> list[Any]:
    model = mapsr.LandCoverModel.load(fit.path)
    prompts = package.cosine_prompts(model)
    images = map(torch.from_numpy, region.images)
    return [published_map(model.tokens(image), prompts, constants) for image in images]


def measure_fit(
    folder: Path,
    sizes: Sequence[tuple[int, int, int]] = (
        (400, 632, 20_000),
        (20_000, 632, 60_000),
        (50_000, 384, 100_000),
    ),
    dimensions: int = 384,
) -> Row:
    """Solve fits of made cells, and count a run's calls of the backbone."""
    lines = []
    for cells, features, pixels in sizes:
        table = package.made_cells(cells, features, pixels)
        size = f'{cells} cells × {features}'
        if features == dimensions:
            start = now()
            package.solve_probe(table)
            lines.append(line(f'probe of {size}', now() - start, '.2f s', ('<', 5)))
        start = now()
        package.solve_fit(table)
        seconds = now() - start
        what = f'everything after the chips: {size}, {pixels} pixels'
        lines.append(line(what, seconds, '.2f s', FIT_LIMITS.get(cells)))
        start = now()
        rivals.fit_forest(table.pixels[:, :4].numpy(), table.code[table.owner].numpy())
        what = f'a random forest fitted to four bands of as many pixels / this, {cells}'
        lines.append(line(f'{what} cells', (now() - start) / seconds, '.1f'))
    scene, fit = made(folder, 768), folder / 'calls.safetensors'
    fit.unlink(missing_ok=True)
    with Forwards() as both:
        command = run(scene, folder, backbone=VIT_TINY, max_chips=3, save_model=fit)
    with Forwards() as mapping:
        run(scene, folder, model=fit)
    calls = len(both.seconds) - len(mapping.seconds)
    what = 'calls of the backbone in a fit / chips that it looked at'
    lines.append(line(what, calls / command.report['fit']['chips'], 'g', ('=', 1)))
    return {'lines': lines, 'paper': {'solve_seconds': seconds, 'size': size}}


def measure_whole(
    folder: Path, size: int = 4096, spec: str = 'rcf', rounds: int = 3
) -> Row:
    """The whole command, with its fit, against a random forest on the same scene.

    They take turns: what else the machine does slows one of them more, on some days.
    """
    made(folder, size)
    place = str(folder)
    turns = [
        (
            alone('speed.map_by_forest', place, size),
            alone('speed.mapped', place, size, '', spec),
        )
        for _ in range(rounds)
    ]
    mapping = alone('speed.mapped', place, size, str(folder / 'whole.safetensors'))
    ratios = [forest['seconds'] / both['seconds'] for forest, both in turns]
    faster = sorted(ratios)[rounds // 2]
    forest, both = turns[ratios.index(faster)]
    times = f' ({forest["seconds"]:.0f} s, {both["seconds"]:.0f} s'
    times += f'; rounds: {_span(ratios, ".1f")})'
    peaks = f' ({both["peak_mib"]:.0f} MiB, {mapping["peak_mib"]:.0f} MiB)'
    area = f'{size**2 / 1e6:.0f} km²'
    what = f'random forest on the bands / whole command with its fit, {area}: time'
    memory = 'peak memory of fit and map, more than of the map pass alone'
    more = both['peak_mib'] / mapping['peak_mib'] - 1
    return {
        'lines': [
            line(what, faster, '.1f', ('≥', 3), times),
            line(memory, more, '.0%', ('≤', 0.25), peaks),
        ]
    }


def measure_before(
    folder: Path, size: int = 4096, spec: str = 'rcf', rounds: int = 3
) -> Row:
    """The map pass of the command against that of version 0.1.0, in turns.

    Each maps the same scene with a fit of its own, in processes of their own.
    """
    scene = made(folder, size)
    places = {'0.1.0': exported(folder, FIRST), 'now': Path(__file__).parents[1]}
    seconds: dict[str, list[float]] = {name: [] for name in places}
    for name, place in places.items():
        fit = ['--labels', str(scene.labels), '--legend', scene.legend]
        fit += ['--backbone', spec, '--max-chips', '8']
        kept = folder / f'before-{name}.safetensors'
        kept.unlink(missing_ok=True)
        _command(place, scene, folder, *fit, '--save-model', str(kept))
    for _, (name, place) in product(range(rounds), places.items()):
        start = now()
        kept = folder / f'before-{name}.safetensors'
        _command(place, scene, folder, '--model', str(kept))
        seconds[name].append(now() - start)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    middle = sorted(ratios)[len(ratios) // 2]
    what = f'map pass with a saved fit / that of 0.1.0, {size**2 / 1e6:.0f} km²'
    note = f' ({_span(ratios, ".2f")})'
    return {'lines': [line(what, middle, '.2f', ('≤', 1.05), note)]}


def exported(folder: Path, commit: str) -> Path:
    """The files of a commit of this repository, put into a folder once.

    Args:
        folder: Where the folder is made.
        commit: The commit.

    Raises:
        InputError: If the repository is not there with its history.
    """
    place = folder / f'commit-{commit}'
    if place.exists():
        return place
    part = folder / f'commit-{commit}.part'
    part.mkdir(parents=True, exist_ok=True)
    archive = part / 'files.tar'
    call = ['git', 'archive', '-o', str(archive.absolute()), commit, 'torchgeo_mapsr']
    here = Path(__file__).parents[1]
    done = subprocess.run(call, cwd=here, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = ' '.join(done.stderr.split())
        raise mapsr.InputError(f'commit {commit} cannot be read by git ({reason})')
    shutil.unpack_archive(archive, part)
    archive.unlink()
    return part.rename(place)


def _command(place: Path, scene: package.Scene, folder: Path, *options: str) -> None:
    """The command of the package in a folder, on the imagery of a scene."""
    files = str(scene.imagery), '--output', str(folder / 'before.tif'), '--overwrite'
    call = [sys.executable, '-m', 'torchgeo_mapsr', 'map', *files, '--quiet', *options]
    # The folder that a module is run in comes before what is installed.
    done = subprocess.run(call, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f'{place}: {done.stderr}')


def map_by_forest(folder: str, size: int) -> Row:
    """A random forest from files to a map in memory; called alone."""
    scene = made(Path(folder), size)
    region = Region('made', 'clean', (scene.imagery.parent,), 'nlcd', TARGET)
    with Peak() as peak:
        rivals.forest(region)
    return peak.to_dict()


def measure_flat(
    folder: Path, sizes: tuple[int, ...] = (1024, 4096, 8192), spec: str = LIGHT
) -> Row:
    """Memory and time against the size of the raster, with one fit."""
    for size in sizes:
        made(folder, size)
    fit = str(fitted(made(folder, sizes[0]), folder, spec))
    runs = [alone('speed.mapped', str(folder), size, fit) for size in sizes]
    peaks, seconds = ([row[k] for row in runs] for k in ('peak_mib', 'seconds'))
    areas, times = 2 * np.log(sizes), np.log(seconds)
    last = float((times[-1] - times[-2]) / (areas[-1] - areas[-2]))
    memory = ', '.join(
        f'{(side / 1e3) ** 2:.0f} km² {peak:.0f} MiB'
        for side, peak in zip(sizes, peaks, strict=True)
    )
    took = ', '.join(f'{value:.0f} s' for value in seconds)
    spread = (max(peaks) - min(peaks)) / min(peaks)
    exponent, area = float(np.polyfit(areas, times, 1)[0]), sizes[-1] ** 2 / 1e6
    what, note = (
        'range of peak memory over sizes',
        f' (largest two: {last:.2f}; {took})',
    )
    return {
        'lines': [
            line(what, spread, '.1%', ('<', 0.1), f' ({memory})'),
            line('exponent of time over area', exponent, '.2f', ('≤', 1.05), note),
        ],
        'paper': {
            'report_seconds': runs[-1]['report_seconds'] / area,
            'bytes': {name: n / area for name, n in runs[-1]['bytes'].items()},
        },
    }


def mapped(folder: str, size: int, fit: str, spec: str = 'rcf') -> Row:
    """One run, as the command does it; called alone."""
    package.frugal()  # as the command line does
    place = Path(folder)
    settings: Row = {'model': Path(fit)}
    if not fit:
        settings = {'backbone': spec, 'save_model': place / 'whole.safetensors'}
        settings['save_model'].unlink(missing_ok=True)
    with Peak() as peak:
        report = run(made(place, size), place, **settings).report
    files = {'map': 'map.tif', 'confidence': 'map_confidence.tif'}
    return {
        **peak.to_dict(),
        'report_seconds': report['timings']['report'],
        'bytes': {name: (place / file).stat().st_size for name, file in files.items()},
    }


def measure_read(
    folder: Path, size: int = 4096, chip: int = CHIP, rounds: int = 3
) -> Row:
    """Read all chips of a made scene, and do nothing with them.

    Where a GPU does the rest, this is what its process needs a core for, and no chip is
    mapped faster. Ways take turns; the median counts.
    """
    scene = made(folder, size)
    kept = folder / 'read.safetensors'
    fitted(made(folder, min(size, 1024)), folder, LIGHTEST).rename(kept)
    rates: dict[tuple[int, int], list[float]] = {way: [] for way in WAYS}
    for _, (processes, threads) in product(range(rounds), WAYS):
        args = str(scene.imagery), str(scene.labels), str(kept), chip, threads
        with ThreadPoolExecutor(processes) as pool:
            calls = [
                pool.submit(alone, 'speed.read_chips', *args) for _ in range(processes)
            ]
        rates[processes, threads].append(sum(call.result()['rate'] for call in calls))
    # Each adds a square to the map, without what it shares with its neighbours.
    area = (chip - package.default_overlap(chip, HALO)) ** 2 / 1e6
    lines = []
    for (processes, threads), several in rates.items():
        what = f'reading alone: processes {processes}, threads in each {threads}'
        rate = sorted(several)[rounds // 2]
        lines.append(line(what, rate, '.0f chips/s', note=f', {rate * area:.3g} km²/s'))
    paper = {'km2_a_second': sorted(rates[1, 1])[rounds // 2] * area}
    return {'lines': lines, 'paper': paper}


def read_chips(imagery: str, labels: str, fit: str, chip: int, threads: int) -> Row:
    """Chips that one process reads a second; called alone."""
    function, chips = package.chip_reader(imagery, labels, fit, chip, HALO)
    function(chips[0])
    with package.torch_threads(1):
        start, depth = now(), 2 * threads
        for _ in package.prefetch(function, chips * AGAIN, depth, threads, each=1):
            pass
        return {'rate': len(chips) * AGAIN / (now() - start)}


def measure_gpu(
    folder: Path,
    size: int = 4096,
    specs: Sequence[str] = (VIT, VIT_L),
    precisions: Sequence[str] = ('fp32', 'bf16'),
    compiled: Sequence[bool] = (False, True),
    chip: int = CHIP,
    repeats: int = 50,
) -> Row:
    """The whole map pass over the bare backbone, for each way to run it.

    On a GPU, the overhead of the first backbone is measured too.
    """
    scene, device = made(folder, size), package.device_of('auto')
    cuda = device.type == 'cuda'
    name = torch.cuda.get_device_name(device) if cuda else device.type
    lines, paper = [], []
    for spec in specs:
        fit = fitted(scene, folder, spec, chip_size=chip)
        for precision, compiles in product(precisions, compiled):
            bare = _bare(scene.imagery, spec, precision, compiles, chip, repeats)
            how = {'precision': precision, 'compile': compiles, 'chip_size': chip}
            with Forwards() as forwards, _utilisation() as busy:
                command = run(scene, folder, model=fit, **how)
            # The first chip's forward has the time of compiling in it.
            spent = command.since_first(forwards) - forwards.seconds[0]
            kind = f'{precision}{", compiled" if compiles else ""}'
            model = spec.removeprefix('timm:').partition('?')[0]
            rate = size**2 / 1e6 / spent
            note = f' of the bare backbone, {rate:.3g} km²/s'
            note += f', GPU {np.mean(busy):.0f} % busy' if busy else ''
            share = (len(forwards.seconds) - 1) / spent * bare
            lines.append(line(f'{name}: {model}, {kind}', share, '.0%', note=note))
            paper.append({'what': f'{name}, {spec}, {kind}', 'km2_a_second': rate})
    if cuda:
        for nodes, row in overhead_of_tokens(folder, size, specs[0], 1).items():
            steps, _ = overhead_lines(row, nodes)
            lines.append({**steps, 'what': f'{name}: {steps["what"]}'})
    return {'lines': lines, 'paper': paper if cuda else []}


def _bare(
    imagery: Path, spec: str, precision: str, compiles: bool, chip: int, repeats: int
) -> float:
    """Seconds a chip of the backbone alone, on one chip that is on the device."""
    device = package.device_of('auto')
    image = _chip(imagery, chip)[0].to(device)
    backbone = mapsr.create_backbone(spec, len(image), dtype='uint8').to(device)
    if compiles:
        backbone.compile()
    return _timed(partial(package.extract, backbone, image, precision), repeats, 3)


@contextmanager
def _utilisation() -> Iterator[list[float]]:
    """Per cent of time that a GPU is busy, as nvidia-smi says; empty without one."""
    samples: list[float] = []
    program = shutil.which('nvidia-smi') if torch.cuda.is_available() else None
    query = '--query-gpu=utilization.gpu', '--format=csv,noheader,nounits'
    stop = threading.Event()

    def watch() -> None:
        while program and not stop.wait(0.2):
            call = [program, *query]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            samples.extend(float(value) for value in done.stdout.split()[:1])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


PARTS: dict[str, Callable[..., Row]] = {
    'overhead': measure_overhead,
    'published': measure_published,
    'accuracy': measure_accuracy,
    'fit': measure_fit,
    'whole': measure_whole,
    'before': measure_before,
    'flat': measure_flat,
    'read': measure_read,
    'gpu': measure_gpu,
}


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """The parts that were asked for."""
    os.environ['BENCHMARK_CLOCK'] = options.clock
    folder = options.work / 'speed'
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        settings = dict(TINY[name]) if options.tiny else {}
        if name == 'accuracy':
            settings.setdefault('spec', f'{MOBILENET}&weights={options.weights}')
            settings['data'] = tiny_data(options.work) if options.tiny else options.data
        yield {'part': name}, partial(PARTS[name], folder, **settings)


def release_rows(records: Iterable[Record]) -> Iterator[tuple[Row, Row]]:
    """A line for each figure, and one for what the page of scaling computes with."""
    for record in records:
        part = record.key['part']
        for row in record.figures['lines']:
            yield {'part': part, **row}, record.origin
        if record.figures.get('paper'):
            yield {'part': part, 'paper': record.figures['paper']}, record.origin


def markdown(release: Release) -> str:
    """Table, what is missing, and where the figures come from."""
    verdict = {True: 'yes', False: '**no**', None: ''}
    lines = [row for row in release.rows if 'what' in row]
    body = [[r['what'], r['asked'], r['text'], verdict[r['good']]] for r in lines]
    blocks = [grid(['', 'asked for', 'measured', ''], body, left=4)]
    parts = unique(row['part'] for row in lines)
    missing = [name for name in PARTS if name not in parts]
    if missing:
        blocks.append(f'Not measured yet: {", ".join(missing)}.')
    sources = []
    for number in range(len(release.origins)):
        names = unique(row['part'] for row in lines if row['origin'] == number)
        sources.append(f'- {", ".join(names)}: {release.source(number)}')
    return '\n\n'.join([*blocks, '\n'.join(sources)])


TABLE = Table(
    'speed',
    'speed and memory, as ratios that are each measured in one run',
    trials,
    release_rows,
    markdown,
    rows=tuple(PARTS),
    pages=((scaling.PAGE, 'scaling', scaling.markdown),),
)
