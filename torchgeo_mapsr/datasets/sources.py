# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What imagery and labels are given as: files, rasters, or torchgeo datasets."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import geopandas
import numpy as np
import pandas
import shapely
from torchgeo.datasets import (
    GeoDataset,
    IntersectionDataset,
    RasterDataset,
    UnionDataset,
)

from ..errors import InputError
from .geo.names import PathLike
from .geo.raster import RasterFile
from .imagery import Imagery
from .labels import LabelRaster

# Two files are two dates of one place where they share more of the smaller than this.
# Neighbours of one mosaic, such as NAIP quarter quads, overlap by a margin only.
SAME_PLACE = 0.5


@dataclass(frozen=True, eq=False)
class DatedFiles:
    """What a torchgeo dataset has indexed.

    Args:
        index: ``filepath`` and footprint of each row, by time.
        bands: Bands to read, from 1; None for all.
        nodata: No-data value; None for that of the files.
        names: Names of all bands, if the dataset has any.
        rgb: Names of those that are red, green and blue.
        name: What the dataset is called.
    """

    index: geopandas.GeoDataFrame
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    names: tuple[str, ...] | None = None
    rgb: tuple[str, ...] | None = None
    name: str = 'dataset'

    @classmethod
    def of(cls, source: Any) -> 'DatedFiles | None':
        """Take the files of a torchgeo dataset.

        Args:
            source: A dataset, or anything else.

        Returns:
            None if it is no dataset.

        Raises:
            InputError: The dataset cannot be read in its own pixels, or asks for what
                would change its values.
        """
        if isinstance(source, DatedFiles):
            return source
        if not isinstance(source, GeoDataset):
            return None
        name = type(source).__name__
        if isinstance(source, IntersectionDataset):
            first, second = (type(part).__name__ for part in source.datasets)
            raise InputError(
                f'{first} & {second} holds two kinds of data; give them one by one, '
                'imagery and labels: LRHRPair(imagery, labels)'
            )
        if isinstance(source, UnionDataset):
            return cls._of_union(source)
        if not isinstance(source, RasterDataset):
            raise InputError(
                f'{name} is not of raster files; give a RasterDataset, or the files'
            )
        if source.separate_files:
            raise InputError(
                f'{name} keeps each band in a file of its own; '
                'stack them first (gdalbuildvrt -separate)'
            )
        if source.transforms is not None:
            raise InputError(
                f'{name} has transforms, which would see neither labels nor cells; '
                'give them to the dataset that is made of it'
            )
        indexes = getattr(source, 'band_indexes', None)
        crs = source.crs
        if crs is None:
            # torchgeo 0.8's random_grid_cell_assignment loses the CRS of the index.
            first = str(_named(source.index, None)['filepath'].iloc[0])
            grid = RasterFile.open(first).geobox
            assert grid.crs is not None
            crs = grid.crs.proj
        index = _of_the_years(_named(source.index, crs), source)
        files = cls(
            index,
            None if indexes is None else tuple(indexes),
            getattr(source, 'nodata', None),
            tuple(source.all_bands) or None,
            tuple(source.rgb_bands) or None,
            name,
        )
        files._check_grid(source)
        return files

    @classmethod
    def _of_union(cls, source: UnionDataset) -> 'DatedFiles':
        """Take the files of both datasets, as far as the union's index has them."""
        first, second = (cls.of(part) for part in source.datasets)
        assert first is not None
        assert second is not None
        if (first.bands, first.nodata) != (second.bands, second.nodata):
            raise InputError(
                f'{first.name} | {second.name}: one reads the bands {first.bands}, the '
                f'other {second.bands}; give both the same'
            )
        paths = {*first.paths, *second.paths}
        index = _named(source.index, source.crs)
        index = index[[str(path) in paths for path in index['filepath']]]
        return replace(first, index=index, name=f'{first.name} | {second.name}')

    @property
    def paths(self) -> list[str]:
        """The files, each once."""
        return list(dict.fromkeys(str(path) for path in self.index['filepath']))

    def single(self) -> 'Iterator[DatedFiles]':
        """The files one by one."""
        names = self.index['filepath'].astype(str)
        for path in self.paths:
            yield replace(self, index=self.index[(names == path).to_numpy()])

    def _check_grid(self, source: RasterDataset) -> None:
        """Make sure that nothing is asked for but the files' own CRS and pixels."""
        other: RasterFile | None = None
        for path in self.paths:
            file = RasterFile.open(path)
            assert file.geobox.crs is not None
            if file.geobox.crs.proj == self.index.crs:
                affine = file.geobox.affine
                if affine.b or affine.d:
                    return
                if np.allclose(source.res, (affine.a, abs(affine.e)), rtol=1e-6):
                    return
            other = other or file
        if other is None:
            raise InputError(f'{self.name} has no files; look at its index')
        grid = other.geobox
        raise InputError(
            f'{self.name} asks for pixels of {source.res} in {_short(self.index.crs)}, but '
            f'{other.path} has {(grid.affine.a, abs(grid.affine.e))} in {grid.crs}; '
            'nothing is resampled here: make it without crs and res, and before any & '
            'or | of torchgeo, which set them'
        )

    def check_one_date(self) -> None:
        """Make sure that no pixel would be of one of several dates.

        Raises:
            InputError: Two files show one place at different times.
        """
        first, second = _two_dates(self.index)
        if first is not None:
            raise InputError(
                f'{self.name} shows one place at two dates, {_year(first)} and '
                f'{_year(second)}; choose one (time_series_split), or give all to '
                'LRHRPairs.from_files, which pairs each file by itself'
            )

    def at_time(self, times: pandas.IntervalIndex | None) -> 'DatedFiles':
        """The files of one date: those of some time where there are several dates.

        Args:
            times: When the imagery was taken.

        Raises:
            InputError: There are several dates still, or none is of that time.
        """
        if _two_dates(self.index)[0] is None:
            return self
        overlapping = self
        if times is not None:
            hits = np.zeros(len(self.index), bool)
            for time in times.unique():
                hits |= self.index.index.overlaps(time)
            overlapping = replace(self, index=self.index[hits])
        if len(overlapping.index) and _two_dates(overlapping.index)[0] is None:
            return overlapping
        years = sorted({_year(time) for time in self.index.index})
        raise InputError(
            f'{self.name} has labels of {", ".join(years)} and the imagery does not say '
            'which of them are its own; give one date, such as years=[…] of NLCD'
        )


