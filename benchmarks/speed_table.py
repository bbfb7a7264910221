# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The table of speed and memory, from the results file alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / 'results' / 'speed.json'
BEGIN, END = '<!-- speed: python -m benchmarks.table -->', '<!-- end of speed -->'

Results = dict[str, Any]
Row = tuple[str, str, str, bool | None]

#: Parts that run without a GPU.
PARTS = ('overhead', 'published', 'accuracy', 'fit', 'flat', 'read')

NO_GPU = 'no GPU figure exists yet: `python -m benchmarks.speed gpu` makes them'


def rows(results: Results) -> list[Row]:
    """What was asked for and what was measured.

    Args:
        results: Content of the results file; parts may be missing.

    Returns:
        What, limit, figure, and whether it is kept; None where nothing was asked for.
    """
    makers = {
        'overhead': _overhead,
        'published': _published,
        'fit': _fit,
        'flat': _flat,
        'read': _read,
        'gpu': _gpu,
    }
    return [
        row
        for name, make in makers.items()
        if name in results
        for row in make(results[name])
    ]


def checks(results: Results) -> list[tuple[str, bool]]:
    """Sentences and verdicts, of what was asked for."""
    return [
        (f'{what}: {figure} (asked for: {limit})', good)
        for what, limit, figure, good in rows(results)
        if good is not None
    ]


def _span(rounds: list[float], form: str) -> str:
    """The least and the most of several rounds."""
    return f'{min(rounds):{form}} to {max(rounds):{form}}'


def _overhead(part: Results) -> Iterator[Row]:
    limit = 0.10 if part['device'] == 'cuda' else 0.15
    tokens, rcf = part['tokens'], part['rcf']
    for nodes, name in (
        ('none', 'no propagation'),
        ('tokens', 'propagation, tokens'),
        ('superpixels', 'propagation, superpixels'),
    ):
        found = tokens[nodes]
        one = found['pass_seconds'] / found['one_at_a_time_seconds'] - 1
        yield (
            f'matching, blending, writing / forwards of ViT-S/14, {name}',
            f'≤ {limit:.0%}',
            f'{found["steps"]:.1%} ({_span(found["steps_rounds"], ".1%")})',
            found['steps'] <= limit,
        )
        measured = (
            f'{found["overhead"]:.1%} ({_span(found["rounds"], ".1%")}; over forwards '
            f'with all cores on one chip: {one:.1%})'
        )
        yield (
            f'whole command from the first forward on, likewise, {name}',
            f'≤ {limit:.0%}',
            measured,
            found['overhead'] <= limit,
        )
    yield (
        '`rcf`: whole command with a saved fit / bare convolutions',
        '≤ 1.5',
        f'{rcf["times_bare"]:.2f} ({_span(rcf["rounds"], ".2f")})',
        rcf['times_bare'] <= 1.5,
    )
    yield (
        '… / the same convolutions in parts that stay in the cache',
        '–',
        f'{rcf["times_in_parts"]:.2f}',
        None,
    )


def _published(part: Results) -> Iterator[Row]:
    faster, smaller = part['faster'], part['smaller']
    whole = part['published']['all']
    yield (
        f'published way, all after the backbone, one chip of {part["chip"]}²',
        '–',
        f'{whole["seconds"]:.0f} s, {whole["added_mib"]:.0f} MiB',
        None,
    )
    for name, text in (
        ('matched', 'matching alone'),
        ('tokens', 'matching and propagation, tokens'),
        ('superpixels', 'matching and propagation, superpixels'),
    ):
        yield (
            f'published way / ours, {text}: time',
            '≥ 100',
            f'{faster[name]:.0f}',
            faster[name] >= 100,
        )
        yield (
            f'published way / ours, {text}: memory added',
            '≥ 20',
            f'{smaller[name]:.1f}',
            smaller[name] >= 20,
        )
    yield (
        'dense upsampling and cosines / ours in token space: time',
        '–',
        f'{faster["matching"]:.0f}',
        None,
    )
    difference = part['matching_difference']
    yield (
        'largest difference of the two matchings',
        '≤ 1e-5',
        f'{difference:.1e}',
        difference <= 1e-5,
    )


def _fit(part: Results) -> Iterator[Row]:
    size = f'{part["cells"]} cells × {part["dimensions"]}'
    yield (
        f'probe of {size}',
        '< 5 s',
        f'{part["probe_seconds"]:.2f} s',
        part['probe_seconds'] < 5,
    )
    yield (
        f'… with held-out cells, prior and prompts of {part["pixels"]} pixels',
        '–',
        f'{part["everything_seconds"]:.2f} s',
        None,
    )
    calls = part['calls']
    of_fit = calls['fit_and_map'] - calls['map']
    yield (
        'calls of the backbone in a fit / chips that it looked at',
        '1',
        f'{of_fit} / {calls["chips_of_the_fit"]}',
        of_fit == calls['chips_of_the_fit'],
    )


