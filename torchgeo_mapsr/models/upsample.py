# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Upsampling operators: linear, row-stochastic maps from grid tokens to pixels."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Taps(NamedTuple):
    """The rows of U that belong to N pixels, K entries each.

    Pixel n is ``sum_k weights[n, k] * grid.flatten(-2)[..., base[n] + offsets[k]]``.
    Where a neighbour lies beyond the grid its weight is zero, and the index means
    nothing (clamp it).

    Args:
        base: (N,) flat index of each pixel's reference token.
        offsets: (K,) flat index of the neighbours relative to it, the same for all
            pixels.
        weights: (N, K), non-negative, every row sums to one.
    """

    base: Tensor
    offsets: Tensor
    weights: Tensor


class Upsampler(ABC):
    """A linear operator U whose every row is a convex combination of few tokens.

    Token (i, j) of a grid of stride s covers the pixels [i*s, (i+1)*s) x
    [j*s, (j+1)*s). U does not depend on the values that it upsamples, so it commutes
    with everything linear in the channels: W (U F) = U (F W^T).
    """

    @abstractmethod
    def apply(self, grid: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Upsample, U F.

        Args:
            grid: (B, K, h, w) values of the tokens.
            stride: Pixels a token, along either axis.
            size: Pixels (H, W) of the result, at most (h * stride, w * stride).

        Returns:
            (B, K, H, W) values of the pixels.
        """

    @abstractmethod
    def adjoint(self, maps: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
        """Give every pixel's value back to the tokens it came from, U^T m.

        Args:
            maps: (B, K, H, W) values of the pixels.
            stride: Pixels a token, along either axis.
            shape: Tokens (h, w) of the result.

        Returns:
            (B, K, h, w) values of the tokens.
        """

    @abstractmethod
    def squared_norms(self, grid: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Squared length of every pixel's upsampled vector, without that vector.

        Rests on |sum_k w_k F_k|^2 = sum_kl w_k w_l <F_k, F_l>: only dot products of
        neighbouring tokens are needed, one map for each distinct offset between two
        neighbours of a pixel.

        Args:
            grid: (B, D, h, w) features of the tokens.
            stride: Pixels a token, along either axis.
            size: Pixels (H, W) of the result.

        Returns:
            (B, H, W) squared norms.
        """

    @abstractmethod
    def taps(
        self,
        batch: Tensor,
        rows: Tensor,
        cols: Tensor,
        stride: int,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> Taps:
        """Rows of U for chosen pixels.

        Args:
            batch: (N,) index of each pixel's image.
            rows: (N,) row of each pixel.
            cols: (N,) column of each pixel.
            stride: Pixels a token, along either axis.
            shape: Tokens (h, w) of the grid.
            dtype: Floating point type of the weights.

        Returns:
            The pixels' neighbours and weights.
        """


def neighbour_products(grid: Tensor, dy: int, dx: int) -> Tensor:
    """Dot product of every token with the one at an offset.

    Args:
        grid: (B, D, h, w) features.
        dy: Rows down, not negative.
        dx: Columns to the right.

    Returns:
        (B, h, w); zero where the other token is beyond the grid.
    """
    h, w = grid.shape[-2:]
    height, width = max(h - dy, 0), max(w - abs(dx), 0)
    left, right = min(max(-dx, 0), w), min(max(dx, 0), w)
    here = grid[:, :, :height, left : left + width]
    there = grid[:, :, dy : dy + height, right : right + width]
    products = torch.einsum('bdij,bdij->bij', here, there)
    return F.pad(products, (left, w - width - left, 0, h - height))


class Bilinear(Upsampler):
    """Bilinear interpolation between token centres (``align_corners=False``).

    U = A_rows (x) A_cols, two bidiagonal matrices; beyond the outermost centres the
    value is held. The same numbers as :func:`torch.nn.functional.interpolate` of the
    whole grid, cropped.
    """

    def apply(self, grid: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Upsample, U F; see :meth:`Upsampler.apply`."""
        if stride > 1:
            # One token more than the crop covers is all that its pixels can see.
            h, w = (
                min(n, -(-m // stride) + 1)
                for n, m in zip(grid.shape[-2:], size, strict=True)
            )
            grid = F.interpolate(
                grid[..., :h, :w],
                size=(h * stride, w * stride),
                mode='bilinear',
                align_corners=False,
            )
        return grid[..., : size[0], : size[1]]

    def adjoint(self, maps: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
        """U^T m = A_rows^T m A_cols; see :meth:`Upsampler.adjoint`."""
        if stride == 1:
            below = shape[0] - maps.shape[-2], shape[1] - maps.shape[-1]
            return F.pad(maps, (0, below[1], 0, below[0]))
        rows = _Axis(maps.shape[-2], stride, shape[0], maps)
        cols = _Axis(maps.shape[-1], stride, shape[1], maps)
        return rows.matrix().T @ (maps @ cols.matrix())

    def squared_norms(self, grid: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Squared norms from five dot-product maps; see :meth:`Upsampler`.

        With tokens F00, F01, F10, F11 round a pixel and weights (1-a, a) down and
        (1-b, b) across, the quadratic form is separable for each token offset:
        squared weights for equal rows (columns), a(1-a) for neighbouring ones.
        """
        if stride == 1:
            pixels = grid[..., : size[0], : size[1]]
            return torch.einsum('bdij,bdij->bij', pixels, pixels)
        rows = _Axis(size[0], stride, grid.shape[-2], grid)
        cols = _Axis(size[1], stride, grid.shape[-1], grid)
        same_row, next_row = rows.matrix().square(), rows.cross()
        same_col, next_col = cols.matrix().square().T, cols.cross().T
        own = neighbour_products(grid, 0, 0)
        right = neighbour_products(grid, 0, 1)
        down = neighbour_products(grid, 1, 0)
        # <F00, F11> + <F01, F10>: the second is held by the upper right token.
        diagonal = neighbour_products(grid, 1, 1)
        diagonal = diagonal + F.pad(neighbour_products(grid, 1, -1)[..., 1:], (0, 1))
        in_row = own @ same_col + 2 * (right @ next_col)
        across = 2 * (down @ same_col + diagonal @ next_col)
        return (same_row @ in_row + next_row @ across).clamp(min=0)

    def taps(
        self,
        batch: Tensor,
        rows: Tensor,
        cols: Tensor,
        stride: int,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> Taps:
        """Four neighbours a pixel, one at stride 1; see :meth:`Upsampler.taps`."""
        if stride == 1:
            offsets = rows.new_zeros(1)
            weights = torch.ones(len(rows), 1, dtype=dtype, device=rows.device)
            return Taps(rows * shape[1] + cols, offsets, weights)
        top, down = _interpolation(rows, stride, shape[0])
        left, right = _interpolation(cols, stride, shape[1])
        vertical = torch.stack([1 - down, down], dim=-1)
        horizontal = torch.stack([1 - right, right], dim=-1)
        weights = (vertical[:, :, None] * horizontal[:, None, :]).flatten(1)
        offsets = rows.new_tensor([0, 1, shape[1], shape[1] + 1])
        return Taps(top * shape[1] + left, offsets, weights.to(dtype))


def _interpolation(pixels: Tensor, stride: int, tokens: int) -> tuple[Tensor, Tensor]:
    """First token and weight of the second, for pixel centres along one axis."""
    position = ((pixels.double() + 0.5) / stride - 0.5).clamp(0, tokens - 1)
    first = position.floor()
    return first.long(), position - first


class _Axis:
    """One axis of bilinear interpolation, as small dense matrices (pixels, tokens).

    Dense, because a product with them runs at the speed of a matrix product and is
    differentiable and deterministic on every device.
    """

    def __init__(self, pixels: int, stride: int, tokens: int, like: Tensor) -> None:
        index = torch.arange(pixels, device=like.device)
        first, second = _interpolation(index, stride, tokens)
        self.first, self.second = first[:, None], second.to(like.dtype)[:, None]
        self.zeros = like.new_zeros(pixels, tokens)

    def matrix(self) -> Tensor:
        """A: the pixel's weights of its two tokens."""
        after = (self.first + 1).clamp(max=self.zeros.shape[1] - 1)
        matrix = self.zeros.scatter(1, self.first, 1 - self.second)
        return matrix.scatter_add(1, after, self.second)

    def cross(self) -> Tensor:
        """The product of the two weights, in the column of the first token."""
        return self.zeros.scatter(1, self.first, (1 - self.second) * self.second)


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
        radius: r, in tokens.
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

    def apply(self, grid: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Upsample, U F, block by block; see :meth:`Upsampler.apply`."""
        weights, shape = self.weights(stride), self._shape(stride)
        neighbours = self._unfold(grid[..., : shape[0], : shape[1]])
        blocks = torch.einsum('btpk,bckt->bctp', weights.to(grid), neighbours)
        pixels = F.pixel_shuffle(
            blocks.permute(0, 1, 3, 2).reshape(len(grid), -1, *shape), stride
        )
        return pixels[..., : size[0], : size[1]]

    def adjoint(self, maps: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
        """Give values back, U^T m; see :meth:`Upsampler.adjoint`."""
        weights, (h, w) = self.weights(stride), self._shape(stride)
        below = h * stride - maps.shape[-2], w * stride - maps.shape[-1]
        maps = F.pad(maps, (0, below[1], 0, below[0]))
        blocks = F.pixel_unshuffle(maps, stride)
        blocks = blocks.reshape(*maps.shape[:2], stride**2, h * w)
        given = torch.einsum('btpk,bcpt->bckt', weights.to(maps), blocks)
        side = 2 * self.radius + 1
        grid = F.fold(given.flatten(1, 2), (h, w), side, padding=self.radius)
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
