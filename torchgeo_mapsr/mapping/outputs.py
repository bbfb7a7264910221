# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a job writes, and that it writes over nothing."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..arguments import check_local
from ..datasets.geo.vector import check_vector_name
from ..errors import InputError
from ..evaluation.class_maps import layer_path
from ..geopackage import check_closed
from .style import sidecar_of, style_paths


@dataclass(frozen=True)
class Output:
    """A map and what lies beside it.

    Args:
        imagery: Files that it is made of.
        map: The class map.
    """

    imagery: tuple[str, ...]
    map: Path

    @property
    def confidence(self) -> Path:
        """Probability of the mapped class."""
        return layer_path(self.map, 'confidence')

    @property
    def scores(self) -> Path:
        """Probability of every class."""
        return layer_path(self.map, 'scores')

    @property
    def sidecar(self) -> Path:
        """Category names of the map."""
        return sidecar_of(self.map)

    @property
    def styles(self) -> tuple[Path, Path]:
        """Styles of the map, for QGIS and others."""
        return style_paths(self.map)

    @property
    def confidence_styles(self) -> tuple[Path, Path]:
        """Styles of the confidence."""
        return style_paths(self.confidence)

    @property
    def panel(self) -> Path:
        """Picture of the result."""
        return self.map.with_suffix('.png')


@dataclass(frozen=True)
class Outputs:
    """Everything that a job writes.

    Args:
        maps: One map a file of imagery, or one mosaic.
        report: The run's report.
        work: Folder of unfinished work.
        confidence: Whether the probability of the mapped class is written.
        scores: Whether the probability of every class is.
        html: Whether a page of all maps is.
        polygons: Where the polygons of the one map are, if anywhere.
    """

    maps: tuple[Output, ...]
    report: Path
    work: Path
    confidence: bool = True
    scores: bool = False
    html: bool = False
    polygons: Path | None = None

    @classmethod
    def of(
        cls,
        output: str | Path,
        imagery: Sequence[str],
        confidence: bool = True,
        scores: bool = False,
        html: bool = False,
        polygons: Path | None = None,
    ) -> 'Outputs':
        """Name what is written.

        Args:
            output: The map, a .tif; or a folder, if it ends with a slash, is one
                already, or has no suffix.
            imagery: The files of imagery.
            confidence: Whether the probability of the mapped class is written.
            scores: Whether the probability of every class is.
            html: Whether a page of all maps is.
            polygons: Where the polygons of the one map are, if anywhere.

        Raises:
            InputError: If *output* is neither a folder nor a .tif, if two files of
                imagery have the same name, if there would be polygons of several maps,
                or if it is an address.
        """
        check_local(output)
        name = os.fspath(output)
        path = Path(name)
        if not _is_folder(name):
            if path.suffix.lower() not in {'.tif', '.tiff'}:
                raise InputError(
                    f'--output {name} is neither a .tif file nor a folder.'
                )
            mosaic = (Output(tuple(imagery), path),)
            report = path.with_suffix('.json')
            work = path.with_name(f'{path.name}.parts')
            return cls(mosaic, report, work, confidence, scores, html, polygons)
        # The last part of a path of this system, or of an address.
        stems = [Path(os.path.basename(file.split('?')[0])).stem for file in imagery]
        stem, count = Counter(stems).most_common(1)[0]
        if count > 1:
            raise InputError(
                f'{count} files of imagery are called {stem}; their maps would have '
                'the same name. Rename them, or give a file name after --output to '
                'write one mosaic.'
            )
        maps = tuple(
            Output((file,), path / f'{stem}.tif')
            for file, stem in zip(imagery, stems, strict=True)
        )
        if polygons is not None and len(maps) > 1:
            raise InputError(
                '--polygons is of one map: give a .tif after --output, or export each '
                'map (torchgeo-mapsr export).'
            )
        report, work = path / 'report.json', path / 'torchgeo-mapsr.parts'
        return cls(maps, report, work, confidence, scores, html, polygons)

    def only(self, numbers: Sequence[int]) -> 'Outputs':
        """The outputs of some maps.

        Args:
            numbers: Their places among the maps.
        """
        return replace(self, maps=tuple(self.maps[i] for i in numbers))

    @property
    def page(self) -> Path:
        """The page of all maps, beside the report."""
        return self.report.with_suffix('.html')

    def others(self, output: Output) -> list[Path]:
        """Layers of a map that are not written: what bears their names is of another map.

        Whoever reads a map looks for them by their names.

        Args:
            output: The map.
        """
        files = []
        if not self.confidence:
            files += [output.confidence, *output.confidence_styles]
        return files + [output.scores] * (not self.scores)

    @property
    def taken(self) -> list[Path]:
        """All names that no other file may have: of what is written, and of :meth:`others`."""
        return self.files + [path for o in self.maps for path in self.others(o)]

    @property
    def files(self) -> list[Path]:
        """All files that are written."""
        files = []
        for output in self.maps:
            files += [output.map, output.sidecar, *output.styles, output.panel]
            if self.confidence:
                files += [output.confidence, *output.confidence_styles]
            files += [output.scores] * self.scores
        files += [] if self.polygons is None else [self.polygons]
        return [*files, self.report, *[self.page] * self.html]


