# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a job writes, and that it writes over nothing."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputError
from .config import MapJob


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
        return self.map.with_name(f'{self.map.stem}_confidence.tif')

    @property
    def scores(self) -> Path:
        """Probability of every class."""
        return self.map.with_name(f'{self.map.stem}_scores.tif')

    @property
    def sidecar(self) -> Path:
        """Category names of the map."""
        return self.map.with_name(f'{self.map.name}.aux.xml')

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
    """

    maps: tuple[Output, ...]
    report: Path
    work: Path

    @classmethod
    def of(cls, job: MapJob, imagery: Sequence[str]) -> 'Outputs':
        """Name a job's outputs.

        Args:
            job: The job; its *output* is a folder if it ends with a slash, is one
                already, or has no suffix.
            imagery: The files of imagery.

        Raises:
            InputError: If *output* is neither a folder nor a .tif, or if two files of
                imagery have the same name.
        """
        given = os.fspath(job.output)
        path = Path(given)
        if not (given.endswith(('/', os.sep)) or path.is_dir() or not path.suffix):
            if path.suffix.lower() not in {'.tif', '.tiff'}:
                raise InputError(
                    f'--output {given} is neither a .tif file nor a folder.'
                )
            mosaic = (Output(tuple(imagery), path),)
            work = path.with_name(f'{path.name}.parts')
            return cls(mosaic, path.with_suffix('.json'), work)
        stems = [PurePosixPath(file.split('?')[0]).stem for file in imagery]
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
        return cls(maps, path / 'report.json', path / 'torchgeo-mapsr.parts')

    def files(self, job: MapJob) -> list[Path]:
        """All files that *job* writes."""
        files = []
        for output in self.maps:
            files += [output.map, output.sidecar, output.panel]
            files += [output.confidence] * job.confidence
            files += [output.scores] * job.scores
        files.append(self.report)
        if job.save_model is not None:
            files.append(job.save_model)
        return files

    def check(self, job: MapJob, ours: Iterable[str] = ()) -> None:
        """Make sure that nothing is written over.

        Args:
            job: The job.
            ours: Files that this very work has written before it was interrupted.

        Raises:
            InputError: If an output is an input, if two outputs have one name, or if
                an output exists and the job does not say to overwrite it.
        """
        files = [path.absolute() for path in self.files(job)]
        path, count = Counter(files).most_common(1)[0]
        if count > 1:
            raise InputError(f'Two outputs would be called {path}; rename the imagery.')
        given = (*job.imagery, *job.labels, job.weights, job.model, *job.checkpoint)
        inputs = {Path(name).resolve() for name in given if name is not None}
        inputs |= {Path(name).resolve() for o in self.maps for name in o.imagery}
        for path in files:
            if path.resolve() in inputs:
                raise InputError(
                    f'{path} is an input and would be overwritten; '
                    'give another --output.'
                )
        known = set(ours)
        for path in files:
            if path.exists() and not job.overwrite and str(path) not in known:
                raise InputError(
                    f'{path} exists; give another --output, or --overwrite.'
                )
