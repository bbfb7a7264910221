# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Stratified random samples of class maps, ready to be labelled in a GIS."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from xml.sax.saxutils import quoteattr

import geopandas
import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from ..datasets.geo.names import distinct_names
from ..datasets.labels import LabelRaster, first_code
from ..datasets.legends.legend import Legend
from ..errors import InputError
from ..geopackage import add_style, open_geopackage, write_geopackage
from .class_maps import ClassMaps, MapBlock, layer_path
from .points import LAYER

# Percent at which the bands of confidence begin.
_BANDS = (0, 50, 70, 90)

# Pixels whose areas differ by a smaller share count as equal: a mean over pixels is that
# over the ground, to less than this share.
_ALIKE = 0.01

# Gives this module a stream of random numbers of its own: without it seed 0 had the stream
# that NumPy gives for it, and a map simulated with seed 0 was sampled by its own noise.
_STREAM = 30807


class Strata:
    """Strata of class maps: each pixel is in one, or in none where there is no data.

    Several layers are crossed: ``('class', 'confidence')`` has a stratum for each class
    in each band.

    Args:
        maps: The maps.
        layers: One or more of 'class', 'confidence', 'lr' and 'tile'.
        labels: LR labels, for 'lr'; the first that has a label at a pixel counts.
        lr_legend: Their legend.

    Raises:
        InputError: If a layer needs a file that there is not.
    """

    def __init__(
        self,
        maps: ClassMaps,
        layers: Sequence[str] = ('class',),
        labels: Sequence[LabelRaster] = (),
        lr_legend: Legend | None = None,
    ) -> None:
        self.maps, self.layers, self.labels = maps, tuple(layers), tuple(labels)
        self._confidence: list[LabelRaster] = []
        names: dict[str, list[str]] = {
            'class': list(maps.legend.class_names),
            'tile': distinct_names(maps.paths),
        }
        if 'confidence' in self.layers:
            for path in maps.paths:
                beside = layer_path(path, 'confidence')
                if not beside.exists():
                    raise InputError(
                        f'{beside} is not there; make the map without --no-confidence, '
                        'or leave confidence out of --strata.'
                    )
                self._confidence += LabelRaster.open(beside)
            ends = (*_BANDS[1:], 100)
            names['confidence'] = [
                f'{low} to {high} %' for low, high in zip(_BANDS, ends, strict=True)
            ]
        if 'lr' in self.layers:
            if not labels or lr_legend is None:
                raise InputError('--strata lr needs --labels and --labels-legend.')
            names['lr'] = list(lr_legend.class_names)
        self._lr_legend = lr_legend
        self._names = [names[layer] for layer in self.layers]

    def __len__(self) -> int:
        return int(np.prod(self._shape))

    def name(self, stratum: int) -> str:
        """Name of a stratum.

        Args:
            stratum: Its number.
        """
        places = np.unravel_index(stratum, self._shape)
        named = zip(self._names, places, strict=True)
        return ' | '.join(names[place] for names, place in named)

    def places(self, layer: str, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where strata stand in a layer: the class of each, for instance.

        Args:
            layer: One of the layers that they are made of.
            numbers: Numbers of strata, (H,).

        Returns:
            Index of each in the names of the layer, (H,).
        """
        places = np.unravel_index(numbers, self._shape)
        return places[self.layers.index(layer)].astype(np.int64)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Names of each layer; the last counts fastest."""
        return tuple(len(names) for names in self._names)

    def of(self, block: MapBlock) -> NDArray[np.int64]:
        """Number of the stratum of each pixel of a block, (H, W); -1 = none."""
        places = [self._places(layer, block) for layer in self.layers]
        number = reduce(
            lambda total, part: total * len(part[1]) + part[0],
            zip(places, self._names, strict=True),
            np.zeros(block.index.shape, np.int64),
        )
        missing = np.logical_or.reduce([place < 0 for place in places])
        return np.where(missing | (block.index < 0), -1, number)

    def _places(self, layer: str, block: MapBlock) -> NDArray[np.int64]:
        """Place of each pixel in the names of a layer, -1 = none."""
        if layer == 'class':
            return block.index
        if layer == 'tile':
            return np.full(block.index.shape, block.number)
        if layer == 'confidence':
            percent = block.codes(self._confidence[block.number])
            band = np.digitize(percent, _BANDS) - 1
            return np.where(percent < 0, -1, band)
        assert self._lr_legend is not None
        return self._lr_legend.index(first_code(self.labels, block.geobox))

    def measure(self) -> 'StrataSizes':
        """Area and pixels of every stratum that occurs."""
        areas, largest = np.zeros((2, len(self)))
        pixels = np.zeros(len(self), np.int64)
        for block in self.maps.blocks():
            number = self.of(block)
            valid = number >= 0
            areas += np.bincount(number[valid], block.areas[valid], minlength=len(self))
            pixels += np.bincount(number[valid], minlength=len(self))
            np.maximum.at(largest, number[valid], block.areas[valid])
        present = np.flatnonzero(pixels)
        if not present.size:
            raise InputError('The maps have no pixel with data in any stratum.')
        names = tuple(self.name(int(i)) for i in present)
        return StrataSizes(
            present,
            names,
            areas[present] / 1e4,
            pixels[present],
            largest[present] / 1e4,
        )


@dataclass(frozen=True)
class StrataSizes:
    """Sizes of the strata that occur.

    Args:
        numbers: Number of each stratum, (H,).
        names: Its name.
        hectares: Its area, (H,).
        pixels: Its pixels, (H,).
        largest: Hectares of its largest pixel, (H,).

    Raises:
        InputError: If two have one name: points say by it which stratum they are of.
    """

    numbers: NDArray[np.int64]
    names: tuple[str, ...]
    hectares: NDArray[np.float64]
    pixels: NDArray[np.int64]
    largest: NDArray[np.float64]

    def __post_init__(self) -> None:
        name, count = Counter(self.names).most_common(1)[0]
        if count > 1:
            raise InputError(
                f'{count} strata would be called {name!r}, and points are told apart by '
                'that; rename the files or classes, or leave a layer out of --strata.'
            )

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of the whole area, (H,)."""
        return self.hectares / self.hectares.sum()

    @property
    def most(self) -> NDArray[np.int64]:
        """Points that can be drawn of each, (H,).

        All pixels where they are alike. With more points than the area of a stratum
        holds its largest pixel that pixel would be drawn too seldom for its area.
        """
        alike = self.largest * self.pixels <= (1 + _ALIKE) * self.hectares
        large = np.floor(self.hectares / self.largest + 1e-9).astype(np.int64)
        return np.where(alike, self.pixels, np.minimum(large, self.pixels))


def draw_sample(
    strata: Strata, sizes: StrataSizes, points: NDArray[np.int64], seed: int = 0
) -> geopandas.GeoDataFrame:
    """Draw pixels at random from each stratum, without replacement.

    The chance of a pixel is in proportion to its area on the ground (equal, in an
    equal-area grid), so that points are spread evenly over the ground in a grid of
    degrees, too. One pass: with λ = n · area of the pixel / area of the stratum, each
    pixel gets the key u / (1 − u) · (1 − λ) / λ, and the n smallest keys of a stratum
    are its sample (Pareto sampling: Rosén 1997, On sampling with probability
    proportional to size, Journal of Statistical Planning and Inference 62, 159-191).
    Random numbers depend on the seed and the block, not on the order of reading.

    Args:
        strata: The strata.
        sizes: Their sizes.
        points: Points of each, no more than ``sizes.most``, (H,).
        seed: Seed of the draw.

    Returns:
        A row a point, in random order: ``stratum``, ``stratum_hectares``,
        ``stratum_pixels``, ``inclusion_probability`` (per pixel), empty ``reference``
        and ``note``, and the pixel's centre in the CRS of the first map.
    """
    keys = [np.zeros(0) for _ in points]
    places = [np.zeros((0, 3)) for _ in points]
    for block in strata.maps.blocks():
        number = strata.of(block)
        rng = np.random.default_rng([_STREAM, seed, block.number, *block.origin])
        chance = rng.random(number.shape)
        odds = chance / (1 - chance)
        for h, stratum in enumerate(sizes.numbers):
            row, col = np.nonzero(number == stratum)
            if not row.size:
                continue
            share = points[h] * block.areas[row, col] / 1e4 / sizes.hectares[h]
            values = odds[row, col] * np.maximum(1 / share - 1, 1e-9)
            if len(values) > points[h]:
                best = np.argpartition(values, points[h])[: points[h]]
                row, col, values = row[best], col[best], values[best]
            x, y = block.geobox.pix2wld(col + 0.5, row + 0.5)
            x, y = _into(strata.maps, block.number, x, y)
            new = np.stack([x, y, block.areas[row, col]], -1)
            keys[h] = np.concatenate([keys[h], values])
            places[h] = np.concatenate([places[h], new])
            best = np.argsort(keys[h], kind='stable')[: points[h]]
            keys[h], places[h] = keys[h][best], places[h][best]
    counts = [len(place) for place in places]
    which = np.repeat(np.arange(len(points)), counts)
    table = np.concatenate(places)
    order = np.random.default_rng(seed).permutation(len(table))
    which, table = which[order], table[order]
    hectares = sizes.hectares[which]
    crs = strata.maps.rasters[0].geobox.crs
    assert crs is not None
    return geopandas.GeoDataFrame(
        {
            'point': np.arange(1, len(table) + 1),
            'stratum': np.array(sizes.names, object)[which],
            'stratum_hectares': hectares,
            'stratum_pixels': sizes.pixels[which],
            'inclusion_probability': np.minimum(
                np.asarray(counts)[which] * table[:, 2] / 1e4 / hectares, 1
            ),
            'reference': np.full(len(table), None, object),
            'note': np.full(len(table), None, object),
        },
        geometry=geopandas.points_from_xy(table[:, 0], table[:, 1]),
        crs=crs.proj,
    )


def _into(
    maps: ClassMaps, number: int, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of a map in the CRS of the first."""
    one, other = maps.rasters[0].geobox.crs, maps.rasters[number].geobox.crs
    if one == other:
        return np.asarray(x), np.asarray(y)
    assert one is not None
    assert other is not None
    transformer = Transformer.from_crs(other.proj, one.proj, always_xy=True)
    east, north = transformer.transform(x, y)
    return np.asarray(east), np.asarray(north)


def write_sample(sample: geopandas.GeoDataFrame, path: Path, legend: Legend) -> None:
    """Write points as a GeoPackage that QGIS opens ready for labelling.

    The default style of the layer has a form in which ``reference`` is chosen from the
    classes' names, and colours points by it. Programs without QGIS's forms find the
    same choices as a field domain (the GeoPackage extension *Schema*).

    Args:
        sample: What :func:`draw_sample` gives.
        path: The file, which is not there yet.
        legend: The choices.

    Raises:
        OSError: If the file cannot be written.
    """
    write_geopackage(sample, path, LAYER)
    with open_geopackage(path) as database:
        for statement in _SCHEMA:
            database.execute(statement)
        for name in legend.class_names:
            database.execute(
                'INSERT INTO gpkg_data_column_constraints VALUES '
                "('reference_classes', 'enum', ?, NULL, NULL, NULL, NULL, NULL)",
                (name,),
            )
        add_style(database, LAYER, 'reference', _qml(legend), 'reference points')


# GeoPackage 1.3, annex F.9 (schema).
_SCHEMA = (
    (
        'CREATE TABLE IF NOT EXISTS gpkg_extensions (table_name TEXT, column_name TEXT, '
        'extension_name TEXT NOT NULL, definition TEXT NOT NULL, scope TEXT NOT NULL, '
        'CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name))'
    ),
    (
        'CREATE TABLE gpkg_data_columns (table_name TEXT NOT NULL, '
        'column_name TEXT NOT NULL, name TEXT, title TEXT, description TEXT, '
        'mime_type TEXT, constraint_name TEXT, '
        'CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name), '
        'CONSTRAINT gdc_tn UNIQUE (table_name, name))'
    ),
    (
        'CREATE TABLE gpkg_data_column_constraints (constraint_name TEXT NOT NULL, '
        'constraint_type TEXT NOT NULL, value TEXT, min NUMERIC, min_is_inclusive BOOLEAN, '
        'max NUMERIC, max_is_inclusive BOOLEAN, description TEXT, '
        'CONSTRAINT gdcc_ntv UNIQUE (constraint_name, constraint_type, value))'
    ),
    *(
        'INSERT INTO gpkg_extensions VALUES '
        f"('{table}', NULL, 'gpkg_schema', "
        "'http://www.geopackage.org/spec121/#extension_schema', 'read-write')"
        for table in ('gpkg_data_columns', 'gpkg_data_column_constraints')
    ),
    (
        'INSERT INTO gpkg_data_columns VALUES '
        f"('{LAYER}', 'reference', NULL, 'Reference class', NULL, NULL, "
        "'reference_classes')"
    ),
)


def _qml(legend: Legend) -> str:
    """The layer's style and form, in QGIS's language."""
    choices = ''.join(
        f'<Option type="Map"><Option type="QString" name={quoteattr(name)} '
        f'value={quoteattr(name)}/></Option>'
        for name in legend.class_names
    )
    colors = ['255,255,255', *(','.join(map(str, c.color)) for c in legend.classes)]
    labels = ['', *legend.class_names]
    categories = ''.join(
        f'<category render="true" symbol="{i}" value={quoteattr(label)} '
        f'label={quoteattr(label or "to be labelled")}/>'
        for i, label in enumerate(labels)
    )
    symbols = ''.join(
        f'<symbol type="marker" name="{i}" alpha="1"><layer class="SimpleMarker" '
        'enabled="1"><Option type="Map">'
        f'<Option type="QString" name="color" value="{color},255"/>'
        '<Option type="QString" name="name" value="circle"/>'
        '<Option type="QString" name="outline_color" value="0,0,0,255"/>'
        '<Option type="QString" name="size" value="3"/>'
        '</Option></layer></symbol>'
        for i, color in enumerate(colors)
    )
    return (
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">'
        '<qgis version="3.22.0" styleCategories="Symbology|Fields|Forms">'
        '<fieldConfiguration><field name="reference"><editWidget type="ValueMap">'
        '<config><Option type="Map"><Option type="List" name="map">'
        f'{choices}</Option></Option></config></editWidget></field>'
        '</fieldConfiguration>'
        '<renderer-v2 type="categorizedSymbol" attr="reference">'
        f'<categories>{categories}</categories><symbols>{symbols}</symbols>'
        '</renderer-v2><layerGeometryType>0</layerGeometryType></qgis>'
    )