def without_outputs(
    files: Sequence[str], output: str | Path, named: Sequence[str]
) -> list[str]:
    """Leave out what a job itself has written into a folder of its imagery.

    Args:
        files: Files of imagery, those in folders too.
        output: The map, or the folder of maps.
        named: The files and folders that were given: a file that was is imagery.

    Returns:
        The others.
    """
    name, path = os.fspath(output), Path(os.path.realpath(output))
    if _is_folder(name):
        # The whole folder holds outputs, unless the imagery itself lies in it.
        if any(path == Path(p) or path in Path(p).parents for p in _real(named)):
            return list(files)
        ours = {
            f
            for f, real in zip(files, _real(files), strict=True)
            if path in Path(real).parents
        }
    else:
        own = Output((), path)
        layers = {str(layer) for layer in (own.map, own.confidence, own.scores)}
        ours = {
            f for f, real in zip(files, _real(files), strict=True) if real in layers
        }
    return [file for file in files if file not in ours or file in named]


def _real(files: Sequence[str]) -> list[str]:
    """Files in their real folders."""
    folders = {os.path.dirname(file): '' for file in files}
    folders = {folder: os.path.realpath(folder) for folder in folders}
    return [
        os.path.join(folders[os.path.dirname(file)], os.path.basename(file))
        for file in files
    ]


def _is_folder(output: str) -> bool:
    """Whether an output is a folder of maps."""
    path = Path(output)
    return output.endswith(('/', os.sep)) or path.is_dir() or not path.suffix


def check_outputs(
    outputs: Sequence[Path],
    inputs: Iterable[str | Path],
    overwrite: bool,
    ours: Iterable[str] = (),
) -> None:
    """Make sure that nothing is written over.

    Args:
        outputs: All files that will be written.
        inputs: All files that are read.
        overwrite: Whether outputs that exist may be replaced.
        ours: Files that this very work has written before it was interrupted.

    Raises:
        InputError: If an output is an input, if two outputs have one name, if an output
            exists and may not be replaced or is open elsewhere, or if its folder cannot
            be written to.
    """
    files = [path.absolute() for path in outputs]
    # One folder may have two names.
    places = [path.parent.resolve() / path.name for path in files]
    path, count = Counter(places).most_common(1)[0]
    if count > 1:
        raise InputError(f'Two outputs would be called {path}; rename the imagery.')
    sources = {Path(name).resolve() for name in inputs}
    for path in files:
        if path.resolve() in sources:
            raise InputError(
                f'{path} is an input and would be overwritten; give another --output.'
            )
    published = set(ours)
    for path in outputs:
        check_vector_name(path)
        check_closed(path)
    for path in files:
        if path.is_dir():
            raise InputError(f'{path} is a folder; give another --output.')
        # Also a link that leads nowhere.
        if os.path.lexists(path) and not overwrite and str(path) not in published:
            raise InputError(f'{path} exists; give another --output, or --overwrite.')
    for folder in dict.fromkeys(path.parent for path in files):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise InputError(f'{there} is no folder; give another --output.')
        # Or it is found out when everything is done. (Root may not be told.)
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f'{there} cannot be written to; give another --output.')
