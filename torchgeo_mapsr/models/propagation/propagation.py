# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Spatial refinement: places that are alike and near get alike classes."""

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.geo.grid import Window
from ...errors import InputError
from ..backbones.spec import Member
from ..tokens.tokens import Tokens
from ..tokens.upsample import Bilinear, whole
from .graph import SimilarityGraph
from .superpixels import superpixels

NODES = ('superpixels', 'tokens', 'pixels')

# MapSR (2026), pixels: exp(-d^2 / .01) with d in sides of a window of 112 pixels is a
# Gaussian of 112 sqrt(.01 / 2) pixels.
_PUBLISHED = {
    'nodes': 'pixels',
    'window': '112',
    'components': '0',
    'neighbours': '400',
    'gamma': '3',
    'sigma': '7.9196',
    'alpha': '0.95',
}

# A feature whose deviation is below this share of its mean counts as constant.
STILL = 1e-5

# From this stride on, a node's features are taken from every other pixel of every other
# row, in half the time: mean IoU of 13 maps from MobileNetV2 at strides 8 and 16 differed
# by -.0002 to +.0006.
SMOOTH = 8


@dataclass(frozen=True, kw_only=True)
class Propagation:
    r"""Class probabilities, propagated on a graph of similar places.

    1. An image is divided into nodes: superpixels, squares of a token grid, or single
       pixels of a window. A node has the mean features, position and probabilities of
       its pixels (R U F, see :meth:`Tokens.pool`).
    2. Each node is connected with those that are like it and near
       (:class:`SimilarityGraph`), and the probabilities are spread,
       Y = (I - alpha S)^-1 Y0, normalised in each row.
    3. A pixel p of node n(p) gets

       .. math:: \hat y_{n(p)} + \lambda (y_p - \bar y_{n(p)})

       with its own y, its node's mean before and after, and the share lambda of the
       pixel's difference from its node that is kept. Changes of a token grid are
       interpolated.

    MapSR (2026) propagates like this within windows, after LPOSS (Stojnić et al.
    2025), with the positions of superpixels left out and the scores stretched to 0..1.
    The spec ``published`` is its form for pixels: windows of 112 x 112, 400 neighbours,
    gamma 3, a variance of distances of .01 squared sides, alpha 0.95. (Probabilities are
    spread instead of stretched scores.) It takes some hundred times as long as
    superpixels.
    Its constants (superpixels: 100 neighbours, gamma 1, alpha 0.5; tokens: 400
    neighbours, gamma 3, alpha 0.95) suit sharper features; strong propagation is what
    fails first where features are weak. The defaults here were measured with random
    convolutional features, as the change of mean IoU with exact / noisy LR labels:

    =============================== ================ ================
    scene                           superpixels      tokens
    =============================== ================ ================
    OpenEarthMap austin_29          +.015 / +.023    +.007 / +.014
    OpenEarthMap wielkopolskie_9    +.001 / +.004    -.002 / +.002
    DeepGlobe, four scenes          +.010 / +.006    +.009 / +.008
    Sentinel-2, two scenes          -.005 / +.010    -.007 / +.007
    Chesapeake (real NLCD)          +.005            +.004
    =============================== ================ ================

    With a pretrained MobileNetV2 beside them, superpixels changed OpenEarthMap by -.002
    to +.005, tokens by -.004 to -.001. Without any detail (lambda = 0), half of the
    scenes lost up to .01; the published constants for tokens, in whole chips instead of
    windows, lost .04 to .4 on most.

    Args:
        nodes: ``superpixels``, ``tokens`` or ``pixels``.
        spacing: Pixels between nodes, along either axis; the finest level's stride if
            that is larger, since what is between tokens has no features of its own.
        compactness: See :func:`~torchgeo_mapsr.models.propagation.superpixels.superpixels`.
        components: Principal components that features are reduced to; 0 leaves them
            as they are.
        neighbours: Neighbours that a node chooses.
        gamma: Exponent of the cosine similarity of features.
        sigma: Standard deviation of the Gaussian of distance, in pixels.
        alpha: Strength: 0 for none, below 1.
        detail: Share lambda of the differences within a node that is kept, 0..1; of no
            effect on pixels.
        window: Side of the windows that pixels are connected within.

    Raises:
        InputError: If one of them is out of range.
    """

    nodes: str = 'superpixels'
    spacing: int = 10
    compactness: float = 0.2
    components: int = 64
    neighbours: int = 20
    gamma: float = 10.0
    sigma: float = 48.0
    alpha: float = 0.6
    detail: float = 0.5
    window: int = 112

    def __post_init__(self) -> None:
        if self.nodes not in NODES:
            raise InputError(
                f'Propagation takes the nodes {" or ".join(NODES)}, got {self.nodes!r}'
            )
        if min(self.spacing, self.neighbours, self.window) < 1 or self.components < 0:
            raise InputError(
                'Propagation takes a spacing, a window and a number of neighbours of at '
                f'least 1, and no negative number of components, got {self}'
            )
        if min(self.compactness, self.gamma, self.sigma) <= 0:
            raise InputError(
                f'Propagation takes compactness, gamma and sigma above 0, got {self}'
            )
        if not (0 <= self.alpha < 1 and 0 <= self.detail <= 1):
            raise InputError(
                'Propagation takes an alpha of at least 0 and below 1, and a detail '
                f'between 0 and 1, got {self}'
            )

    @torch.no_grad()
    def __call__(
        self,
        probabilities: Tensor,
        tokens: Tokens,
        image: Tensor,
        valid: Tensor | None = None,
        window: Window | None = None,
    ) -> Tensor:
        """Refine the class probabilities of every pixel.

        Args:
            probabilities: (B, C, H, W), or (C, H, W) of one image.
            tokens: Tokens of the same images; those of one image have B = 1.
            image: (B, bands, H, W) or (bands, H, W), values as read from the file.
            valid: (B, H, W) or (H, W), pixels that are not valid (0) take no part and
                keep what they have.
            window: Rows and columns of all of these pixels in the images of the tokens;
                by default they are whole images.

        Returns:
            Refined probabilities, float32, in the shape of the given ones.
        """
        if probabilities.ndim == 3:
            batch_valid = None if valid is None else valid[None]
            return self(probabilities[None], tokens, image[None], batch_valid, window)[
                0
            ]
        before_spread = probabilities.float()
        if self.nodes == 'pixels':
            height, width = before_spread.shape[-2:]
            window = window or whole((height, width))
            return self._of_pixels(before_spread, tokens, valid, window)
        side = max(self.spacing, min(tokens.strides))
        regions = self._regions(image, valid, side)
        least, nodes = (int(number) for number in regions.aminmax())
        if not nodes:
            return before_spread
        size = before_spread.shape[-2], before_spread.shape[-1]
        positions, before, count = _average(before_spread, regions, nodes)
        features = _features(
            tokens.to(before_spread.dtype), regions, count, window or whole(size)
        )
        after = before.clone()
        for b, present in enumerate(count > 0):
            after[b, present] = self._spread(
                features[b, present], positions[b, present], before[b, present]
            )
        change = after - self.detail * before
        if self.nodes == 'tokens':
            added = _interpolated(change, count, side, size)
        else:
            added = _painted(change, regions)
        # Adding the differences within a node may give negative numbers, made tiny ones.
        refined = added.add_(before_spread, alpha=self.detail)
        refined = refined.clamp_(min=torch.finfo(before_spread.dtype).tiny)
        refined /= refined.sum(1, keepdim=True)
        return (
            refined
            if least
            else torch.where(regions[:, None] > 0, refined, before_spread)
        )

    def _spread(self, features: Tensor, positions: Tensor, before: Tensor) -> Tensor:
        """Values of nodes (N, C), spread on the graph of these nodes."""
        if self.components:
            features = principal(features, self.components)
        graph = SimilarityGraph.connect(
            features, positions, self.neighbours, self.gamma, self.sigma
        )
        return graph.spread(before, self.alpha)

    def _of_pixels(
        self, before: Tensor, tokens: Tokens, valid: Tensor | None, window: Window
    ) -> Tensor:
        """Probabilities (B, C, H, W), spread among the pixels of each window."""
        refined, tokens = before.clone(), tokens.to(before.dtype)
        images, _, height, width = before.shape
        has_data = torch.ones_like(before[:, 0], dtype=torch.bool)
        if valid is not None:
            has_data = valid > 0
        for b, top, left in product(
            range(images), range(0, height, self.window), range(0, width, self.window)
        ):
            part = has_data[b, top : top + self.window, left : left + self.window]
            rows, cols = part.nonzero(as_tuple=True)
            if len(rows) < 2:  # no neighbours
                continue
            rows, cols = rows + top, cols + left
            features = tokens.gather(
                torch.full_like(rows, b),
                rows + (window[0].start or 0),
                cols + (window[1].start or 0),
            )
            places = torch.stack([rows, cols], 1).to(before)
            values = before[b, :, rows, cols].mT
            refined[b, :, rows, cols] = self._spread(features, places, values).mT
        return refined

    def _regions(self, image: Tensor, valid: Tensor | None, side: int) -> Tensor:
        """Node of every pixel, (B, H, W): 0 = none, i + 1 = node i of its image."""
        if self.nodes == 'tokens':
            squares = _squares(image, side).expand(len(image), -1, -1)
            return squares if valid is None else torch.where(valid > 0, squares, 0)
        labels = [
            superpixels(
                pixels, side, self.compactness, None if valid is None else valid[b]
            )
            for b, pixels in enumerate(image)
        ]
        return torch.stack(labels)


