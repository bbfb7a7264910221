# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One picture of a run: imagery, LR labels, map and confidence side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from ..datasets.geo.opened import WarpedRaster, open_raster
from ..datasets.geo.zarr import ZarrRaster
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend

# Pixels of a picture's longer side, as it is drawn: four inches.
_SIZE, _DPI = 600, 150
_NOTHING = (235, 235, 235)

# Classes in a line of the legend.
_COLUMNS = 8


def save_panel(
    path: Path,
    map_path: Path,
    legend: Legend,
    imagery: Imagery,
    labels: Sequence[LabelRaster] = (),
    crosswalk: Crosswalk | None = None,
    confidence: Path | None = None,
) -> None:
    """Draw the panel.

    Everything is read at the size that it is drawn in, from overviews where a file has
    them: the cost does not depend on the size of the map.

    Args:
        path: PNG file to write.
        map_path: The map.
        legend: Its legend.
        imagery: What it was made of.
        labels: LR labels, drawn in the map's classes.
        crosswalk: From the labels' legend to the map's; needed if there are labels.
        confidence: The map's confidence in percent.
    """
    grid = _thumbnail(imagery.geobox)
    colors = np.concatenate([legend.colors, [_NOTHING]]).astype(np.uint8)
    mapped = legend.index(_codes(map_path, grid))
    pictures = [('imagery', imagery_picture(imagery, grid, mapped >= 0))]
    if labels and crosswalk is not None:
        codes = np.full(grid.shape, -1)
        for file in (path for raster in labels for path in raster.paths):
            # The first raster with a label counts, as in labels.first_code.
            codes = np.where(codes < 0, _codes(file, grid), codes)
        pictures.append(('coarse labels', colors[crosswalk.index(codes)]))
    pictures.append(('map', colors[mapped]))

    present = sorted(set(np.unique(mapped)) - {-1})
    sheet = _Sheet(grid, len(pictures), confidence is not None, len(present))
    for place, (title, picture) in enumerate(pictures):
        sheet.axes(place, title).imshow(picture, interpolation='nearest')
    if confidence is not None:
        percent = _read(confidence, grid, [1], Resampling.average)[0]
        axes = sheet.axes(len(pictures), 'confidence (%)')
        scale = axes.imshow(percent, vmin=0, vmax=100, cmap='viridis')
        sheet.colorbar(scale)
    names = [legend.class_names[i] for i in present]
    font = _font_of(''.join(names))
    if font is None:  # names would be boxes, all alike
        names = [str(legend.classes[i].code) for i in present]
    handles = [
        Patch(color=legend.colors[i] / 255, label=name)
        for i, name in zip(present, names, strict=True)
    ]
    sheet.figure.legend(
        handles=handles, loc='lower center', ncols=_COLUMNS, frameon=False, prop=font
    )
    sheet.figure.savefig(path, format='png', pil_kwargs={'compress_level': 1})