def _flat(part: Results) -> Iterator[Row]:
    runs = part['runs'].items()
    peaks = ', '.join(
        f'{(int(size) / 1000) ** 2:.0f} km² {run["peak_mib"]:.0f} MiB'
        for size, run in runs
    )
    spread = part['memory_range']
    yield (
        'range of peak memory over sizes',
        '< 10 %',
        f'{spread:.1%} ({peaks})',
        spread < 0.1,
    )
    times = ', '.join(f'{run["seconds"]:.0f} s' for _, run in runs)
    yield (
        'exponent of time over area',
        '≤ 1.05',
        (
            f'{part["exponent"]:.2f} (largest two: '
            f'{part["exponent_of_largest"]:.2f}; {times})'
        ),
        part['exponent'] <= 1.05,
    )


def _read(part: Results) -> Iterator[Row]:
    for row in part['rows']:
        count, threads = row['processes'], row['threads']
        yield (
            f'reading alone: processes {count}, threads in each {threads}',
            '–',
            f'{row["chips_a_second"]:.0f} chips/s, {row["km2_a_second"]:.3g} km²/s',
            None,
        )


def _gpu(part: Results) -> Iterator[Row]:
    for row in part['rows']:
        name = row['backbone'].removeprefix('timm:').partition('?')[0]
        compiled = ', compiled' if row['compiled'] else ''
        busy = row['gpu_percent']
        yield (
            f'{part["device"]}: {name}, {row["precision"]}{compiled}',
            '–',
            f'{row["share_of_bare"]:.0%} of the bare backbone, '
            f'{row["km2_a_second"]:.3g} km²/s'
            + ('' if busy is None else f', GPU {busy:.0f} % busy'),
            None,
        )
    for nodes, found in part.get('overhead', {}).items():
        if nodes == 'backbone':
            continue
        name = 'no propagation' if nodes == 'none' else f'propagation, {nodes}'
        what = 'matching, blending, writing / forwards of ViT-S/14'
        seconds = f'{found["forward_seconds"]:.2f} s of {found["pass_seconds"]:.1f} s'
        yield (
            f'{part["device"]}: {what}, {name}',
            '≤ 10%',
            f'{found["steps"]:.0%} (forwards {seconds})',
            found['steps'] <= 0.1,
        )


def markdown(results: Results) -> str:
    """Table, mean IoU of both ways, and where the figures come from."""
    verdict = {True: 'yes', False: '**no**', None: ''}
    lines = ['| | asked for | measured | |', '|---|--:|---|---|']
    lines += [
        f'| {what} | {limit} | {figure} | {verdict[good]} |'
        for what, limit, figure, good in rows(results)
    ]
    if results.get('gpu', {}).get('device', 'cpu') == 'cpu':
        lines += ['', f'On a GPU: {NO_GPU}.']
    missing = [name for name in PARTS if name not in results]
    if missing:
        lines += ['', f'Not measured yet: {", ".join(missing)}.']
    if 'accuracy' in results:
        lines += ['', *_accuracy(results['accuracy'])]
    lines += ['']
    for source in dict.fromkeys(map(_source, results.values())):
        names = [name for name, part in results.items() if _source(part) == source]
        lines.append(f'- {", ".join(names)}: {source}')
    return '\n'.join(lines)


def _source(part: Results) -> str:
    times = {'wall': 'wall time', 'cpu': 'CPU time of all threads'}[part['clock']]
    return (
        f'{times}, {part["machine"]}, {part["date"]}, commit {part["commit"]}, torch '
        f'{part["versions"]["torch"]}'
    )


def _accuracy(part: Results) -> list[str]:
    sets = [name for name, found in part.items() if _is_set(found)]
    lines = [
        '| mIoU, MobileNetV2 | ' + ' | '.join(sets) + ' |',
        '|---' + '|--:' * len(sets) + '|',
    ]
    for row in part[sets[0]]:
        values = ' | '.join(f'{part[name][row]:.3f}' for name in sets)
        lines.append(f'| {row} | {values} |')
    return lines


def _is_set(found: Any) -> bool:
    return isinstance(found, dict) and 'published' in found


def fill(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """A page with what stands between two marks made anew.

    Args:
        page: The page.
        text: What is to stand there.
        begin: First mark.
        end: Second mark.
    """
    before, rest = page.split(begin)
    return f'{before}{begin}\n{text}\n{end}{rest.split(end)[1]}'