ImagerySource = Imagery | GeoDataset | DatedFiles | PathLike | Iterable[PathLike]
LabelSource = (
    LabelRaster | GeoDataset | DatedFiles | PathLike | Iterable[LabelRaster | PathLike]
)


def open_imagery(
    source: ImagerySource,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    stack: bool = False,
) -> Imagery:
    """Open imagery of files or of a torchgeo dataset's files.

    Args:
        source: The imagery.
        bands: Bands to read, from 1 (default: those of the dataset, or all but alpha).
        nodata: No-data value (default: that of the dataset, or of the files).
        stack: Files of one place are bands of one image.

    Raises:
        InputError: It cannot be used.
    """
    if isinstance(source, Imagery):
        if bands is not None or nodata is not None or stack:
            raise InputError('give bands, nodata and stack to Imagery, not to the pair')
        return source
    files = DatedFiles.of(source)
    if files is not None:
        bands = files.bands if bands is None else bands
        nodata = files.nodata if nodata is None else nodata
        return Imagery(files.paths, bands, nodata, stack)
    return Imagery(source, bands, nodata, stack)  # type: ignore[arg-type]


def label_rasters(
    source: LabelSource, times: pandas.IntervalIndex | None = None
) -> tuple[LabelRaster, ...]:
    """Open label rasters of files or of a torchgeo dataset's files.

    Args:
        source: The labels, in their order; paths that follow one another are opened
            together, one raster for each grid. Of a torchgeo dataset with labels of
            several dates, those of the imagery's date are taken, and never a mix.
        times: When the imagery was taken.

    Raises:
        InputError: They cannot be used, or nothing says which date is meant.
    """
    if isinstance(source, LabelRaster):
        return (source,)
    files = DatedFiles.of(source)
    if files is not None:
        _check_complete(files)
        return LabelRaster.open(files.at_time(times).paths)
    if isinstance(source, str | os.PathLike):
        return LabelRaster.open(source)
    sources: list[Any] = list(source)  # type: ignore[arg-type]
    rasters: list[LabelRaster] = []
    for opened, items in groupby(sources, lambda item: isinstance(item, LabelRaster)):
        run = list(items)
        rasters += run if opened else LabelRaster.open(run)
    return tuple(rasters) or LabelRaster.open(sources)


