# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make the zip that QGIS's plugin manager takes: ``python qgis_plugin/package.py [FILE]``."""

import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

PLUGIN = Path(__file__).parent / 'torchgeo_mapsr_qgis'
SUFFIXES = ('.py', '.txt', '.svg')


def package(output: Path) -> list[str]:
    """Write the zip; the same files give the same bytes.

    Args:
        output: The zip.

    Returns:
        Names of the files in it.
    """
    files = sorted(p for p in PLUGIN.rglob('*') if p.suffix in SUFFIXES)
    files.append(Path(__file__).parents[1] / 'LICENSE')
    names = []
    with ZipFile(output, 'w', ZIP_DEFLATED) as archive:
        for file in files:
            inside = file.relative_to(PLUGIN) if PLUGIN in file.parents else file.name
            entry = ZipInfo(f'{PLUGIN.name}/{inside}', (2000, 1, 1, 0, 0, 0))
            entry.compress_type = ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())
            names.append(entry.filename)
    return names


if __name__ == '__main__':
    package(Path(sys.argv[1] if len(sys.argv) > 1 else 'torchgeo_mapsr_qgis.zip'))
