# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Random convolutional features: the backbone that needs no weights."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.geo.grid import Window
from ...errors import InputError
from ..tokens.tokens import LazyTokens, Tokens
from ..tokens.upsample import Bilinear, seen, whole
from .backbone import Backbone
from .local import block_mean, by_tokens, in_cache, local_mean, mean_inside, mirrored

# Patches that the filters of one stride are drawn and whitened from.
PATCHES = 4000

# Whitening adds this share of the mean eigenvalue, so that noise is not blown up: of
# patches, and of colours.
FLOOR, COLOUR_FLOOR = 0.1, 0.02

#: Bands above which an image is reduced to its principal components: patches of two
#: hundred bands have five thousand dimensions, which took 250 s to whiten.
MAX_BANDS = 32

# Pixels of a chip that statistics are made from, and rows that are reduced at once.
PIXELS, ROWS = 50_000, 32

# Responses whose magnitude is below this become 0.
THRESHOLD = 0.5

# Pixels whose features are held at once on a CPU: a megabyte or two, which its cache
# holds. Measured for 448 x 448 x 4: 0.11 s with 3584, 0.13 s with 28672.
CACHED_PIXELS = 4096

# Rows of textures that are made at once, at least.
LEAST_ROWS = 8


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
    each    3 x 3 means of bands, max(z - 1/2, 0), max(-z - 1/2,0) C + 2 filters
    ======= ===================================================== ==================

    with bands of zero mean and unit variance, and z the unit-variance responses of the
    whitened filters. A missing value (NaN) and a band that was constant in calibration
    count as the band's mean.

    Of more than :data:`MAX_BANDS` bands, as in hyperspectral imagery, the principal
    components of the standardised bands take the place of the bands, here and in
    all that is above; they are learnt in calibration and saved with it. The axes are
    orthonormal, and with all of them the features would be those of a rotated image.

    The halo holds for images whose sides are multiples of the coarsest stride, and
    images that start at multiples of it have the same features beyond it.

    Args:
        bands: Bands of the imagery, C.
        filters: Filters a stride.
        kernel: Side of a filter in tokens of its level, odd.
        strides: Pixels a token of each level.
        colours: Random Fourier features of the bands; 0 for none.
        components: Principal components that more than :data:`MAX_BANDS` bands are
            reduced to; as many as there are bands, or more, for no reduction.
        seed: Seed of everything random.

    Raises:
        InputError: If an option is out of range.
    """

    mean: Tensor
    std: Tensor
    axes: Tensor
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
        components: int = 16,
        seed: int = 0,
    ) -> None:
        least = min(kernel, filters, components, *strides)
        if kernel % 2 == 0 or least < 1 or colours < 0:
            raise InputError(
                'rcf takes an odd kernel and positive filters, strides and components, '
                f'got kernel={kernel}, filters={filters}, strides={strides}, '
                f'components={components}'
            )
        reduced = bands > MAX_BANDS and components < bands
        width = components if reduced else bands
        fine, each = width + colours, width + 2 * filters
        # Reach of the filter, the mean and the interpolation on the coarsest level,
        # from the middle of a token: before it, a pixel looks to the other side.
        reach = math.ceil((kernel // 2 + 1.5) * max(strides))
        super().__init__(
            bands, (fine, *(each for _ in strides)), (1, *strides), halo=reach
        )
        self.filters, self.kernel, self.seed = filters, kernel, seed
        self.reduced, self.kept = reduced, width
        self._calibrated = False
        self.register_buffer('mean', torch.zeros(bands))
        self.register_buffer('std', torch.zeros(bands))
        if reduced:
            self.register_buffer('axes', torch.zeros(width, bands))
        self.register_buffer('frequency', torch.zeros(colours, width))
        self.register_buffer('phase', torch.zeros(colours))
        shape = (len(strides), filters, width, kernel, kernel)
        self.register_buffer('weight', torch.zeros(shape))
        self.register_buffer('bias', torch.zeros(len(strides), filters))

    @property
    def needs_calibration(self) -> bool:
        """Whether the filters are still to be drawn."""
        return not self._calibrated

    @torch.no_grad()
    def calibrate(self, chips: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Draw and whiten the filters, and find the bands' statistics.

        Args:
            chips: Images (C, H, W) with their validity (H, W). They are held in memory
                together: some dozens are plenty.

        Raises:
            InputError: If no chip has a valid pixel, or no block of valid pixels as
                large as a token.
        """
        generator = torch.Generator().manual_seed(self.seed)
        images = []
        for image, valid in chips:
            image = image.float().cpu()
            images.append((image, valid.bool().cpu() & image.isfinite().all(0)))
        pixels = [image[:, valid] for image, valid in images if valid.any()]
        if not pixels:
            raise InputError('The imagery has no valid pixel to draw filters from')
        most = PIXELS * MAX_BANDS // len(self.std) if self.reduced else PIXELS
        sample = torch.cat([p[:, :: max(p.shape[1] // most, 1)] for p in pixels], 1)
        std, mean = torch.std_mean(sample.double(), dim=1, correction=0)
        # A constant band says nothing, here and where it is not constant after all.
        std = torch.where(std > 0, std, torch.inf)
        self.mean.copy_(mean)
        self.std.copy_(std)
        # In single precision and on the CPU, so that every device draws the same.
        mean, std = mean.float()[:, None], std.float()[:, None]
        sample = (sample - mean) / std
        # Noise is compared with the variance of a band, also where there are components.
        floor = self.kept / len(self.std)
        if self.reduced:
            self.axes.copy_(_principal_axes(sample, self.kept))
            sample = self.axes.cpu() @ sample
        for i, (image, valid) in enumerate(images):
            if self.reduced:
                standard = self._components(image[None].to(self.mean))[0].cpu()
            else:
                standard = (image - mean[..., None]) / std[..., None]
            images[i] = torch.where(valid, standard, 0), valid

        whiten = _whitening(sample.T, COLOUR_FLOOR * floor)
        gauss = torch.randn(len(self.phase), len(sample), generator=generator)
        self.frequency.copy_(gauss @ whiten)
        phase = torch.rand(len(self.phase), generator=generator)
        self.phase.copy_(phase * 2 * math.pi)

        for i, stride in enumerate(self.strides[1:]):
            patches = self._patches(images, stride, generator)
            centred = patches - patches.mean(0)
            whiten = _whitening(centred, FLOOR * floor)
            drawn = torch.randint(len(centred), (self.filters,), generator=generator)
            white = centred[drawn] @ whiten
            weight = F.normalize(white, dim=1) @ whiten
            # Unit variance of every response, whatever its patch was.
            scale = (centred @ weight.T).std(0).clamp(min=1e-6)
            weight = weight / scale[:, None]
            self.weight[i].copy_(weight.view_as(self.weight[i]))
            self.bias[i].copy_(-(weight @ patches.mean(0)))
        self._calibrated = True

    def calibration(self) -> dict[str, Tensor]:
        """Filters and statistics, by name."""
        return {name: buffer.cpu() for name, buffer in self.named_buffers()}

    def load_calibration(self, calibration: dict[str, Tensor]) -> None:
        """Take over filters and statistics.

        Args:
            calibration: What :meth:`calibration` returned.
        """
        self.load_state_dict(calibration)
        self._calibrated = True

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tokens:
        """Features of a batch.

        Args:
            image: (B, C, H, W) values as read from the file.

        Returns:
            Tokens of one level for the colours and one for each stride.

        Raises:
            RuntimeError: If it was neither calibrated nor given a calibration.
        """
        return _FilterTokens(self, self._standardised(image))

    @torch.no_grad()
    def level(self, image: Tensor, index: int, window: Window | None = None) -> Tensor:
        """The features of a level themselves.

        Args:
            image: (B, C, H, W) standardised.
            index: Number of the level; 0 has the colours.
            window: Rows and columns of its grid that are wanted; all by default.

        Returns:
            Its grid, (B, D_l, h_l, w_l).
        """
        coarse = block_mean(image, self.strides[index])
        window = window or whole((coarse.shape[-2], coarse.shape[-1]))
        if index == 0:
            return self._waves(image[..., window[0], window[1]])
        weight, bias = self.weight[index - 1], self.bias[index - 1]
        return self._textures(coarse, weight, bias, window)

    @torch.no_grad()
    def project(
        self,
        image: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        window: Window | None = None,
    ) -> Tensor:
        """Linear scores of every pixel, without the features.

        A level is M f(z): pointwise functions f of convolutions z, then local means M.
        M is linear, so that W (M f(z)) = M (W f(z)): the D features of a few rows are
        weighted while they are in the processor's cache, and K channels, not D, are
        written, averaged and upsampled. Half a gigabyte of features is never written:
        that is what takes most of the time of :meth:`forward` on a CPU. Of each level
        only the tokens that a wanted pixel sees are made: few of the finest level's,
        which are the most work, and most of the coarsest's.

        Args:
            image: (B, C, H, W) standardised.
            weight: (K, D).
            bias: (K,).
            window: Rows and columns of the pixels that are wanted; all by default.

        Returns:
            (B, K, H, W), or of the window's size.
        """
        rows, cols = window or whole((image.shape[-2], image.shape[-1]))
        first, *parts = weight.to(image).split(self.channels, dim=1)
        total = wave_scores(image[..., rows, cols], self.frequency, self.phase, first)
        if bias is not None:
            total += bias.to(total)[:, None, None]
        step = in_cache(total)
        for i, (stride, part) in enumerate(zip(self.strides[1:], parts, strict=True)):
            coarse = block_mean(image, stride)
            spans = seen(rows, stride), seen(cols, stride)
            grid = texture_scores(coarse, self.weight[i], self.bias[i], part, spans)
            down, right = (
                slice(pixels.start - first, pixels.stop - first)
                for pixels, first in (
                    (rows, spans[0].start * stride),
                    (cols, spans[1].start * stride),
                )
            )
            for some, out in zip(
                grid.split(step, 1), total.split(step, 1), strict=True
            ):
                out += Bilinear().apply(some, stride, (down, right))
        return total

    def _standardised(self, image: Tensor) -> Tensor:
        """Bands of zero mean and unit variance, 0 where there is no value."""
        if self.needs_calibration:
            raise RuntimeError(
                'Call calibrate or load_calibration before the first image'
            )
        if self.reduced:
            return self._components(image.to(self.mean))
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        return ((image.to(mean) - mean) / std).nan_to_num(nan=0, posinf=0, neginf=0)

    def _components(self, image: Tensor) -> Tensor:
        """Principal components of the standardised bands, some rows at once."""
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        batch, _, height, width = image.shape
        reduced = image.new_empty(batch, self.kept, height, width)
        for first in range(0, height, ROWS):
            rows = slice(first, first + ROWS)
            standard = ((image[:, :, rows] - mean) / std).nan_to_num(
                nan=0, posinf=0, neginf=0
            )
            product = self.axes @ standard.flatten(2)
            reduced[:, :, rows] = product.view(batch, self.kept, -1, width)
        return reduced

    def _waves(self, image: Tensor) -> Tensor:
        """The finest level: bands, and waves of their colours."""
        batch, bands, height, width = image.shape
        channels = bands + len(self.phase)
        level = _tokens_first(image, (batch, channels, height, width))
        angle = _angle(self.frequency, self.phase)
        for one, features in zip(image, level.permute(0, 2, 3, 1), strict=True):
            pixels, out = one.flatten(1).T, features.flatten(0, 1)
            out[:, :bands] = pixels
            # A product: a 1 x 1 convolution pads its few input channels and takes three
            # times as long on a CPU.
            pixels = F.pad(pixels, (0, 1), value=1)
            step = _pixels(image)
            parts = out[:, bands:].split(step)
            for some, part in zip(pixels.split(step), parts, strict=True):
                part.copy_((some @ angle.T).cos_())
        return level

    def _textures(
        self, image: Tensor, weight: Tensor, bias: Tensor, window: Window
    ) -> Tensor:
        """A part of one level: locally averaged bands and rectified responses."""
        batch, bands, height, width = image.shape
        rows, cols = window
        channels, across = bands + 2 * self.filters, cols.stop - cols.start
        level = _tokens_first(image, (batch, channels, rows.stop - rows.start, across))
        # Means look one token further. At the grid's border that is mirrored, or held
        # where the grid is a single line, as `mirrored` does.
        left, right = max(cols.start - 1, 0), min(cols.stop + 1, width)
        mirror = 1 if min(height, width) > 1 else 0
        padded = mirrored(image, self.kernel // 2)
        padded = by_tokens(padded[..., left : right + self.kernel - 1])
        image, weight = by_tokens(image), by_tokens(weight)
        # Means need two more rows, which cost too much where a part has few rows.
        step = max(_pixels(image) // (right - left), LEAST_ROWS)
        step = min(step, rows.stop - rows.start)
        rings = _tokens_first(image, (batch, channels, step + 2, across + 2))
        for first in range(rows.start, rows.stop, step):
            last = min(first + step, rows.stop)
            top, bottom = max(first - 1, 0), min(last + 1, height)
            strip = padded[:, :, top : bottom + self.kernel - 1]
            response = F.conv2d(strip, weight, bias)
            ring = rings[:, :, : last - first + 2]
            inside = ring[:, :, top - first + 1 :, left - cols.start + 1 :]
            inside = inside[..., : bottom - top, : right - left]
            inside[:, :bands] = image[:, :, top:bottom, left:right]
            above, below = inside[:, bands:].chunk(2, 1)
            above[:] = (response - THRESHOLD).relu_()
            below[:] = (-THRESHOLD - response).relu_()
            if top == first:
                ring[:, :, 0] = ring[:, :, 1 + mirror]
            if bottom == last:
                ring[:, :, -1] = ring[:, :, -2 - mirror]
            if left == cols.start:
                ring[..., 0] = ring[..., 1 + mirror]
            if right == cols.stop:
                ring[..., -1] = ring[..., -2 - mirror]
            mean_inside(ring, level[:, :, first - rows.start : last - rows.start])
        return level

    def _patches(
        self,
        images: list[tuple[Tensor, Tensor]],
        stride: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Flat patches around tokens of valid pixels, (PATCHES, C k k)."""
        places = []
        for n, (_, valid) in enumerate(images):
            whole = block_mean(valid[None, None].float(), stride)[0, 0] > 0.999
            rows, cols = whole.nonzero(as_tuple=True)
            places.append(torch.stack([torch.full_like(rows, n), rows, cols], dim=1))
        place = torch.cat(places)
        if not len(place):
            raise InputError(
                f'No block of {stride} x {stride} valid pixels to draw filters from; '
                'give smaller strides, as in rcf?strides=1,2'
            )
        place = place[torch.randint(len(place), (PATCHES,), generator=generator)]
        number, rows, cols = place.T
        patches = torch.empty(PATCHES, self.weight[0, 0].numel())
        for n, (image, _) in enumerate(images):
            from_image = number == n
            coarse = mirrored(block_mean(image[None], stride), self.kernel // 2)[0]
            windows = coarse.unfold(1, self.kernel, 1).unfold(2, self.kernel, 1)
            patch = windows[:, rows[from_image], cols[from_image]]
            patches[from_image] = patch.transpose(0, 1).flatten(1)
        return patches


class _FilterTokens(LazyTokens):
    """Tokens of an image whose scores need no features: see :meth:`RCF.project`."""

    def __init__(self, backbone: RCF, image: Tensor) -> None:
        size = image.shape[-2], image.shape[-1]
        super().__init__(backbone.channels, backbone.strides, size, image.device)
        object.__setattr__(self, '_backbone', backbone)
        object.__setattr__(self, '_image', image)

    def make_level(self, index: int, window: Window | None = None) -> Tensor:
        """The features of a level; see :meth:`RCF.level`."""
        level: Tensor = self._backbone.level(self._image, index, window)  # type: ignore[attr-defined]
        return level

    def project(
        self, weight: Tensor, bias: Tensor | None = None, window: Window | None = None
    ) -> Tensor:
        """Scores while features are in the cache; see :meth:`Tokens.project`."""
        # A compiler orders the work itself, without parts.
        if torch.compiler.is_compiling() or '_levels' in vars(self):
            return super().project(weight, bias, window)
        scores: Tensor = self._backbone.project(self._image, weight, bias, window)  # type: ignore[attr-defined]
        return scores


def _principal_axes(samples: Tensor, count: int) -> Tensor:
    """Orthonormal axes of greatest variance, (count, C), of centred samples (C, N)."""
    covariance = samples.double() @ samples.double().T
    _, vectors = torch.linalg.eigh(covariance)
    axes = vectors.T.flip(0)[:count]
    # An axis has no sign of its own: the largest coefficient is positive.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return (axes * largest.sign()).to(samples)


def _whitening(samples: Tensor, floor: float) -> Tensor:
    """Symmetric matrix that makes samples' features uncorrelated, nearly."""
    centred = samples - samples.mean(0)
    covariance = (centred.T @ centred / len(centred)).double()
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    # All eigenvalues are zero where the image is constant.
    scale = (values + floor * values.mean() + 1e-12).rsqrt()
    return (vectors * scale @ vectors.T).to(samples)


def wave_scores(
    image: Tensor, frequency: Tensor, phase: Tensor, weight: Tensor
) -> Tensor:
    """Scores of bands x and waves cos(w^T x + b).

    Args:
        image: Standardised bands, (B, C, H, W).
        frequency: (F, C).
        phase: (F,).
        weight: (K, C + F).

    Returns:
        (B, K, H, W).
    """
    batch, bands, height, width = image.shape
    of_bands, of_waves = weight.split([bands, len(phase)], dim=1)
    angle = _angle(frequency, phase)
    scores = image.new_empty(batch, len(weight), height * width)
    for pixels, out in zip(image.flatten(2), scores, strict=True):
        pixels = torch.cat([pixels, torch.ones_like(pixels[:1])])
        step = _pixels(image)
        for some, part in zip(pixels.split(step, 1), out.split(step, 1), strict=True):
            torch.mm(of_waves, (angle @ some).cos_(), out=part)
            part.addmm_(of_bands, some[:bands])
    return scores.view(batch, len(weight), height, width)


def _angle(frequency: Tensor, phase: Tensor) -> Tensor:
    """(F, C + 1), of bands and a 1: a sum after the product would take half as long."""
    return torch.cat([frequency, phase[:, None]], 1)


def texture_scores(
    image: Tensor, kernels: Tensor, bias: Tensor, weight: Tensor, window: Window
) -> Tensor:
    """Scores of local means of bands and of rectified responses.

    With the threshold t and s = sign(z) max(|z| - t, 0) (``softshrink``), the two
    rectified responses are max(z - t, 0) = (|s| + s) / 2 and max(-z - t, 0) =
    (|s| - s) / 2. So their weights a and b become (a - b) / 2 for s and (a + b) / 2
    for |s|.

    Args:
        image: Standardised bands on the grid of the level, (B, C, h, w).
        kernels: (F, C, k, k).
        bias: (F,).
        weight: (K, C + 2 F), of the bands, of max(z - t, 0) and of max(-z - t, 0).
        window: Rows and columns that are wanted; they may reach beyond the grid.

    Returns:
        (B, K, h, w) of what is wanted of the grid.
    """
    batch, bands = image.shape[:2]
    of_bands, above, below = weight.split([bands, len(bias), len(bias)], dim=1)
    odd, even = (above - below) / 2, (above + below) / 2
    padded = mirrored(image, kernels.shape[-1] // 2)
    # Means look one token further. At the grid's border they mirror; where there is
    # more of the grid, what they mirror is cut off.
    (top, bottom), (left, right) = (
        (max(span.start - 1, 0), min(span.stop + 1, size))
        for span, size in zip(window, image.shape[-2:], strict=True)
    )
    beyond = kernels.shape[-1] - 1
    padded = by_tokens(padded[..., left : right + beyond])
    image, kernels = image[..., left:right], by_tokens(kernels)
    width = right - left
    scores = image.new_empty(batch, len(weight), bottom - top, width)
    step = max(_pixels(image) // width, 1)
    for b in range(batch):
        for first in range(top, bottom, step):
            last = min(first + step, bottom)
            strip = padded[b, :, first : last + beyond]
            response = F.conv2d(strip[None], kernels, bias)[0].to(image)
            shrunk = F.softshrink(response, THRESHOLD).flatten(1)
            # The bands' own means are one more linear part.
            some = torch.mm(of_bands, image[b, :, first:last].flatten(1))
            some.addmm_(odd, shrunk).addmm_(even, shrunk.abs_())
            scores[b, :, first - top : last - top] = some.unflatten(1, (-1, width))
    means = torch.empty_like(scores)
    local_mean(scores, means)
    means = means[..., window[0].start - top :, window[1].start - left :]
    shape = [span.stop - span.start for span in window]
    return means[..., : shape[0], : shape[1]]


def _tokens_first(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An empty (B, D, h, w), the features of each token side by side.

    A fit looks tokens up, and to bring them into this order afterwards takes as long as
    the features themselves.
    """
    return torch.empty(
        shape, dtype=image.dtype, device=image.device, memory_format=torch.channels_last
    )


def _pixels(image: Tensor) -> int:
    """Pixels at once: a GPU takes all, whose calls cost more than its memory.

    A compiler makes its own order of them.
    """
    if image.device.type == 'cpu' and not torch.compiler.is_compiling():
        return CACHED_PIXELS
    height, width = image.shape[-2:]
    return height * width
