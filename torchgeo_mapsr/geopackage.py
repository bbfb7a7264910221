# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""GeoPackages: files of SQLite, with styles inside."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError, incomplete

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


def check_closed(path: Path) -> None:
    """Refuse a GeoPackage that another program has open, or had when it crashed.

    What SQLite keeps beside it would be taken for a part of the new file, which is
    malformed then.

    Args:
        path: A file that is to be written.

    Raises:
        InputError: If such a file is beside it.
    """
    if path.suffix.lower() != '.gpkg':
        return
    for end in ('-wal', '-shm', '-journal'):
        beside = path.with_name(path.name + end)
        if beside.exists():
            raise InputError(
                f'{path} is open in another program, QGIS for instance, which keeps '
                f'{beside.name} beside it: close it there and run the same command again '
                '(of one that crashed, open and close it once)'
            )


def write_geopackage(
    frame: 'GeoDataFrame', path: str | os.PathLike[str], layer: str
) -> None:
    """Write a GeoPackage of one layer.

    It is made in memory: of writes that fail, of a full disk, GDAL hides some and hands
    others on as errors of its own.

    Args:
        frame: Its rows.
        path: The file.
        layer: Name of the layer.

    Raises:
        OSError: If the file cannot be written.
    """
    content = BytesIO()
    frame.to_file(content, layer=layer, driver='GPKG', engine='pyogrio')
    Path(path).write_bytes(content.getbuffer())


@contextmanager
def open_geopackage(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    """A GeoPackage as the database that it is.

    Args:
        path: The file.

    Yields:
        The database. What is done to it is kept if the block succeeds.

    Raises:
        OSError: If it cannot be written, or is not whole.
    """
    try:
        with closing(sqlite3.connect(path)) as database, database:
            yield database
    except sqlite3.DatabaseError as error:
        raise incomplete(path) from error


def add_style(
    database: sqlite3.Connection, layer: str, name: str, qml: str, description: str = ''
) -> None:
    """Put a style where QGIS looks for the default one of a layer.

    Args:
        database: A GeoPackage without styles.
        layer: The layer.
        name: Name of the style.
        qml: The style, in QGIS's language.
        description: What QGIS says of it.
    """
    (geometry,) = database.execute(
        'SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?', (layer,)
    ).fetchone()
    # The table as QGIS makes it, where the time has a default.
    database.execute(
        'CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, '
        'f_table_catalog TEXT, f_table_schema TEXT, f_table_name TEXT, '
        'f_geometry_column TEXT, styleName TEXT, styleQML TEXT, styleSLD TEXT, '
        'useAsDefault BOOLEAN, description TEXT, owner TEXT, ui TEXT, '
        'update_time DATETIME DEFAULT CURRENT_TIMESTAMP)'
    )
    # A fixed time, so that the same features give the same file.
    time = '1970-01-01T00:00:00.000Z'
    database.execute(
        "INSERT INTO layer_styles VALUES (1, '', '', ?, ?, ?, ?, '', 1, ?, '', '', ?)",
        (layer, geometry, name, qml, description, time),
    )
    database.execute(
        'INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change) '
        "VALUES ('layer_styles', 'attributes', 'layer_styles', ?)",
        (time,),
    )
