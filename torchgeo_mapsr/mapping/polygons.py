# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Files of the polygons of a class map: GeoPackage, FlatGeobuf, GeoParquet, web tiles."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from ..atomic import replacing
from ..datasets.geo.degrees import outline, within_180
from ..datasets.geo.grid import pixel_offset
from ..datasets.geo.raster import RasterFile, open_rasters
from ..datasets.geo.round_earth import circumference
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError, incomplete
from ..evaluation.class_maps import NO_PERCENT, known_index
from ..geopackage import add_style, open_geopackage
from .style import polygon_qml
from .trace import ClassPolygon, polygons

#: Formats of polygons by suffix.
FORMATS = {
    '.gpkg': 'GPKG',
    '.fgb': 'FlatGeobuf',
    '.parquet': 'Parquet',
    '.pmtiles': 'PMTiles',
}

# Names of layers that GeoPackages, SQLite, GDAL and QGIS keep for themselves, and those
# that GDAL refuses for what they begin with.
_RESERVED = re.compile(
    r'gpkg|sqlite_|(layer_styles|ogr_empty_table)\Z|\W', re.IGNORECASE
)

# Features that are handed to a file at once.
_BATCH = 4096

# Pixels by which ends of a map that goes once round the Earth, which are one meridian, are
# moved inwards to be told apart.
_WITHIN = 1e-6

# Width of the world in Web Mercator, in metres.
_WORLD = 2 * np.pi * 6378137


def polygonise(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    legend: Legend | str,
    confidence: str | os.PathLike[str] | None = None,
    min_area: float = 0.0,
    tile: int = 1024,
    layer: str | None = None,
) -> int:
    """Write the polygons of a class map.

    Columns: ``class`` (code), ``name``, ``hectares`` (on the ellipsoid, from the pixels
    themselves) and, if there is a confidence raster, ``confidence`` (mean, 0 to 100).
    A GeoPackage has its style inside, so that QGIS shows the classes' colours and names.

    Args:
        path: The class map. Its mask and its no-data value count.
        output: File to write: .gpkg, .fgb, .parquet (GeoParquet) or .pmtiles. Nothing
            is there until it is complete.
        legend: Legend of the map.
        confidence: Raster of the mapped class's probability, in percent, on the same
            grid.
        min_area: Smaller polygons are left out; in square metres.
        tile: Side of what is read at once, in pixels.
        layer: Name of the layer in the file (default: the file's stem).

    Returns:
        Number of polygons written.

    Raises:
        InputError: If the format is unknown, or the rasters cannot be used; if web tiles
            (.pmtiles) would have no polygon, or lie at a pole or beyond the Earth.
        OSError: If the file cannot be written.
    """
    legend = Legend.load(legend)
    output = Path(output)
    driver = format_of(output)
    layer = layer or output.stem
    if _RESERVED.match(layer):
        layer = f'polygons_{layer}'
    if not min_area >= 0:
        raise InputError('The smallest area of a polygon must not be negative.')
    raster = LabelRaster(open_rasters([path]))
    geobox = raster.geobox
    names = legend.words
    assert geobox.crs is not None
    crs = geobox.crs.proj
    sure = None
    if confidence is not None:
        sure = RasterFile.open(confidence)
        offset = pixel_offset(sure.geobox, geobox)
        if offset != (0, 0) or sure.geobox.shape != geobox.shape:
            raise InputError(f'{confidence}: is not on the grid of {path}.')

    # Handles on the files are those of a thread, and closed with it: the map may get
    # another name then, which some systems refuse while it is open.
    with ThreadPoolExecutor(1, 'polygons') as thread:

        def read(rows: slice, cols: slice) -> NDArray[np.int64]:
            codes = thread.submit(raster.read, rows, cols).result()
            return np.where(known_index(codes, legend, path) < 0, -1, codes)

        def percent(rows: slice, cols: slice) -> NDArray[np.uint8]:
            assert sure is not None
            return thread.submit(_percent, sure, rows, cols).result()

        def found() -> Iterator[ClassPolygon]:
            shares = None if sure is None else percent
            for polygon in polygons(read, geobox, -1, shares, tile):
                # An area that is not known, where the CRS ends, is not below it.
                if not polygon.area < min_area:
                    yield polygon.placed(geobox)

        placed, options = found(), dict[str, Any]()
        if driver == 'PMTiles':
            options = {'NAME': layer, **_zooms(output, geobox)}
            first = next(placed, None)
            if first is None:
                raise InputError(
                    f'{output}: there is no polygon to write, and web tiles of none '
                    'cannot be opened; give another --min-area, or .gpkg.'
                )
            placed, crs = _in_degrees(chain([first], placed), geobox)
        with replacing(output) as part:
            if driver == 'Parquet':
                written = _write_parquet(part, placed, names, crs, sure is not None)
            else:
                written = _write_vector(
                    part,
                    placed,
                    names,
                    crs,
                    sure is not None,
                    driver=driver,
                    layer=layer,
                    options=options,
                )
            if driver == 'FlatGeobuf':
                _check_rows(part, written)
                _check_unit(part, layer, crs, output)
            if driver == 'GPKG':
                _embed_style(part, layer, written, polygon_qml(legend))
    return written