def _named(index: geopandas.GeoDataFrame, crs: Any) -> geopandas.GeoDataFrame:
    """File, footprint and time of each row of an index.

    torchgeo's random_grid_cell_assignment drops the names of the columns, the file's
    being the first, and that of 0.8 the CRS.
    """
    column = 'filepath' if 'filepath' in index.columns else index.columns[0]
    return geopandas.GeoDataFrame(
        {'filepath': [str(path) for path in index[column]]},
        index=index.index,
        geometry=index.geometry.to_numpy(),
        crs=crs,
    )


def _of_the_years(
    index: geopandas.GeoDataFrame, source: RasterDataset
) -> geopandas.GeoDataFrame:
    """Rows of the years that a dataset was made for.

    torchgeo's NLCD, CDL and others check that the files of these years are there, and
    read all files of the folder.
    """
    years = getattr(source, 'years', None)
    if not years:
        return index
    hits = np.zeros(len(index), bool)
    for year in years:
        start, stop = pandas.Timestamp(year, 1, 1), pandas.Timestamp(year + 1, 1, 1)
        hits |= index.index.overlaps(pandas.Interval(start, stop, 'neither'))
    if not hits.any():
        available = ', '.join(sorted({_year(time) for time in index.index}))
        raise InputError(
            f'{type(source).__name__} asks for the years {list(years)} and its files are '
            f'of {available}; give years=[{available}]'
        )
    return index[hits]


def _two_dates(index: geopandas.GeoDataFrame) -> tuple[Any, Any]:
    """Times of two rows that show one place at different times, or None twice."""
    times = index.index
    if times.nunique() < 2:
        return None, None
    shapes = index.geometry.to_numpy()
    first, second = index.sindex.query(shapes, predicate='intersects')
    later = first < second
    first, second = first[later], second[later]
    apart = (times.left[first] > times.right[second]) | (
        times.left[second] > times.right[first]
    )
    first, second = first[apart], second[apart]
    common = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    areas = shapely.area(shapes)
    same = common > SAME_PLACE * np.minimum(areas[first], areas[second])
    if not same.any():
        return None, None
    pair = int(np.argmax(same))
    return times[first[pair]], times[second[pair]]


def _check_complete(files: DatedFiles) -> None:
    """Make sure that no split has cut the footprints of label files."""
    for path in files.paths:
        file = RasterFile.open(path)
        rows = (files.index['filepath'] == path).to_numpy()
        area = files.index.geometry[rows].union_all().area
        assert file.geobox.crs is not None
        if file.geobox.crs.proj != files.index.crs:
            continue
        if area < 0.999 * file.geobox.extent.geom.area:
            raise InputError(
                f'{files.name} is part of a split: labels are read whole; split the '
                'dataset that is made of them, or its imagery'
            )


def _year(time: Any) -> str:
    """The year of an interval, or both years."""
    if time.left == pandas.Timestamp.min:
        return 'any time'
    first, last = str(time.left.year), str(time.right.year)
    return first if first == last else f'{first}-{last}'


def _short(crs: Any) -> str:
    code = crs.to_epsg()
    return f'EPSG:{code}' if code else str(crs.name)
