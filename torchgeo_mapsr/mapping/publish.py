# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""From finished tiles to files with their final names."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..datasets.geo.areas import PixelAreas, pixel_sides
from ..datasets.geo.plan import Plan, Tile
from ..datasets.legends.legend import Legend
from ..evaluation.consistency import MapSummary, summarise
from .cog import Layer, map_codes, map_nodata, write_cog
from .inputs import Inputs
from .mapping_unit import MappingUnit
from .outputs import Outputs
from .polygons import polygonise
from .progress import Stopwatch
from .store import WorkStore
from .style import (
    drop_sidecars,
    sidecar_of,
    write_class_styles,
    write_confidence_styles,
)
from .sweep import score_of


def publish(
    store: WorkStore,
    outputs: Outputs,
    number: int,
    plan: Plan,
    inputs: Inputs,
    watch: Stopwatch,
    min_area: float = 0.0,
) -> MapSummary:
    """Put the tiles of a map together, and give all files of it their names at once.

    What one core does is done side by side: the map is counted while further files are
    written, or drawn.

    Args:
        store: Where the tiles are.
        outputs: What is written.
        number: Number of the map, there and in the store.
        plan: Its tiles.
        inputs: What it was made of.
        watch: Counts the time.
        min_area: Minimum mapping unit in square metres; 0 for none.

    Returns:
        What the map holds.

    Raises:
        OSError: If a file could not be written.
    """
    target, output = inputs.target, outputs.maps[number]
    every = {
        'classes': (output.map, Layer.classes(target, map_nodata(target))),
        'confidence': (output.confidence, Layer.confidence()),
        'scores': (output.scores, Layer.scores(target)),
    }
    names = store.tiles.names(number, plan.tiles()[0])
    layers = {
        name: layer
        for name, layer in every.items()
        if name in names and (outputs.scores or name != 'scores')
    }
    scratch = {name: store.scratch(path.name) for name, (path, _) in layers.items()}

    generalised = None
    if min_area > 0:
        with watch('generalise'):
            generalised = _Generalised.of(store, number, plan, target, min_area)

    def write(name: str) -> None:
        def load(tile: Tile) -> NDArray[np.uint8]:
            if generalised is not None and name != 'scores':
                return generalised.load(tile, name)
            return store.tiles.load(number, tile, name)

        with watch('write'):
            write_cog(scratch[name], plan.geobox, layers[name][1], plan.tiles(), load)

    def count() -> MapSummary:
        written['classes'].result()
        with watch('report'):
            return summarise(
                scratch['classes'], target, inputs.labels, inputs.crosswalk
            )

    def draw() -> None:
        # Matplotlib is not needed before a picture is drawn.
        from ..evaluation.panel import save_panel

        for future in written.values():
            future.result()
        with watch('report'):
            save_panel(
                store.scratch(output.panel.name),
                scratch['classes'],
                target,
                inputs.images[number],
                inputs.labels,
                inputs.crosswalk,
                scratch.get('confidence'),
            )

    # What waits for a file is begun after it, so that none waits for ever.
    with ThreadPoolExecutor(2, 'publish') as pool:
        written = {name: pool.submit(write, name) for name in layers}
        counted, drawn = pool.submit(count), pool.submit(draw)
        drawn.result()
        summary = counted.result()
    output.map.parent.mkdir(parents=True, exist_ok=True)
    if outputs.polygons is not None:
        publish_polygons(
            store,
            outputs.polygons,
            scratch['classes'],
            target,
            scratch.get('confidence'),
            watch,
        )
    _give_names(store, outputs, number, target, scratch)
    return summary


def publish_polygons(
    store: WorkStore,
    path: Path,
    classes: Path,
    target: Legend,
    confidence: Path | None,
    watch: Stopwatch,
) -> None:
    """Write the polygons of a map.

    Args:
        store: Where they are put together.
        path: Their file.
        classes: The map.
        target: Its legend.
        confidence: Its confidence, if there is one.
        watch: Counts the time.
    """
    scratch = store.scratch(path.name)
    with watch('polygons'):
        polygonise(classes, scratch, target, confidence, layer=path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.publish(scratch, path)


def _give_names(
    store: WorkStore,
    outputs: Outputs,
    number: int,
    target: Legend,
    scratch: Mapping[str, Path],
) -> None:
    """Give all files of a map their names, the map itself last: then the rest is there.

    Args:
        store: Where they were put together.
        outputs: What is written.
        number: Number of the map.
        target: Its legend.
        scratch: Its layers as they were put together: ``classes``, and ``confidence`` and
            ``scores`` where they are written.
    """
    output = outputs.maps[number]
    styles = list(output.styles)
    qml, sld = map(store.scratch, (path.name for path in styles))
    write_class_styles(output.map, target, qml, sld)
    if 'confidence' in scratch:
        styles += output.confidence_styles
        qml, sld = map(store.scratch, (path.name for path in output.confidence_styles))
        write_confidence_styles(output.confidence, qml, sld)
    for path in styles:
        store.publish(store.scratch(path.name), path)
    store.publish(store.scratch(output.panel.name), output.panel)
    if store.overwrite:
        for path in (output.map, output.confidence, output.scores):
            drop_sidecars(path)
        for path in outputs.others(output):
            path.unlink(missing_ok=True)
    for name, path in (('scores', output.scores), ('confidence', output.confidence)):
        if name in scratch:
            store.publish(scratch[name], path)
    store.publish(sidecar_of(scratch['classes']), output.sidecar)
    store.publish(scratch['classes'], output.map)


@dataclass(frozen=True)
class _Generalised:
    """Tiles of a map whose patches are as large as a minimum mapping unit.

    Args:
        store: Where the tiles are.
        number: Number of the map in the store.
        target: Its legend.
        unit: What becomes of its patches; its windows are the tiles.
    """

    store: WorkStore
    number: int
    target: Legend
    unit: MappingUnit

    @classmethod
    def of(
        cls, store: WorkStore, number: int, plan: Plan, target: Legend, min_area: float
    ) -> Self:
        """Find the patches.

        Args:
            store: Where the tiles are.
            number: Number of the map in the store.
            plan: Its tiles.
            target: Its legend.
            min_area: Least area of a patch in square metres.
        """
        grid = plan.geobox

        def read(rows: slice, cols: slice) -> NDArray[np.int64]:
            tile = Tile(rows.start // plan.tile, cols.start // plan.tile, rows, cols)
            return target.index(store.tiles.load(number, tile, 'classes'))

        unit = MappingUnit.scan(
            read,
            grid.shape.yx,
            PixelAreas(grid),
            min_area,
            plan.tile,
            sides=pixel_sides(grid),
        )
        return cls(store, number, target, unit)

    def load(self, tile: Tile, name: str) -> NDArray[np.uint8]:
        """The classes of a tile, or the score of each.

        Args:
            tile: The tile.
            name: ``classes`` or ``confidence``.
        """
        load = self.store.tiles.load
        before = self.target.index(load(self.number, tile, 'classes'))
        index = self.unit.apply(tile.rows, tile.cols, before)
        if name == 'confidence':
            return score_of(load(self.number, tile, 'scores'), index)
        return map_codes(self.target)[index]
