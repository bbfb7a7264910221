# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Options of the stages of a map; those of a fit are :mod:`..models.head.options`."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..arguments import check_choice, check_range
from ..models.head.options import SCORES


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Which frozen features there are.

    Args:
        spec: Spec of the backbone, see
            :func:`~torchgeo_mapsr.models.backbones.create.create_backbone`.
        weights: Its weight file.
    """

    spec: str = 'rcf'
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How pixels are scored; what is None is as the fit says.

    Args:
        score: What scores a pixel, see :class:`~torchgeo_mapsr.models.head.head.Head`.
        prior: Weight of the LR labels.
        upsampler: How values get from tokens to pixels: bilinear or bilateral.
        propagate: Spec of the spatial refinement: none, tokens, superpixels, pixels or
            published, with its constants as options:
            ``superpixels?neighbours=100&alpha=0.5``.
        calibrate: Whether the confidence is calibrated; no class depends on it.
    """

    score: str | None = None
    prior: float | None = None
    upsampler: str | None = None
    propagate: str | None = None
    calibrate: bool | None = None

    def __post_init__(self) -> None:
        """Check the words, before a fit takes its time."""
        if self.score is not None:
            check_choice('score', self.score, SCORES)
        # The modules that know these words take seconds to import.
        if self.upsampler is not None:
            from ..models.model import UPSAMPLERS

            check_choice('upsampler', self.upsampler, UPSAMPLERS)
        if self.propagate not in (None, 'none'):
            from ..models.propagation.propagation import parse_propagation

            parse_propagation(self.propagate)


@dataclass(frozen=True, kw_only=True)
class ChipOptions:
    """What is looked at, and written, at once.

    Args:
        size: Side of a chip, in pixels.
        overlap: Pixels that chips share; None for what the backbone needs.
        tile_size: Side of a tile, in pixels.
    """

    size: int = 448
    overlap: int | None = None
    tile_size: int = 2048

    def __post_init__(self) -> None:
        """Check that they are counts."""
        for name, least in (('size', 1), ('overlap', 0), ('tile_size', 1)):
            value = getattr(self, name)
            if value is not None:
                check_range(name, value, least, whole=True)


@dataclass(frozen=True, kw_only=True)
class PostprocessOptions:
    """What is done to the classes of a map that was scored.

    Args:
        reweight: Weights by which scores of classes are multiplied before the best is
            taken, ``CLASS=WEIGHT`` each (Malkin et al. 2019, appendix E); a mapping
            will do.
        min_area: Minimum mapping unit in square metres: smaller patches go to the class
            that they share the longest edge with.
    """

    reweight: tuple[str, ...] = ()
    min_area: float = 0.0

    def __post_init__(self) -> None:
        weights = self.reweight
        if isinstance(weights, Mapping):
            weights = tuple(
                f'{name}={float(value)!r}'.removesuffix('.0')
                for name, value in weights.items()
            )
        object.__setattr__(self, 'reweight', tuple(weights))


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where and how numbers are computed.

    Args:
        device: auto, cpu or cuda:N.
        precision: Arithmetic of the backbone: fp32, bf16 or fp16.
        compile: Compile the networks.
        executor: process (this one) or dask.
        scheduler: Address of a Dask scheduler; workers on this machine if None.
        workers: Number of Dask workers on this machine.
    """

    device: str = 'auto'
    precision: str = 'fp32'
    compile: bool = False
    executor: str = 'process'
    scheduler: str | None = None
    workers: int | None = None
