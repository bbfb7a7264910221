# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What rasters are called: on disks, in folders, in archives and in catalogues."""

import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath

from ...errors import InputError
from .zarr import is_zarr, zarr_store

PathLike = str | os.PathLike[str]

#: What rasters of folders and archives end with.
SUFFIXES = ('.tif', '.tiff', '.vrt', '.img', '.jp2')

# Names of files in an archive begin so.
_ARCHIVED = '/vsizip/{'

# Drivers and file systems of GDAL and rasterio stand before the name of a file, members of
# it and variables after it.
_LAST_PART = re.compile(r'[/\\:!"}][^/\\:!"}]*\Z')
_BEFORE_A_FILE = re.compile(r'\A(file|zip|tar|gzip)://|\A(/vsi\w+/|\w+:\d+:|\w+:)+')

# Folders of work, see mapping.outputs.
_UNFINISHED = re.compile(r'(\.tiff?|\Atorchgeo-mapsr)\.parts\Z', re.IGNORECASE)


def list_rasters(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """Name rasters, without opening them.

    Args:
        paths: What :func:`~torchgeo_mapsr.datasets.geo.raster.open_rasters` takes.

    Raises:
        InputError: There is none.
    """
    names: list[str] = []
    given: object = paths
    if not isinstance(given, os.PathLike | Iterable):
        raise InputError(f'a raster is a path, not {type(given).__name__}')
    for path in [paths] if isinstance(paths, str | bytes | os.PathLike) else paths:
        name = text_of(path)
        if name.lower().endswith('.zip') and os.path.isfile(name):
            names.extend(_members(name))
        elif os.path.isdir(name) and not is_zarr(name):
            try:
                content = rasters_in(Path(name))
            except OSError as error:
                raise InputError(
                    f'{name}: cannot be read ({error.strerror}); check the folder'
                ) from None
            if not content:
                raise InputError(
                    f'{name}: the folder holds no rasters ({", ".join(SUFFIXES)})'
                )
            names.extend(map(str, content))
        else:
            names.append(name)
    if not names:
        raise InputError('no raster files were given')
    return names


def distinct_names(paths: Sequence[PathLike]) -> list[str]:
    """What files are called in tables, strata and names of bands.

    Args:
        paths: The files.

    Returns:
        The name of each without suffix, with as much of its folders as tells all apart;
        with the suffix, where only that does; and numbers where nothing does.

    >>> distinct_names(['2019/a.tif', '2024/a.tif'])
    ['2019/a', '2024/a']
    """
    files = [PurePosixPath(os.fspath(path).partition('?')[0]) for path in paths]
    for each in ([file.with_suffix('') for file in files], files):
        parts = [path.parts for path in each]
        for count in range(1, max(map(len, parts), default=0) + 1):
            names = ['/'.join(part[-count:]) for part in parts]
            if len(set(names)) == len(names):
                return names
    return [str(number) for number in range(1, len(files) + 1)]


def rasters_in(folder: Path) -> list[Path]:
    """The rasters of a folder and of those in it, but for hidden and unfinished ones.

    Args:
        folder: The folder.
    """
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in SUFFIXES and not _is_hidden(path.relative_to(folder))
    )


def _members(name: str) -> list[str]:
    """Names of the rasters of a ZIP archive, as GDAL opens them.

    Raises:
        InputError: It has none, or is no archive.
    """
    try:
        with zipfile.ZipFile(name) as archive:
            members = sorted(
                member
                for member in archive.namelist()
                if member.lower().endswith(SUFFIXES)
                and not _is_hidden(PurePosixPath(member))
            )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f'{name}: cannot be read as a ZIP archive ({error})') from None
    if not members:
        raise InputError(
            f'{name}: the archive holds no rasters ({", ".join(SUFFIXES)})'
        )
    return [f'{_ARCHIVED}{name}}}/{member}' for member in members]


def _is_hidden(path: PurePath) -> bool:
    """Whether a file, or a folder that it lies in, is hidden.

    They hold no raster of a person's: macOS puts a ``._NAME.tif`` of other content beside
    each file on foreign disks and in archives, notebooks keep copies, and what is being
    written has a hidden name. Unfinished work of the command lies in ``NAME.tif.parts``.
    """
    return any(
        part.startswith('.') or part == '__MACOSX' or _UNFINISHED.search(part)
        for part in path.parts
    )


def local_file(name: str) -> str:
    """What holds a raster on this machine: itself, its archive or its store.

    Args:
        name: What :func:`~torchgeo_mapsr.datasets.geo.opened.open_raster` opens.
    """
    if name.startswith(_ARCHIVED):
        return name.removeprefix(_ARCHIVED).partition('}')[0]
    store = zarr_store(name)
    if store or os.path.exists(name):
        return store or name
    # /vsizip/a.zip/b.tif, NETCDF:"a.nc":band, zip://a.zip!/b.tif
    inner = _BEFORE_A_FILE.sub('', name).strip('{"')
    while not os.path.isfile(inner):
        inner, shorter = _LAST_PART.subn('', inner)
        if not shorter:
            return name
    return inner


def text_of(path: PathLike | bytes) -> str:
    """A path as text that GDAL and rasterio take.

    Args:
        path: A path.

    Raises:
        InputError: If it is none.
    """
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise InputError(f'a raster is a path, not {type(path).__name__}') from None
    if not name or '\0' in name:
        raise InputError(f'{name!r} is no path of a raster; name a file or a folder')
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f'{name.encode(errors="backslashreplace").decode()}: the name is not UTF-8; '
            'rename the file'
        ) from None
    return name
