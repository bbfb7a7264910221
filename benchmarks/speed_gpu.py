# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Half precision and compiled networks, on whatever device is present."""

import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.mapping.extractor import Extractor, device_of
from torchgeo_mapsr.models.backbones.create import create_backbone

from .measure import Forwards, now, ratio
from .speed_scenes import VIT, VIT_L, fitted, made, run

_EVERY = 0.2
_QUERY = ('--query-gpu=utilization.gpu', '--format=csv,noheader,nounits')


def measure(
    folder: Path,
    size: int = 4096,
    specs: Sequence[str] = (VIT, VIT_L),
    precisions: Sequence[str] = ('fp32', 'bf16'),
    compiled: Sequence[bool] = (False, True),
    chip: int = 448,
    repeats: int = 50,
) -> dict[str, Any]:
    """The whole map pass over the bare backbone, for each way to run it.

    Args:
        folder: Where scenes and maps are put.
        size: Side of the scene in metres and pixels.
        specs: Backbones.
        precisions: Arithmetics.
        compiled: Whether networks are compiled.
        chip: Side of a chip.
        repeats: Chips that the bare backbone is timed on.
    """
    scene = made(folder, size)
    device = device_of('auto')
    rows = []
    for spec in specs:
        fit = fitted(scene, folder, spec, chip_size=chip)
        for precision in precisions:
            for compile_ in compiled:
                bare = _bare(scene.imagery, spec, precision, compile_, chip, repeats)
                with Forwards() as forwards, _utilisation() as busy:
                    whole = run(
                        scene,
                        folder,
                        model=fit,
                        precision=precision,
                        compile=compile_,
                        chip_size=chip,
                    )
                assert forwards.first is not None
                # The first chip's forward has the time of compiling in it.
                spent = whole.start + whole.seconds - forwards.first
                spent -= forwards.seconds[0]
                chips = len(forwards.seconds) - 1
                rows.append(
                    {
                        'backbone': spec,
                        'precision': precision,
                        'compiled': compile_,
                        'bare_chips_a_second': round(1 / bare, 3),
                        'chips_a_second': round(chips / spent, 3),
                        'share_of_bare': ratio(chips / spent, 1 / bare),
                        'overhead': ratio(spent - bare * chips, bare * chips),
                        'km2_a_second': ratio(size**2 / 1e6, spent),
                        'first_chip_seconds': round(forwards.seconds[0], 2),
                        'gpu_percent': round(float(np.mean(busy)), 1) if busy else None,
                    }
                )
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else None
    return {'device': name or device.type, 'size': size, 'chip': chip, 'rows': rows}


def _bare(
    imagery: Path, spec: str, precision: str, compiled: bool, chip: int, repeats: int
) -> float:
    """Seconds a chip of the backbone alone, on one chip that is on the device."""
    images = Imagery([str(imagery)])
    image, _ = images.read(images.geobox[:chip, :chip])
    device = device_of('auto')
    backbone = create_backbone(spec, len(image), dtype='uint8').to(device)
    if compiled:
        backbone.compile()
    extractor = Extractor(backbone, device, precision)
    for _ in range(3):
        extractor(image)
    start = now()
    for _ in range(repeats):
        extractor(image)
    return (now() - start) / repeats


@contextmanager
def _utilisation() -> Iterator[list[float]]:
    """Per cent of time that a GPU is busy, as nvidia-smi says; empty without one."""
    samples: list[float] = []
    program = shutil.which('nvidia-smi') if torch.cuda.is_available() else None
    stop = threading.Event()

    def watch(program: str) -> None:
        while not stop.wait(_EVERY):
            said = subprocess.run(
                [program, *_QUERY], capture_output=True, text=True, check=False
            ).stdout.split()
            samples.extend(float(value) for value in said[:1])

    if program is None:
        yield samples
        return
    thread = threading.Thread(target=watch, args=(program,))
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