def format_of(path: str | os.PathLike[str]) -> str:
    """GDAL's name of the format that a file of polygons has by its suffix.

    Raises:
        InputError: If there is no such format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f'{os.fspath(path)}: polygons are written as {", ".join(FORMATS)}; '
            'give one of these suffixes.'
        )
    return FORMATS[suffix]


def _percent(file: RasterFile, rows: slice, cols: slice) -> NDArray[np.uint8]:
    """Confidence of rows and columns in percent, NO_PERCENT where there is none."""
    values = file.read([1], rows, cols)[0]
    valid = (file.read([1], rows, cols, mask=True)[0] > 0) & np.isfinite(values)
    return np.where(valid, values, NO_PERCENT)


def _batches(
    polygons: Iterator[ClassPolygon], names: dict[int, str], confidence: bool
) -> Iterator[tuple[Sequence[ClassPolygon], dict[str, list[object]]]]:
    """Polygons and their columns, some thousand at a time."""
    while batch := [p for _, p in zip(range(_BATCH), polygons, strict=False)]:
        columns: dict[str, list[object]] = {
            'class': [p.code for p in batch],
            'name': [names[p.code] for p in batch],
            'hectares': [p.area / 1e4 for p in batch],
        }
        if confidence:
            columns['confidence'] = [
                None if np.isnan(p.confidence) else p.confidence for p in batch
            ]
        yield batch, columns


def _write_vector(
    path: Path,
    polygons: Iterator[ClassPolygon],
    names: dict[int, str],
    crs: CRS,
    confidence: bool,
    driver: str,
    layer: str,
    options: dict[str, Any],
) -> int:
    """Stream polygons into a file of GDAL's; returns how many."""
    schema = _schema(confidence)
    count = 0
    failure: list[BaseException] = []

    def stream() -> Iterator[pa.RecordBatch]:
        nonlocal count
        try:
            for batch, columns in _batches(polygons, names, confidence):
                count += len(batch)
                yield _record_batch(batch, columns, schema)
        except BaseException as error:
            # GDAL, which pulls, would say only that something failed.
            failure.append(error)
            raise

    # GeoPackages have the time of their making, which would make every file another.
    # It imports geopandas and pandas, which a map without polygons does not need.
    import pyogrio

    previous = pyogrio.get_gdal_config_option('OGR_CURRENT_DATE')
    pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': '1970-01-01T00:00:00.000Z'})
    try:
        reader = pa.RecordBatchReader.from_batches(schema, stream())
        pyogrio.write_arrow(
            reader,
            path,
            driver=driver,
            layer=layer,
            geometry_name='geometry',
            # web tiles have no type of a layer's geometries
            geometry_type='Unknown' if driver == 'PMTiles' else 'Polygon',
            crs=_crs_text(crs),
            **options,
        )
    except (pyogrio.errors.DataSourceError, RuntimeError) as error:
        if failure:
            raise failure[0] from None
        raise OSError(
            None, f'Polygons could not be written ({error})', str(path)
        ) from error
    finally:
        pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': previous})
        # what web tiles are made of: it stays where that fails
        for end in ('.tmp.mbtiles', '.tmp.mbtiles-journal'):
            path.with_name(path.name + end).unlink(missing_ok=True)
    return count


def _zooms(output: Path, geobox: GeoBox) -> dict[str, Any]:
    """Zoom levels of web tiles: a pixel is a sixteenth of a tile's 4096 steps or more."""
    assert geobox.crs is not None
    to_web = Transformer.from_crs(geobox.crs.proj, 'EPSG:3857', always_xy=True)
    # The middle pixel, and those to its right and below: a grid across the antimeridian
    # seems to be as wide as the world.
    col, row = geobox.width / 2, geobox.height / 2
    x, y = to_web.transform(
        *geobox.pix2wld(np.array([col, col + 1, col]), np.array([row, row, row + 1]))
    )
    x = (x - x[0] + _WORLD / 2) % _WORLD - _WORLD / 2
    pixel = max(np.hypot(x[1], y[1] - y[0]), np.hypot(x[2], y[2] - y[0]))
    west, south, east, north = outline(geobox).bounds
    # Of longitudes it is the edge, elsewhere it lies among the pixels.
    poles = max(-south, north) >= 90 and circumference(geobox.crs) is None
    if poles or not np.isfinite(pixel) or not abs(y[0]) < _WORLD / 2:
        raise InputError(f'{output}: web tiles do not reach the poles; give .gpkg.')
    edge = to_web.transform(*geobox.pix2wld(*geobox.boundary(64).T))
    if east - west > 360 or not np.isfinite(edge).all():
        raise InputError(
            f'{output}: the map reaches beyond the Earth, or once round it and further, '
            'and web tiles do not; give .gpkg, or crop the map (gdalwarp -te).'
        )
    finest = int(np.clip(np.round(np.log2(_WORLD / 256 / pixel)) - 2, 5, 16))
    return {'MINZOOM': max(finest - 6, 0), 'MAXZOOM': finest}


