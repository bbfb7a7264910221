# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What QGIS makes of files: run by the Python that QGIS belongs to, never imported.

Usage: python3 qgis_layers.py PICTURE FILE...: prints a JSON list with the legend of each
file as QGIS loads it by itself, and draws the files over one another, the last on top.
"""

import json
import os
import sys

os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')

from qgis.core import (
    QgsApplication,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def legend_of(layer: QgsMapLayer) -> dict[str, object]:
    """Renderer and (label, colour) of each entry."""
    renderer = layer.renderer()
    if isinstance(layer, QgsVectorLayer):
        entries = [
            [item.label(), item.symbol().color().name()] if item.symbol() else None
            for item in (
                renderer.categories() if hasattr(renderer, 'categories') else []
            )
        ]
    else:
        entries = [
            [str(label), c.name()] for label, c in renderer.legendSymbologyItems()
        ]
    return {'type': renderer.type(), 'entries': entries, 'valid': layer.isValid()}


def main(picture: str, paths: list[str]) -> None:
    application = QgsApplication([], False)
    application.initQgis()
    layers = []
    for path in paths:
        name = os.path.basename(path)
        vector = path.endswith(('.gpkg', '.fgb', '.geojson'))
        kind = QgsVectorLayer if vector else QgsRasterLayer
        layer = kind(path, name)
        if vector:
            layer.loadDefaultStyle()
        layers.append(layer)
    if picture:
        settings = QgsMapSettings()
        settings.setLayers(layers[::-1])
        settings.setDestinationCrs(layers[0].crs())
        settings.setExtent(layers[0].extent())
        settings.setOutputSize(QSize(800, 800))
        settings.setBackgroundColor(QColor('white'))
        job = QgsMapRendererParallelJob(settings)
        job.start()
        job.waitForFinished()
        job.renderedImage().save(picture)
    sys.stdout.write(json.dumps([legend_of(layer) for layer in layers]) + '\n')


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
    sys.stdout.flush()
    # QGIS may crash while it tears itself down without exitQgis, and with it.
    os._exit(0)
