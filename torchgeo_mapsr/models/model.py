# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A frozen backbone with a fitted head: from a chip to class probabilities."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from ..arguments import check_choice, check_range
from ..atomic import replacing
from ..datasets.bands import BandDescriptions
from ..datasets.chip import Chip
from ..datasets.legends.crosswalk import Crosswalk
from ..datasets.legends.legend import Legend
from ..errors import InputError
from ..process import give_back, torch_threads
from ..versions import versions
from .backbones.backbone import Backbone
from .chip_model import Timer, no_timer
from .devices import device_of_module
from .features import HALF, FrozenBackbone, extract
from .head.calibration import Calibration, CalibrationSample
from .head.cells import CellTable
from .head.fit import fit_head
from .head.head import SCORES, Head
from .head.options import FitOptions
from .head.probe import LinearProbe
from .tokens.tokens import Tokens

if TYPE_CHECKING:
    from .propagation.propagation import Propagation

#: Key of a file's one metadata entry, since several would be written in random order,
#: and the same model is to be the same bytes.
FORMAT = 'torchgeo-mapsr model 2'

UPSAMPLERS = ('bilinear', 'bilateral')

# Cells below which a head is fitted in one thread.
_FEW = 2000


@dataclass(frozen=True, eq=False)
class LandCoverModel:
    """A frozen backbone and what was fitted on it.

    Everything that decides a map is part of it and of its file, but for the sizes of
    chips and the precision of the arithmetic.

    Args:
        backbone: The frozen backbone.
        head: What was fitted.
        origin: What the backbone is made from.
        upsampler: How values get from tokens to pixels: bilinear or bilateral.
        spread: Standard deviation of each band over the region, (bands,), by which the
            guide of the bilateral upsampler is scaled: one for all chips, so that there
            are no seams.
        propagate: Spec of the spatial refinement, see
            :func:`~torchgeo_mapsr.models.propagation.propagation.parse_propagation`.
        precision: Arithmetic of the backbone: fp32, bf16 or fp16.
        report: What else is to be known of the fit, as JSON types.
        calibrate: Whether a map's confidence is calibrated.
        sample: What it is calibrated by; None if too few LR cells could be held out.

    Raises:
        InputError: If there is no such upsampler or propagation.
    """

    backbone: Backbone
    head: Head
    origin: FrozenBackbone
    upsampler: str = 'bilinear'
    spread: tuple[float, ...] = ()
    propagate: str = 'none'
    precision: str = 'fp32'
    report: Mapping[str, Any] = field(default_factory=dict)
    calibrate: bool = True
    sample: CalibrationSample | None = None

    def __post_init__(self) -> None:
        check_choice('upsampler', self.upsampler, UPSAMPLERS)
        check_choice('precision', self.precision, ('fp32', *HALF))
        _propagation(self.propagate)  # refuses what does not exist

    @property
    def target(self) -> Legend:
        """Legend of the classes, C."""
        return self.head.target

    @property
    def bands(self) -> int:
        """Bands of the imagery."""
        return self.origin.bands

    @property
    def descriptions(self) -> BandDescriptions:
        """What the imagery of the fit said of them."""
        return self.origin.descriptions

    @property
    def pixel_size(self) -> float:
        """Side of the pixels of that imagery in metres; 0 where it is not known."""
        return self.origin.pixel_size

    @property
    def halo(self) -> int:
        """Pixels at a chip's border that lack context."""
        return self.backbone.halo

    @property
    def stride(self) -> int:
        """Pixels that chips start at multiples of."""
        return max(self.backbone.strides)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.head.device

    @property
    def uses_labels(self) -> bool:
        """Whether the LR labels of a chip change its probabilities."""
        return self.head.prior.weight > 0

    @property
    def parameters(self) -> int:
        """Numbers that were fitted, and that a map is made with."""
        return self.head.parameters

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was made, and how it maps, as JSON types."""
        return {
            **self.report,
            'backbone': {
                **self.origin.fields(),
                'channels': sum(self.backbone.channels),
            },
            **self.head.provenance,
            'score': self.head.score,
            'prior_weight': self.head.prior.weight,
            'upsampler': self.upsampler,
            'propagate': self.propagate,
            'calibration': self.calibration.to_dict(),
            'parameters': self.parameters,
            'bytes': len(self.to_bytes()),
        }

    @property
    def remarks(self) -> list[str]:
        """Classes that are not mapped and why, and what maps may be wrong about."""
        return list(self.head.provenance.get('fit', {}).get('remarks', ()))

    @cached_property
    def calibration(self) -> Calibration:
        """What calibrates the confidence of a map, by this score and prior.

        :meth:`probabilities` are those of the fit, which are blended, and decide the
        classes; the blended ones are calibrated when they become a confidence, so that
        no class depends on it.
        """
        if not self.calibrate:
            return Calibration(description='not calibrated: switched off')
        if self.sample is None:
            return Calibration(
                description='not calibrated: the fit held out no coarse cells'
            )
        return self.sample.calibration(self.head.score, self.head.prior.weight)

    def tokens(self, image: Tensor) -> Tokens:
        """Features of one image; see :func:`extract`.

        Args:
            image: (C, H, W) float32, the values as read from the file.
        """
        spread = self.spread if self.upsampler == 'bilateral' else None
        return extract(self.backbone, image.to(self.device), self.precision, spread)

    @torch.no_grad()
    def probabilities(self, chip: Chip, timer: Timer = no_timer) -> Tensor:
        """Probabilities of the classes of the pixels of a chip's core.

        A chip is scored by itself: the numbers do not depend on what else is in a batch.

        Args:
            chip: The chip.
            timer: Counts the time of each stage.

        Returns:
            (C, h, w) float32, of the core's size.
        """
        rows, cols = chip.core or tuple(slice(0, n) for n in chip.valid.shape)
        with timer('read'):
            evidence = self.head.prior.evidence(chip)
        with timer('backbone'):
            tokens = self.tokens(chip.image)
            if self._refines is not None:
                # The refinement needs features in any case: scores are taken from them.
                _ = tokens.levels
        with timer('match'), torch.autocast(self.device.type, enabled=False):
            scores = self.head.probabilities(
                tokens,
                None if evidence is None else evidence[None].to(self.device),
                (rows, cols),
            )
        if self._refines is not None:
            with timer('propagate'):
                image = chip.image[None, :, rows, cols].to(self.device)
                inside = chip.valid[None, rows, cols].to(self.device)
                scores = self._refines(scores, tokens, image, inside, (rows, cols))
        return scores[0]

    @cached_property
    def _refines(self) -> 'Propagation | None':
        return _propagation(self.propagate)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device.

        Args:
            device: Where chips are to be scored.
        """
        # With its number, as tensors have it: 'cuda' is 'cuda:0' there.
        device = torch.empty(0, device=device).device
        backbone = self.backbone
        if device_of_module(backbone) != device:
            backbone = deepcopy(backbone).to(device)  # modules are moved in place
        return replace(self, backbone=backbone, head=self.head.to(device))

    def with_options(
        self,
        score: str | None = None,
        prior: float | None = None,
        upsampler: str | None = None,
        propagate: str | None = None,
        calibrate: bool | None = None,
    ) -> Self:
        """The same fit, used in another way.

        Args:
            score: What scores a pixel; as the fit says by default, as the others.
            prior: Weight of the LR labels.
            upsampler: How values get from tokens to pixels.
            propagate: Spec of the spatial refinement.
            calibrate: Whether a map's confidence is calibrated.

        Raises:
            InputError: If there is no such score or upsampler, or the weight is below 0.
        """
        head = self.head
        if score is not None:
            check_choice('score', score, SCORES)
            head = replace(head, score=score)
        if prior is not None:
            check_range('prior', prior, 0)
            head = replace(head, prior=head.prior.with_weight(float(prior)))
        return replace(
            self,
            head=head,
            upsampler=upsampler or self.upsampler,
            propagate=propagate or self.propagate,
            calibrate=self.calibrate if calibrate is None else calibrate,
        )

    def to_bytes(self) -> bytes:
        """The content of :meth:`save`'s file.

        Of the same fit they are the same bytes, wherever it was made.
        """
        tensors, head = self.head.state()
        content = {
            **{f'head.{name}': tensor for name, tensor in tensors.items()},
            **{f'backbone.{name}': t for name, t in self.origin.calibration.items()},
        }
        sample = None
        if self.sample is not None:
            drawn, sample = self.sample.state()
            content |= {f'calibration.{name}': tensor for name, tensor in drawn.items()}
        content = {n: t.detach().cpu().contiguous() for n, t in content.items()}
        fields: dict[str, Any] = {
            'backbone': self.origin.fields(),
            'head': head,
            'upsampler': self.upsampler,
            'spread': list(self.spread),
            'propagate': self.propagate,
            'calibrate': self.calibrate,
            'calibration': sample,
            'report': dict(self.report),
        }
        fields['digest'] = _digest(content, fields)
        return serialise(content, {FORMAT: json.dumps(fields, sort_keys=True)})

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: some hundred kilobytes, without the backbone.

        Args:
            path: The file; its folder must exist.
        """
        with replacing(Path(path)) as part:
            part.write_bytes(self.to_bytes())

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | str = 'cpu',
        weights: str | None = None,
        backbone: Backbone | None = None,
        precision: str = 'fp32',
    ) -> 'LandCoverModel':
        """Read what :meth:`save` wrote, and make the backbone again.

        Args:
            path: The file.
            device: Where to compute.
            weights: Weight file of the backbone, where it is not where it was.
            backbone: The backbone, where it is there already. One that has another
                calibration is copied.
            precision: Arithmetic of the backbone.

        Raises:
            InputError: If the file is not one of ours, is damaged, or belongs to another
                backbone.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(
                f'Cannot read the fit {path}: {error.strerror}.'
            ) from error
        return cls.from_bytes(
            content, device, weights, backbone, precision, name=str(path)
        )

    @classmethod
    def from_bytes(
        cls,
        content: bytes,
        device: torch.device | str | None = None,
        weights: str | None = None,
        backbone: Backbone | None = None,
        precision: str = 'fp32',
        name: str = 'of this checkpoint',
    ) -> 'LandCoverModel':
        """The way back from :meth:`to_bytes`; see :meth:`load`.

        Args:
            content: The bytes.
            device: Where to compute; where the backbone is, if there is one.
            weights: Weight file of the backbone.
            backbone: The backbone, where it is there already.
            precision: Arithmetic of the backbone.
            name: What the file is called in error messages.
        """
        tensors, fields = _parse(content, name)
        try:
            made = fields['backbone']
            origin = FrozenBackbone(
                made['spec'],
                made['bands'],
                made['dtype'],
                made['weights'],
                _part(tensors, 'backbone.'),
                BandDescriptions.from_dict(made.get('descriptions', {})),
                made.get('pixel_size', 0.0),
            )
            head = Head.from_state(_part(tensors, 'head.'), fields['head'])
            sample = fields.get('calibration')
            if sample is not None:
                drawn = _part(tensors, 'calibration.')
                sample = CalibrationSample.from_state(drawn, sample)
            model_fields = {
                'calibrate': fields.get('calibrate', True),
                'sample': sample,
                'upsampler': fields['upsampler'],
                'spread': tuple(fields['spread']),
                'propagate': fields['propagate'],
                'report': fields['report'],
            }
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'Cannot read the fit {name}: {error!r}.') from error
        backbone = origin.make(weights) if backbone is None else origin.adopt(backbone)
        model = cls(backbone, head, origin, precision=precision, **model_fields)
        return model.to(device or device_of_module(backbone))

    @staticmethod
    def is_model(content: bytes) -> bool:
        """Whether bytes are those of a model, unchanged.

        Args:
            content: The bytes.
        """
        try:
            _parse(content, '')
        except InputError:
            return False
        return True