def principal(features: Tensor, components: int, iterations: int = 2) -> Tensor:
    """Standardised features in fewer dimensions, with nearly the same cosines.

    Cosines need the subspace of the first principal components, but not its axes:
    subspace iteration finds it in a fraction of an eigendecomposition's time.

    Args:
        features: (N, D).
        components: Dimensions of the result; as given if there are not more.
        iterations: Of the subspace.

    Returns:
        (N, min(D, components)); zero where all rows are the same.
    """
    mean = features.mean(0)
    centred = features - mean
    # torch.std_mean over rows takes a CPU four times as long.
    std = centred.square().mean(0).sqrt()
    scaled = centred * torch.where(std > STILL * mean.abs(), 1 / std, 0.0)
    if scaled.shape[1] <= components:
        return scaled
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(scaled.shape[1], components, generator=generator).to(scaled)
    for _ in range(iterations):
        basis, _ = torch.linalg.qr(scaled.T @ (scaled @ basis))
    return scaled @ basis


def _features(tokens: Tokens, regions: Tensor, count: Tensor, window: Window) -> Tensor:
    """Mean features of nodes, (B, nodes, D).

    Those of coarse tokens are of a quarter of the pixels, if each node has one of these.
    """
    if min(tokens.strides) >= SMOOTH:
        rows, cols = (slice(part.start, part.stop, 2) for part in window)
        some = regions[:, ::2, ::2]
        features, counted = tokens.pool(some, count.shape[1], window=(rows, cols))
        if torch.equal(counted > 0, count > 0):
            return features
    return tokens.pool(regions, count.shape[1], window=window)[0]


