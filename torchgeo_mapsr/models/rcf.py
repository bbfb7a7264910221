# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Random convolutional features: the backbone that needs no weights."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .backbone import Backbone
from .tokens import Tokens

# Patches that the filters of one stride are drawn and whitened from.
PATCHES = 4000

# Whitening adds this share of the mean eigenvalue, so that noise is not blown up.
FLOOR = 0.1


class RCF(Backbone):
    r"""Random convolutional features in empirical mode, at several scales.

    The filters are patches of the imagery itself, drawn at random and whitened, as in
    MOSAIKS (Rolf et al. 2021, Nature Communications) and torchgeo's ``RCF`` with
    ``mode='empirical'`` (Coates & Ng 2012). Two things differ, and both were measured
    on aerial scenes: the features stay dense, and each scale is its own level, from
    the image averaged over ``stride`` x ``stride`` pixels, so that context costs a
    fraction of the finest level. The finest level also has random Fourier features of
    a pixel's colours (Rahimi & Recht 2007), which a linear probe reads as a smooth
    non-linear function of colour.

    Levels and channels, for C bands:

    ======= ===================================================== ==================
    stride  features                                              channels
    ======= ===================================================== ==================
    1       bands, cos(w^T x + b) of whitened bands               C + colours
    each    bands, 3 x 3 mean of max(z - 1/2, 0), max(-z - 1/2,0) C + 2 filters
    ======= ===================================================== ==================

    with z the unit-variance responses of the whitened filters.

    Args:
        bands: Bands of the imagery, C.
        filters: Filters a stride.
        kernel: Side of a filter in tokens of its level, odd.
        strides: Pixels a token of each level.
        colours: Random Fourier features of the bands; 0 for none.
        seed: Seed of everything random.

    Raises:
        InputError: If an option is out of range.
    """

    mean: Tensor
    std: Tensor
    frequency: Tensor
    phase: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        bands: int,
        *,
        filters: int = 48,
        kernel: int = 5,
        strides: tuple[int, ...] = (1, 2, 4, 8, 16),
        colours: int = 128,
        seed: int = 0,
    ) -> None:
        if kernel % 2 == 0 or min(kernel, filters, *strides) < 1 or colours < 0:
            raise InputError(
                'rcf takes an odd kernel and positive filters and strides, got '
                f'kernel={kernel}, filters={filters}, strides={strides}'
            )
        fine, each = bands + colours, bands + 2 * filters
        # The filter's and the mean's reach on the coarsest level, and half a token
        # of interpolation.
        reach = math.ceil((kernel // 2 + 1.5) * max(strides))
        super().__init__(
            bands, (fine, *(each for _ in strides)), (1, *strides), halo=reach
        )
        self.filters, self.kernel, self.seed = filters, kernel, seed
        self.register_buffer('mean', torch.zeros(bands))
        self.register_buffer('std', torch.zeros(bands))
        self.register_buffer('frequency', torch.zeros(colours, bands))
        self.register_buffer('phase', torch.zeros(colours))
        shape = (len(strides), filters, bands, kernel, kernel)
        self.register_buffer('weight', torch.zeros(shape))
        self.register_buffer('bias', torch.zeros(len(strides), filters))

    @property
    def needs_calibration(self) -> bool:
        """Whether the filters are still to be drawn."""
        return not bool(self.std.any())

    @torch.no_grad()
    def calibrate(self, chips: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Draw and whiten the filters, and find the bands' statistics.

        Args:
            chips: Images (C, H, W) with their validity (H, W). They are held in memory
                together: some dozens are plenty.

        Raises:
            InputError: If no chip has a valid pixel, or all are smaller than a filter.
        """
        generator = torch.Generator().manual_seed(self.seed)
        images = [(image.float().cpu(), valid.bool().cpu()) for image, valid in chips]
        pixels = [image[:, valid] for image, valid in images if valid.any()]
        if not pixels:
            raise InputError('The imagery has no valid pixel to draw filters from')
        sample = torch.cat([p[:, :: max(p.shape[1] // 50_000, 1)] for p in pixels], 1)
        std, mean = torch.std_mean(sample.double(), dim=1)
        self.mean.copy_(mean)
        # A constant band says nothing, and must not divide by zero.
        self.std.copy_(torch.where(std > 0, std, 1.0))
        images = [(self._standardise(image), valid) for image, valid in images]

        whiten = _whitening(self._standardise(sample[..., None])[..., 0].T, 0.02)
        gauss = torch.randn(len(self.phase), self.bands or 0, generator=generator)
        self.frequency.copy_(gauss @ whiten.to(gauss))
        phase = torch.rand(len(self.phase), generator=generator)
        self.phase.copy_(phase * 2 * math.pi)

        for i, stride in enumerate(self.strides[1:]):
            patches = self._patches(images, stride, generator)
            centred = patches - patches.mean(0)
            whiten = _whitening(centred, FLOOR)
            drawn = torch.randint(len(centred), (self.filters,), generator=generator)
            white = centred[drawn] @ whiten
            weight = F.normalize(white, dim=1) @ whiten
            # Unit variance of every response, whatever its patch was.
            scale = (centred @ weight.T).std(0).clamp(min=1e-6)
            weight = weight / scale[:, None]
            self.weight[i].copy_(weight.view_as(self.weight[i]))
            self.bias[i].copy_(-(weight @ patches.mean(0)))

    def calibration(self) -> dict[str, Tensor]:
        """Filters and statistics, by name."""
        return {name: buffer.cpu() for name, buffer in self.named_buffers()}

    def load_calibration(self, calibration: dict[str, Tensor]) -> None:
        """Take over filters and statistics.

        Args:
            calibration: What :meth:`calibration` returned.
        """
        self.load_state_dict(calibration)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tokens:
        """Features of a batch.

        Args:
            image: (B, C, H, W) values as read from the file.

        Returns:
            Tokens of one level for the colours and one for each stride.
        """
        height, width = image.shape[-2:]
        image = self._standardise(image)
        # As a product with the pixels: a 1 x 1 convolution pads its few input
        # channels and takes three times as long on a CPU.
        waves = torch.einsum('kc,bcij->bkij', self.frequency, image)
        waves = torch.cos(waves + self.phase[:, None, None])
        levels = [torch.cat([image, waves], dim=1)]
        for i, stride in enumerate(self.strides[1:]):
            coarse = _average(image, stride)
            levels.append(self._textures(coarse, self.weight[i], self.bias[i]))
        return Tokens(tuple(levels), self.strides, (height, width))

    def _textures(self, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """One level: bands and rectified, locally averaged responses."""
        margin = self.kernel // 2
        response = F.conv2d(_pad(image, margin), weight, bias)
        features = torch.cat(
            [image, F.relu(response - 0.5), F.relu(-0.5 - response)], dim=1
        )
        return F.avg_pool2d(_pad(features, 1), 3, stride=1)

    def _standardise(self, image: Tensor) -> Tensor:
        """Zero mean and unit variance of every band."""
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        return (image.to(mean.device, mean.dtype) - mean) / std

    def _patches(
        self,
        images: list[tuple[Tensor, Tensor]],
        stride: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Flat patches of valid pixels at a stride, (PATCHES, C k k)."""
        places, scaled = [], []
        for n, (image, valid) in enumerate(images):
            coarse = _pad(_average(image[None], stride), self.kernel // 2)[0]
            whole = _average(valid[None, None].float(), stride)[0, 0] > 0.999
            scaled.append(coarse.unfold(1, self.kernel, 1).unfold(2, self.kernel, 1))
            rows, cols = whole.nonzero(as_tuple=True)
            places.append(torch.stack([torch.full_like(rows, n), rows, cols], dim=1))
        place = torch.cat(places)
        if not len(place):
            raise InputError(
                f'No valid block of {stride} x {stride} pixels to draw filters from'
            )
        place = place[torch.randint(len(place), (PATCHES,), generator=generator)]
        return torch.stack([scaled[n][:, r, c].flatten() for n, r, c in place.tolist()])


def _average(image: Tensor, stride: int) -> Tensor:
    """Mean over blocks of stride x stride pixels; the last row and column are held."""
    if stride == 1:
        return image
    down, right = (-size % stride for size in image.shape[-2:])
    return F.avg_pool2d(F.pad(image, (0, right, 0, down), mode='replicate'), stride)


def _pad(image: Tensor, margin: int) -> Tensor:
    """Mirror at the border, or hold the border where the image is too small for it."""
    mode = 'reflect' if min(image.shape[-2:]) > margin else 'replicate'
    return F.pad(image, (margin,) * 4, mode=mode)


def _whitening(samples: Tensor, floor: float) -> Tensor:
    """Symmetric matrix that makes samples' features uncorrelated, nearly."""
    centred = samples - samples.mean(0)
    covariance = (centred.T @ centred / len(centred)).double()
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    # All eigenvalues are zero where the image is constant.
    scale = (values + floor * values.mean() + 1e-12).rsqrt()
    return (vectors * scale @ vectors.T).to(samples)