def fit_model(
    table: CellTable,
    crosswalk: Crosswalk,
    backbone: Backbone,
    origin: FrozenBackbone,
    options: FitOptions | None = None,
    upsampler: str = 'bilinear',
    spread: tuple[float, ...] = (),
    propagate: str = 'none',
    precision: str = 'fp32',
    probe: LinearProbe | None = None,
    calibrate: bool = True,
) -> LandCoverModel:
    """Fit a model to what chips have shown of LR cells.

    The same cells and options give the same model, bit by bit, whoever looked at the
    chips and in whatever order.

    Args:
        table: What chips have shown of each cell.
        crosswalk: From the codes of the labels to the classes.
        backbone: The frozen backbone that looked at them.
        origin: What it is made from.
        options: How the head is fitted.
        upsampler: See :class:`LandCoverModel`, as the next three.
        spread: Standard deviation of each band.
        propagate: Spec of the spatial refinement.
        precision: Arithmetic of the backbone.
        probe: A linear probe that was trained elsewhere, on features as the backbone
            gives them.
        calibrate: Whether a map's confidence is calibrated.

    Returns:
        The model, on the backbone's device.

    Raises:
        InputError: If the labels cannot be fitted to.
    """
    options = options or FitOptions()
    # A step of a small problem takes a millisecond; threads that wait for one another at
    # each step took seven times the CPU time.
    with torch_threads(1 if len(table) < _FEW else torch.get_num_threads()):
        pixel_features = backbone.channels[0] if backbone.strides[0] == 1 else 0
        head = fit_head(table, crosswalk, options, probe, pixel_features)
        sample = None
        if calibrate:
            give_back()
            sample = CalibrationSample.of(
                table, crosswalk, head, options, pixel_features
            )
    report = {
        'chips': table.chips,
        'labels': _label_counts(table, crosswalk),
        'options': options.to_dict(),
        'seed': options.seed,
        'versions': versions(),
    }
    model = LandCoverModel(
        backbone,
        head,
        origin,
        upsampler,
        spread,
        propagate,
        precision,
        report,
        calibrate,
        sample,
    )
    return model.to(device_of_module(backbone))