class _Sheet:
    """Pictures of one shape in a row, titles above and a legend below, in inches.

    Matplotlib's own layout draws everything twice to find this out.
    """

    gap, title, bar, line = 0.1, 0.3, 0.6, 0.25

    def __init__(self, grid: GeoBox, pictures: int, scaled: bool, classes: int) -> None:
        height, width = grid.shape
        self.wide = _SIZE / _DPI
        self.tall = self.wide * min(max(height / width, 0.3), 2.5)
        self.below = self.line * (-(-classes // _COLUMNS) + 1)
        self.size = (
            (pictures + scaled) * (self.wide + self.gap) + self.gap + scaled * self.bar,
            self.tall + self.title + self.below,
        )
        self.figure = Figure(self.size, dpi=_DPI)
        FigureCanvasAgg(self.figure)

    def axes(self, place: int, title: str) -> Axes:
        """Axes for a picture."""
        left = self.gap + place * (self.wide + self.gap)
        axes = self._add(left, self.below, self.wide, self.tall)
        axes.set(xticks=[], yticks=[], frame_on=False, title=title)
        return axes

    def colorbar(self, shown: AxesImage) -> None:
        """A scale beside the last picture."""
        left = self.size[0] - self.bar
        axes = self._add(left, self.below, self.bar / 6, self.tall)
        self.figure.colorbar(shown, cax=axes)

    def _add(self, left: float, bottom: float, width: float, height: float) -> Axes:
        across, up = self.size
        return self.figure.add_axes(
            (left / across, bottom / up, width / across, height / up)
        )


@lru_cache(maxsize=64)
def _font_of(text: str) -> FontProperties | None:
    """A font that has all characters of a text: the default, or one that is installed.

    Returns:
        None where no font has them all.
    """
    size = rcParams['legend.fontsize']
    default = FontProperties(size=size)
    # The "last resort" font that matplotlib ships draws a box for each character.
    others = {
        entry.fname
        for entry in fontManager.ttflist
        if (entry.style, entry.weight) == ('normal', 400)
        and not entry.name.startswith('Last Resort')
    }
    for file in (findfont(default), *sorted(others)):
        try:
            characters = get_font(file).get_charmap()
        except (OSError, RuntimeError):  # it cannot be read
            continue
        if characters.keys() >= set(map(ord, text)):
            same = file == findfont(default)
            return default if same else FontProperties(fname=file, size=size)
    return None


def _thumbnail(grid: GeoBox) -> GeoBox:
    """A grid of at most _SIZE pixels a side over the same place."""
    factor = max(1.0, max(grid.shape) / _SIZE)
    return grid.zoom_out(factor)


def imagery_picture(
    imagery: Imagery, grid: GeoBox, mapped: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Three channels stretched to their 2nd to 98th percentile, (h, w, 3).

    The map knows best which pixels of the imagery are valid.
    """
    values = np.zeros((len(imagery.drawn[0][1]), *grid.shape))
    covered = np.zeros(grid.shape, bool)
    for path, channels in imagery.drawn:
        indexed = any(table is not None for _, table in channels)
        how = Resampling.nearest if indexed else Resampling.average
        read = _read(path, grid, [band for band, _ in channels], how)
        fresh = np.isfinite(read).all(0) & ~covered
        for channel, (_, table), band in zip(values, channels, read, strict=True):
            colors = band[fresh]
            if table is not None:
                colors = table[colors.astype(int).clip(max=len(table) - 1)]
            channel[fresh] = colors
        covered |= fresh
    covered &= mapped
    picture = np.empty((*grid.shape, 3))
    for channel in range(3):
        band = values[channel % len(values)]
        low, high = np.percentile(band[covered], [2, 98]) if covered.any() else (0, 1)
        picture[..., channel] = (band - low) / max(high - low, 1e-9)
    picture = (picture.clip(0, 1) * 255).round()
    picture[~covered] = _NOTHING
    return picture.astype(np.uint8)


def _codes(path: str | Path, grid: GeoBox) -> NDArray[np.int64]:
    """Class codes on the small grid, (h, w); -1 where there is no data."""
    codes = _read(path, grid, [1], Resampling.nearest)[0]
    return np.nan_to_num(codes, nan=-1).astype(np.int64)


def _read(
    path: str | Path, grid: GeoBox, bands: list[int], resampling: Resampling
) -> NDArray[np.float32]:
    """A raster on the small grid, (bands, h, w) float32; NaN where it has no data."""
    with ExitStack() as stack:
        source = stack.enter_context(open_raster(path))
        if isinstance(source, ZarrRaster):
            source = stack.enter_context(source.thumbnail(2 * _SIZE))
        elif isinstance(source, WarpedRaster):
            source = source.dataset
        full = GeoBox.from_rio(source)
        if full.zoom_out(max(1.0, max(full.shape) / max(grid.shape))) == grid:
            # Reading takes a fraction of the time of warping. Band by band: rasterio reads
            # only bands of one type together.
            read = []
            for band in bands:
                values: NDArray[np.float32] = source.read(
                    band,
                    out_shape=grid.shape,
                    resampling=resampling,
                    out_dtype='float32',
                )
                nodata = source.nodatavals[band - 1]
                if nodata is not None:
                    values[values == nodata] = np.nan
                read.append(values)
            return np.stack(read)
        with WarpedVRT(
            source,
            crs=str(grid.crs.to_wkt()) if grid.crs else None,
            transform=grid.affine,
            width=grid.width,
            height=grid.height,
            resampling=resampling,
            dtype='float32',
            nodata=np.nan,
        ) as small:
            warped: NDArray[np.float32] = small.read(bands)
    return warped