def _average(
    probabilities: Tensor, regions: Tensor, nodes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean positions and probabilities of nodes, and their numbers of pixels."""
    size = regions.shape[-2], regions.shape[-1]
    axes = [torch.arange(n).to(probabilities) for n in size]
    places = torch.stack(torch.meshgrid(*axes, indexing='ij'))
    level = torch.cat([places.expand(len(regions), -1, -1, -1), probabilities], dim=1)
    means, count = Tokens((level,), (1,), size).pool(regions, nodes)
    positions, before = means.split([len(axes), probabilities.shape[1]], dim=2)
    return positions, before, count


def _squares(image: Tensor, side: int) -> Tensor:
    """Number of the square of every pixel, row by row and from 1, (H, W)."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device) // side
    cols = torch.arange(width, device=image.device) // side
    return rows[:, None] * -(-width // side) + cols + 1


def _painted(values: Tensor, regions: Tensor) -> Tensor:
    """The value of its node for every pixel, (B, n, C) to (B, C, H, W)."""
    padded = F.pad(values.mT, (1, 0))
    index = regions.flatten(1)[:, None].expand(-1, values.shape[2], -1)
    return padded.gather(2, index).unflatten(2, regions.shape[-2:])


def _interpolated(
    values: Tensor, count: Tensor, side: int, size: tuple[int, int]
) -> Tensor:
    """Values of squares with pixels, interpolated: (B, n, C) to (B, C, H, W)."""
    shape = -(-size[0] // side), -(-size[1] // side)
    present = (count > 0).to(values)[..., None]
    weighted = torch.cat([values * present, present], dim=2)
    # Numbers go up to the last square with a valid pixel: those after it are missing.
    missing = shape[0] * shape[1] - values.shape[1]
    grids = F.pad(weighted, (0, 0, 0, missing)).mT.unflatten(2, shape)
    pixels = Bilinear().apply(grids, side, whole(size))
    # Weights of squares without a pixel are 0, so that they add nothing to the mean; at a
    # valid pixel its own square has a weight.
    values, weight = pixels[:, :-1], pixels[:, -1:]
    return values.div_(weight.clamp_(min=torch.finfo(pixels.dtype).tiny))


def parse_propagation(spec: str) -> Propagation:
    """Make a propagation from a spec: its nodes, and constants as options.

    Args:
        spec: ``superpixels``, ``tokens`` or ``pixels``, as in
            ``superpixels?neighbours=100&alpha=0.5``; or ``published``, pixels with the
            constants of MapSR (2026).

    Returns:
        The propagation.

    Raises:
        InputError: If there are no such nodes, or an option is unknown or out of range.
    """
    member = Member.parse(spec)
    if member.kind not in (*NODES, 'published') or member.name:
        raise InputError(
            f'Propagation must be none or one of {", ".join(NODES)}, published, with '
            f'options, not {spec!r}.'
        )
    if member.kind == 'published':
        for name, value in _PUBLISHED.items():
            if name not in member.options:
                member = member.with_option(name, value)
        return member.build(Propagation)
    return member.with_option('nodes', member.kind).build(Propagation)
