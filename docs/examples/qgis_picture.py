# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What QGIS shows of a map when it is opened, as a picture.

Run it with the Python that QGIS belongs to (on Debian /usr/bin/python3), in an environment
without another Python's paths::

    python3 qgis_picture.py qgis.png imagery.tif landcover.tif landcover_polygons.gpkg

Each file is loaded as a person would by dragging it into QGIS, and gets a frame; nothing is
styled here. The legend is that of all layers but images of several bands.
"""

import os
import sys

os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')

from qgis.core import (
    QgsApplication,
    QgsLayoutExporter,
    QgsLayoutItemLabel,
    QgsLayoutItemLegend,
    QgsLayoutItemMap,
    QgsLayoutMeasurement,
    QgsLayoutPoint,
    QgsLayoutSize,
    QgsPrintLayout,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)

# Millimetres of a frame's side, of the gap beside it, and of the legend.
SIDE, GAP, LEGEND = 80.0, 4.0, 95.0


def main(picture: str, paths: 'list[str]') -> None:
    """Draw files side by side.

    Args:
        picture: PNG file to write.
        paths: Rasters, and vectors with their style inside.
    """
    application = QgsApplication([], False)
    application.initQgis()
    project = QgsProject.instance()
    layout = QgsPrintLayout(project)
    layout.initializeDefaults()
    page = layout.pageCollection().page(0)
    width = len(paths) * (SIDE + GAP) + GAP + LEGEND
    page.setPageSize(QgsLayoutSize(width, SIDE + 2 * GAP + 6))
    layers = []
    for i, path in enumerate(paths):
        name = os.path.splitext(os.path.basename(path))[0]
        if path.endswith(('.gpkg', '.fgb')):
            layer = QgsVectorLayer(path, name)
            layer.loadDefaultStyle()
        else:
            layer = QgsRasterLayer(path, name)
        project.addMapLayer(layer)
        layers.append(layer)
        if i == 0:
            project.setCrs(layer.crs())
        frame = QgsLayoutItemMap(layout)
        frame.attemptMove(QgsLayoutPoint(GAP + i * (SIDE + GAP), GAP + 6))
        frame.attemptResize(QgsLayoutSize(SIDE, SIDE))
        frame.setCrs(layers[0].crs())
        frame.setLayers([layer])
        frame.setExtent(layers[0].extent())
        frame.setFrameEnabled(True)
        frame.setFrameStrokeWidth(QgsLayoutMeasurement(0.2))
        layout.addLayoutItem(frame)
        label = QgsLayoutItemLabel(layout)
        label.setText(os.path.basename(path))
        label.attemptMove(QgsLayoutPoint(GAP + i * (SIDE + GAP), GAP))
        label.attemptResize(QgsLayoutSize(SIDE, 6))
        layout.addLayoutItem(label)
    legend = QgsLayoutItemLegend(layout)
    legend.setAutoUpdateModel(False)
    for layer in layers:
        if isinstance(layer, QgsRasterLayer) and layer.bandCount() > 1:
            legend.model().rootGroup().removeLayer(layer)  # bands of an image
    legend.attemptMove(QgsLayoutPoint(GAP + len(paths) * (SIDE + GAP), GAP + 6))
    layout.addLayoutItem(legend)
    layout.refresh()
    settings = QgsLayoutExporter.ImageExportSettings()
    settings.dpi = 110
    QgsLayoutExporter(layout).exportToImage(picture, settings)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
    # QGIS may crash while it tears itself down without exitQgis, and with it.
    os._exit(0)