def _label_counts(table: CellTable, crosswalk: Crosswalk) -> dict[str, Any]:
    """How many LR cells were used, and which were not, as JSON types."""
    codes = table.code.numpy()
    unknown = crosswalk.unknown(codes)
    index = crosswalk.index(codes)
    nothing = {*unknown, crosswalk.source.nodata}
    return {
        'legend': crosswalk.source.name,
        'target': crosswalk.target.name,
        'crosswalk': crosswalk.name,
        'reference': crosswalk.reference,
        'cells': len(table),
        'cells_used': int((table.seen.numpy() & (index >= 0)).sum()),
        'cells_ignored_by_code': {
            str(code): count
            for code, count in table.count().items()
            if code not in nothing and int(crosswalk.index(np.array(code))) < 0
        },
        'unknown_codes': {str(code): count for code, count in unknown.items()},
    }


def _propagation(spec: str) -> 'Propagation | None':
    """The spatial refinement of a spec."""
    if spec == 'none':
        return None
    # scikit-image takes a while to import
    from .propagation.propagation import parse_propagation

    return parse_propagation(spec)


def _digest(tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a file holds."""
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parse(content: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and fields of a file, compared with its digest."""
    try:
        length = int.from_bytes(content[:8], 'little')
        header = json.loads(content[8 : 8 + length])
        text = header.get('__metadata__', {}).get(FORMAT)
    except (ValueError, AttributeError, RecursionError):
        text = None
    if text is None:
        raise InputError(
            f'{name} is not a fit of this torchgeo-mapsr: --save-model writes one.'
        )
    try:
        tensors = deserialise(content)
        fields = json.loads(text)
        digest = fields.pop('digest')
    except (
        SafetensorError,
        KeyError,
        ValueError,
        AttributeError,
        TypeError,
        RuntimeError,
        RecursionError,
    ) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'Cannot read the fit {name}: {reason}.') from error
    if _digest(tensors, fields) != digest:
        raise InputError(f'The fit {name} is damaged; fit again, or copy it again.')
    return tensors, fields


def is_intact(path: Path) -> bool:
    """Whether a file is a model as it was written.

    Args:
        path: The file.
    """
    return LandCoverModel.is_model(path.read_bytes())


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors under a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
