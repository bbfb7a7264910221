# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Whether labels are what they are said to be: of a legend, and in cells of their own."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy import ndimage

from ..errors import InputError, InputWarning
from .geo.grid import pixel_ratio, window_in
from .labels import COUNTED, LabelRaster
from .legends.legend import Legend

# Share of the labelled cells, and of the codes, that a legend must know.
FITS = 0.5

# Labels count as a resampled copy where a cell has fewer than so many pixels, and no patch
# has fewer than so many cells, of at least so many patches. The map of a copy is worse: on
# austin_29 its mIoU is .63 with cells of 15 m in pixels of .59 m (the labels themselves
# have .62), and .73 with the cells.
COPY_PIXELS, COPY_CELLS, COPY_PATCHES = 4, 9, 5

# They also count as one where patches are whole blocks of cells: of at least so many cells,
# in at least so many patches of one block, with at most this share of their number between
# one and two blocks. In cells of a third of the side, the labels of austin_29 give a mIoU
# of .67 and those like NLCD's .59 (.73 and .68 in their own cells). Of four scenes in cells
# two and three times as fine, turned by 0 to 30 degrees, a share of at most .03 is between;
# of the scenes themselves the smallest patches are single cells, and where a map was
# cleaned of small patches the share is .5 or more.
BLOCK_CELLS, BLOCK_PATCHES, BLOCK_BETWEEN = 4, 8, 0.05


def check_codes(
    labels: Sequence[LabelRaster], legend: Legend, areas: Sequence[GeoBox] = ()
) -> None:
    """Check that labels are of a legend.

    Args:
        labels: Labels.
        legend: What their codes are said to mean.
        areas: Grids that are looked at; everywhere by default.

    Raises:
        InputError: The legend has few of the codes. The line names a legend that ships
            and has them.

    Warns:
        InputWarning: A class of the legend is the no-data value of a file, and some cells
            hold it, or cells hold negative numbers: they count as unlabelled. Or labels
            look as if they were resampled, to the areas' pixels or to any cells.
    """
    codes: Counter[int] = Counter()
    notes: list[str] = []
    names = dict(zip(legend.codes.tolist(), legend.class_names, strict=True))
    for raster in labels:
        present, absent = raster.count_codes(areas)
        negative = Counter({code: n for code, n in present.items() if code < 0})
        if negative:
            notes.append(
                f'{raster.paths[0]}: {negative.total()} of {present.total()} cells hold '
                f'negative numbers such as {min(negative)}, which are no class codes: '
                'they were left out; declare them as no data (gdal_edit -a_nodata), or '
                'convert them if they are codes above 127 (int8)'
            )
        present -= negative
        codes.update(present)
        for code in sorted(absent.keys() & names.keys()):
            total = present.total() + absent.total()
            notes.append(
                f'{raster.paths[0]}: {absent[code]} of {total} cells hold {code}, which '
                f"is '{names[code]}' in the legend '{legend.name}' but no data by the "
                'file: they were left out; if they are labels, take the declaration '
                'away (gdal_edit -unsetnodata)'
            )
        if reason := _signs_of_a_copy(raster, areas):
            notes.append(
                f'{raster.paths[0]}: {reason}: they look resampled. Give the raster that '
                'they were made of, in its own cells; by a copy in small ones the map is '
                'a copy of the labels, too'
            )
    if legend.nodata is not None:
        codes.pop(legend.nodata, None)
    check_fits(labels[0].paths[0] if labels else '', codes, legend)
    for note in notes:
        warnings.warn(note, InputWarning, stacklevel=2)


def _signs_of_a_copy(raster: LabelRaster, areas: Sequence[GeoBox]) -> str:
    """Why labels look resampled; empty of others.

    Args:
        raster: The labels, of which the middle of each area is looked at.
        areas: Grids whose pixels the cells are compared with.
    """
    sizes: list[int] = []
    fine = True
    for area in areas[:COPY_PATCHES]:
        top, left, bottom, right = window_in(area, raster.geobox)
        if top >= bottom or left >= right:
            continue
        fine &= pixel_ratio(raster.geobox, area) < COPY_PIXELS
        row, col = (top + bottom - COUNTED) // 2, (left + right - COUNTED) // 2
        codes = raster.read(
            slice(max(row, top), min(row + COUNTED, bottom)),
            slice(max(col, left), min(col + COUNTED, right)),
        )
        for code in np.unique(codes[codes >= 0]):
            # Corners connect, too: cells of a rotated grid may meet only there.
            patches, _ = ndimage.label(codes == code, np.ones((3, 3)))
            cells = np.bincount(patches.ravel())
            for edge in (patches[0], patches[-1], patches[:, 0], patches[:, -1]):
                cells[edge] = 0  # patches that the block cuts
            cells[0] = 0
            sizes += cells[cells > 0].tolist()
    if fine and len(sizes) >= COPY_PATCHES and min(sizes) >= COPY_CELLS:
        return (
            'its cells are about as small as the pixels of the imagery, and no patch of '
            f'one code has fewer than {min(sizes)}'
        )
    block = _cells_of_a_block(np.array(sizes))
    return f'patches of one code are whole blocks of {block} cells' if block else ''


def _cells_of_a_block(sizes: NDArray[np.int64]) -> int:
    """Cells of the blocks that all patches consist of; 0 where they do not.

    Args:
        sizes: Cells of each patch.
    """
    if len(sizes) < BLOCK_PATCHES:
        return 0
    common = int(np.gcd.reduce(sizes))
    if common >= BLOCK_CELLS:
        return common
    # turned ones have a cell more or less
    block = np.median(sizes[sizes <= 1.5 * sizes.min()])
    single = ((sizes >= 0.7 * block) & (sizes <= 1.3 * block)).sum()
    between = ((sizes > 1.3 * block) & (sizes < 1.7 * block)).sum()
    if block < BLOCK_CELLS or single < BLOCK_PATCHES:
        return 0
    return round(float(block)) if between <= BLOCK_BETWEEN * single else 0


def check_fits(path: str, codes: Mapping[int, int], legend: Legend) -> None:
    """Refuse a legend that has few of the codes.

    Args:
        path: What has them, for the message.
        codes: Number of cells of each code.
        legend: What they are said to mean.

    Raises:
        InputError: It has few of them.
    """
    codes = Counter(codes)
    names = set(legend.codes.tolist())
    total, matched = _matched(codes, legend)
    if not total:
        return
    few = matched < FITS * total
    if not few and len(codes.keys() & names) >= FITS * len(codes):
        return
    fitting = [
        name
        for name in Legend.names()
        if name != legend.name and _matched(codes, Legend.load(name))[1] > 0.9 * total
    ]
    if not few and not fitting:
        return
    # The smallest first: a legend of many codes has those of others by chance.
    fitting.sort(key=lambda name: len(Legend.load(name)))
    listed = ', '.join(str(code) for code in sorted(codes)[:12])
    advice = (
        f"'{fitting[0]}' has them" if fitting else 'give the legend that they are of'
    )
    more = f' (also {", ".join(fitting[1:4])})' if len(fitting) > 1 else ''
    raise InputError(
        f'{path}: only {matched} of {total} labelled cells have a code of '
        f"the legend '{legend.name}'; their codes are {listed}: {advice}{more}"
    )


def _matched(codes: Counter[int], legend: Legend) -> tuple[int, int]:
    """Labelled cells, and those with a code of a legend, its no-data code included."""
    named = {*legend.codes.tolist(), legend.nodata}
    return codes.total(), sum(count for code, count in codes.items() if code in named)
