# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Joint bilateral upsampling, guided by the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.geo.grid import Window
from .upsample import Taps, Upsampler, neighbour_products


class JointBilateral(Upsampler):
    r"""Joint bilateral upsampling: weights that follow the edges of the image.

    Every pixel p averages the (2r+1)^2 tokens q round its own one with weights

    .. math::
        w_{pq} \propto \exp(-|p - q|^2 / 2\sigma_s^2)
                       \exp(-|I_p - I_q|^2 / 2\sigma_r^2)

    (Kopf et al. 2007, eq. 3), p and q in units of tokens. I_q is the mean of the
    guide over the token's pixels, where the paper samples one pixel: a token's
    feature describes all of them. At stride 1 this is the joint bilateral filter.
    Tokens beyond the guide take no part.

    References:
        * https://doi.org/10.1145/1276377.1276497

    Args:
        guide: (B, C, H, W) image at full resolution, floating point.
        radius: R, in tokens.
        sigma_space: Standard deviation of the spatial kernel, in tokens.
        sigma_range: Standard deviation of the range kernel, in units of the guide.
    """

    def __init__(
        self,
        guide: Tensor,
        radius: int = 2,
        sigma_space: float = 0.75,
        sigma_range: float = 0.1,
    ) -> None:
        self.guide = guide
        self.radius = radius
        self.sigma_space = sigma_space
        self.sigma_range = sigma_range
        self._weights: dict[int, Tensor] = {}

    def apply(self, grid: Tensor, stride: int, window: Window) -> Tensor:
        """Upsample, U F, block by block; see :meth:`Upsampler.apply`."""
        weights, shape = self.weights(stride), self._shape(stride)
        neighbours = self._unfold(grid[..., : shape[0], : shape[1]])
        blocks = torch.einsum('btpk,bckt->bctp', weights.to(grid), neighbours)
        pixels = F.pixel_shuffle(
            blocks.permute(0, 1, 3, 2).reshape(len(grid), -1, *shape), stride
        )
        return pixels[..., window[0], window[1]]

    def adjoint(self, maps: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
        """Give values back, U^T m; see :meth:`Upsampler.adjoint`."""
        weights, (h, w) = self.weights(stride), self._shape(stride)
        below = h * stride - maps.shape[-2], w * stride - maps.shape[-1]
        maps = F.pad(maps, (0, below[1], 0, below[0]))
        blocks = F.pixel_unshuffle(maps, stride)
        blocks = blocks.reshape(*maps.shape[:2], stride**2, h * w)
        blocks_grad = torch.einsum('btpk,bcpt->bckt', weights.to(maps), blocks)
        side = 2 * self.radius + 1
        grid = F.fold(blocks_grad.flatten(1, 2), (h, w), side, padding=self.radius)
        return F.pad(grid, (0, shape[1] - w, 0, shape[0] - h))

    def squared_norms(self, grid: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Squared norms, w^T G w in every block; see :meth:`Upsampler`.

        All pixels of a token share the Gram matrix G of its neighbours, put together
        from the dot-product maps of a half plane of offsets.
        """
        weights, shape = self.weights(stride).to(grid), self._shape(stride)
        gram = self._gram(grid[..., : shape[0], : shape[1]])
        blocks = ((weights @ gram) * weights).sum(-1)
        blocks = blocks.transpose(1, 2).reshape(len(grid), -1, *shape)
        norms = F.pixel_shuffle(blocks, stride)[:, 0]
        return norms[:, : size[0], : size[1]].clamp(min=0)

    def taps(
        self,
        batch: Tensor,
        rows: Tensor,
        cols: Tensor,
        stride: int,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> Taps:
        """(2r+1)^2 neighbours a pixel; see :meth:`Upsampler.taps`."""
        i, j = rows // stride, cols // stride
        pixel = (rows % stride) * stride + cols % stride
        token = i * self._shape(stride)[1] + j
        weights = self.weights(stride)[batch, token, pixel].to(dtype)
        reach = torch.arange(-self.radius, self.radius + 1, device=rows.device)
        offsets = (reach[:, None] * shape[1] + reach).flatten()
        return Taps(i * shape[1] + j, offsets, weights)

    def weights(self, stride: int) -> Tensor:
        """All weights, kept for the next operation at the same stride.

        Args:
            stride: Pixels a token.

        Returns:
            (B, tokens, stride * stride pixels, (2r+1)^2 neighbours).
        """
        if stride not in self._weights:
            self._weights[stride] = self._compute_weights(stride)
        return self._weights[stride]

    def _compute_weights(self, stride: int) -> Tensor:
        """The kernels of the class docstring, normalised over the neighbours."""
        guide, (h, w) = self.guide, self._shape(stride)
        means = F.avg_pool2d(guide, stride, ceil_mode=True, count_include_pad=False)
        below = h * stride - guide.shape[-2], w * stride - guide.shape[-1]
        guide = F.pad(guide, (0, below[1], 0, below[0]), mode='replicate')
        pixels = F.pixel_unshuffle(guide, stride)
        pixels = pixels.reshape(*guide.shape[:2], stride**2, h * w)
        neighbours = self._unfold(means)
        colour = guide.new_zeros(len(guide), h * w, stride**2, neighbours.shape[2])
        for channel in range(guide.shape[1]):
            pixel = pixels[:, channel].transpose(1, 2)[..., None]
            token = neighbours[:, channel].transpose(1, 2)[:, :, None]
            colour += (pixel - token).square()
        reach = torch.arange(-self.radius, self.radius + 1).to(guide)
        inner = (torch.arange(stride).to(guide) + 0.5) / stride - 0.5
        distance = (inner[:, None] - reach).square()
        space = distance[:, None, :, None] + distance[None, :, None, :]
        logits = -colour / (2 * self.sigma_range**2)
        logits -= space.reshape(stride**2, -1) / (2 * self.sigma_space**2)
        inside = self._unfold(torch.ones_like(means[:1, :1]))[0, 0].T[:, None] > 0
        return logits.masked_fill(~inside, -torch.inf).softmax(-1)

    def _shape(self, stride: int) -> tuple[int, int]:
        """Tokens that cover the guide."""
        height, width = self.guide.shape[-2:]
        return -(-height // stride), -(-width // stride)

    def _unfold(self, grid: Tensor) -> Tensor:
        """(B, C, h, w) to the neighbours of every token, (B, C, K, h * w)."""
        side = 2 * self.radius + 1
        unfolded = F.unfold(grid, side, padding=self.radius)
        return unfolded.reshape(*grid.shape[:2], side**2, -1)

    def _gram(self, grid: Tensor) -> Tensor:
        """Gram matrices of every token's neighbours, (B, h * w, K, K)."""
        side = 2 * self.radius + 1
        gram = grid.new_zeros(len(grid), grid[0, 0].numel(), side**2, side**2)
        index = torch.arange(side**2, device=grid.device).reshape(side, side)
        for dy in range(side):
            for dx in range(-side + 1 if dy else 0, side):
                products = neighbour_products(grid, dy, dx)[:, None]
                # Pairs (k, l) of the window whose second is at this offset.
                left, right = max(-dx, 0), max(dx, 0)
                width = side - abs(dx)
                k = index[: side - dy, left : left + width].flatten()
                m = index[dy:, right : right + width].flatten()
                pairs = self._unfold(products)[:, 0, k].transpose(1, 2)
                gram[:, :, k, m] = pairs
                gram[:, :, m, k] = pairs
        return gram