def _in_degrees(
    polygons: Iterator[ClassPolygon], geobox: GeoBox
) -> tuple[Iterator[ClassPolygon], CRS]:
    """Polygons of a grid that reaches beyond 180°, cut there; others as they are."""
    assert geobox.crs is not None
    crs = geobox.crs.proj
    west, _, east, _ = outline(geobox).bounds
    if west >= -180 and east <= 180:
        return polygons, crs
    to_degrees = Transformer.from_crs(crs, 'EPSG:4326', always_xy=True)
    middle = (west + east) / 2
    ends = [(_WITHIN, size - _WITHIN) for size in (geobox.width, geobox.height)]

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        pixels = geobox.wld2pix(*points.T)
        inner = [np.clip(p, *e) for p, e in zip(pixels, ends, strict=True)]
        lon, lat = to_degrees.transform(*geobox.pix2wld(*inner))
        return np.stack([lon + 360 * np.round((middle - lon) / 360), lat], axis=1)

    def turned() -> Iterator[ClassPolygon]:
        for polygon in polygons:
            shape = within_180(shapely.transform(polygon.geometry, place))
            assert isinstance(shape, shapely.Polygon | shapely.MultiPolygon)
            yield replace(polygon, geometry=shape)

    return turned(), CRS('EPSG:4326')


def _write_parquet(
    path: Path,
    polygons: Iterator[ClassPolygon],
    names: dict[int, str],
    crs: CRS,
    confidence: bool,
) -> int:
    """Stream polygons into a GeoParquet 1.0 file, a row group a batch; returns how many."""
    column = {
        'encoding': 'WKB',
        'geometry_types': ['Polygon'],
        'crs': crs.to_json_dict(),
    }
    geo = {
        'version': '1.0.0',
        'primary_column': 'geometry',
        'columns': {'geometry': column},
    }
    schema = _schema(confidence).with_metadata({'geo': json.dumps(geo)})
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch, columns in _batches(polygons, names, confidence):
            writer.write_batch(_record_batch(batch, columns, schema))
            count += len(batch)
    return count


def _schema(confidence: bool) -> pa.Schema:
    fields = [('class', pa.int32()), ('name', pa.string()), ('hectares', pa.float64())]
    if confidence:
        fields.append(('confidence', pa.float64()))
    return pa.schema([*fields, ('geometry', pa.binary())])


def _record_batch(
    batch: Sequence[ClassPolygon], columns: dict[str, list[object]], schema: pa.Schema
) -> pa.RecordBatch:
    wkb = shapely.to_wkb(np.array([p.geometry for p in batch], object)).tolist()
    return pa.RecordBatch.from_pydict({**columns, 'geometry': wkb}, schema=schema)


def _crs_text(crs: CRS) -> str:
    """A CRS as GDAL reads it, in words of WKT 1 where these are enough.

    Of WKT 2 GDAL takes UTM zones in kilometres or feet for those in metres.
    """
    epsg = crs.to_epsg()
    if epsg:
        return f'EPSG:{epsg}'
    try:
        return crs.to_wkt('WKT1_GDAL')
    except CRSError:
        return crs.to_wkt()


def _check_unit(path: Path, layer: str, crs: CRS, output: Path) -> None:
    """Refuse a file whose CRS GDAL has taken for one with a code, in another unit.

    Of FlatGeobuf it does so whatever the words.
    """
    import pyogrio

    written = pyogrio.read_info(path, layer=layer)['crs']
    unit, meant = (c.axis_info[0].unit_conversion_factor for c in (CRS(written), crs))
    if not np.isclose(unit, meant, rtol=1e-9):
        raise InputError(
            f'{output}: GDAL writes the coordinate reference system of the map as '
            f'{written}, which counts in another unit; give .gpkg or .parquet, or warp '
            f'the map (gdalwarp -r near -t_srs {written})'
        )


def _check_rows(path: Path, count: int) -> None:
    """Make sure that a file holds all of its polygons.

    Of a full disk GDAL may not tell.
    """
    import pyogrio

    try:
        with pyogrio.open_arrow(path, use_pyarrow=True) as (_, reader):
            whole = sum(len(batch) for batch in reader) == count
    except (OSError, RuntimeError, ValueError) as error:  # of pyarrow and of GDAL
        raise incomplete(path) from error
    if not whole:
        raise incomplete(path)


def _embed_style(path: Path, layer: str, count: int, qml: str) -> None:
    """Put a style into a GeoPackage, where QGIS looks for the default.

    Its index is written last, and on a full disk it is missing without a word of GDAL.
    """
    with open_geopackage(path) as database:
        (geometry,) = database.execute(
            'SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?',
            (layer,),
        ).fetchone()
        index = f'rtree_{layer}_{geometry}'.replace('"', '""')
        (indexed,) = database.execute(f'SELECT count(*) FROM "{index}"').fetchone()
        if indexed != count:
            raise incomplete(path)
        add_style(database, layer, layer, qml)
