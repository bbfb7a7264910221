# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Upsampling operators: linear, row-stochastic maps from grid tokens to pixels."""

from abc import ABC, abstractmethod
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.geo.grid import Window

# From this stride on, products with small dense matrices are faster on a CPU than torch's
# interpolation: at stride 14, 448 x 448 pixels of 8 channels take 1.2 ms and 2.1 ms.
COARSE = 8


class Taps(NamedTuple):
    """The rows of U that belong to pixels, K entries each.

    Pixel n is ``sum_k weights[n, k] * grid.flatten(-2)[..., base[n] + offsets[k]]``.
    Where a neighbour lies beyond the grid its weight is zero, and the index means
    nothing (clamp it).

    Args:
        base: (…) flat index of each pixel's reference token.
        offsets: (K,) flat index of the neighbours relative to it, the same for all
            pixels.
        weights: (…, K), non-negative, every row sums to one.
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
    def apply(self, grid: Tensor, stride: int, window: Window) -> Tensor:
        """Upsample, U F.

        Args:
            grid: (B, K, h, w) values of the tokens.
            stride: Pixels a token, along either axis.
            window: Rows and columns of the pixels that are wanted, within
                (h * stride, w * stride).

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

        The three indices are broadcast: one number each for pixels here and there, or
        an axis each for all pixels of an image.

        Args:
            batch: Index of each pixel's image.
            rows: Row of each pixel.
            cols: Column of each pixel.
            stride: Pixels a token, along either axis.
            shape: Tokens (h, w) of the grid.
            dtype: Floating point type of the weights.

        Returns:
            The pixels' neighbours and weights.
        """


def whole(size: tuple[int, int]) -> Window:
    """All rows and columns of an image.

    Args:
        size: Its height and width.
    """
    return slice(0, size[0]), slice(0, size[1])


def seen(pixels: slice, stride: int) -> slice:
    """Tokens that pixels are interpolated between by :class:`Bilinear`, along one axis.

    Args:
        pixels: The pixels.
        stride: Pixels a token.

    Returns:
        The tokens; the last may lie beyond the grid.
    """
    beyond = min(stride - 1, 1)
    first = max(pixels.start // stride - beyond, 0)
    return slice(first, -(-pixels.stop // stride) + beyond)


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
    first = grid[:, :, :height, left : left + width]
    second = grid[:, :, dy : dy + height, right : right + width]
    products = torch.einsum('bdij,bdij->bij', first, second)
    return F.pad(products, (left, w - width - left, 0, h - height))


class Bilinear(Upsampler):
    """Bilinear interpolation between token centres (``align_corners=False``).

    U = A_rows (x) A_cols, two bidiagonal matrices; beyond the outermost centres the
    value is held. The same numbers as :func:`torch.nn.functional.interpolate` of the
    whole grid, cropped.
    """

    def apply(self, grid: Tensor, stride: int, window: Window) -> Tensor:
        """Upsample, U F = A_rows F A_cols^T; see :meth:`Upsampler.apply`."""
        if stride >= COARSE:
            down, across = (
                _Axis.of(pixels, stride, tokens, grid).matrix
                for pixels, tokens in zip(window, grid.shape[-2:], strict=True)
            )
            return down @ (grid @ across.T)
        if stride > 1:
            # One token more than the crop covers is all that its pixels can see.
            h, w = (
                min(n, -(-pixels.stop // stride) + 1)
                for n, pixels in zip(grid.shape[-2:], window, strict=True)
            )
            grid = F.interpolate(
                grid[..., :h, :w],
                size=(h * stride, w * stride),
                mode='bilinear',
                align_corners=False,
            )
        return grid[..., window[0], window[1]]

    def adjoint(self, maps: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
        """U^T m = A_rows^T m A_cols; see :meth:`Upsampler.adjoint`."""
        if stride == 1:
            below = shape[0] - maps.shape[-2], shape[1] - maps.shape[-1]
            return F.pad(maps, (0, below[1], 0, below[0]))
        size = maps.shape[-2], maps.shape[-1]
        rows, cols = (
            _Axis.of(pixels, stride, tokens, maps)
            for pixels, tokens in zip(whole(size), shape, strict=True)
        )
        return rows.matrix.T @ (maps @ cols.matrix)

    def squared_norms(self, grid: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Squared norms from five dot-product maps; see :meth:`Upsampler`.

        With tokens F00, F01, F10, F11 round a pixel and weights (1-a, a) down and
        (1-b, b) across, the quadratic form is separable for each token offset:
        squared weights for equal rows (columns), a(1-a) for neighbouring ones.
        """
        if stride == 1:
            pixels = grid[..., : size[0], : size[1]]
            return torch.einsum('bdij,bdij->bij', pixels, pixels)
        rows, cols = (
            _Axis.of(pixels, stride, tokens, grid)
            for pixels, tokens in zip(whole(size), grid.shape[-2:], strict=True)
        )
        same_row, next_row = rows.matrix.square(), rows.cross
        same_col, next_col = cols.matrix.square().T, cols.cross.T
        squares = neighbour_products(grid, 0, 0)
        right = neighbour_products(grid, 0, 1)
        down = neighbour_products(grid, 1, 0)
        # <F00, F11> + <F01, F10>: the second is held by the upper right token.
        diagonal = neighbour_products(grid, 1, 1)
        diagonal = diagonal + F.pad(neighbour_products(grid, 1, -1)[..., 1:], (0, 1))
        in_row = squares @ same_col + 2 * (right @ next_col)
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
            base = rows * shape[1] + cols
            weights = torch.ones(*base.shape, 1, dtype=dtype, device=rows.device)
            return Taps(base, rows.new_zeros(1), weights)
        top, down = _places(rows, stride, shape[0])
        left, right = _places(cols, stride, shape[1])
        base = top * shape[1] + left
        down, right = down.to(dtype), right.to(dtype)
        weights = torch.empty(*base.shape, 4, dtype=dtype, device=rows.device)
        # One at a time: a product over the short last axes takes ten times as long.
        for k, (above, beside) in enumerate(
            product((1 - down, down), (1 - right, right))
        ):
            torch.mul(above, beside, out=weights[..., k])
        offsets = rows.new_tensor([0, 1, shape[1], shape[1] + 1])
        return Taps(base, offsets, weights)


def _places(pixels: Tensor, stride: int, tokens: int) -> tuple[Tensor, Tensor]:
    """As :func:`_interpolation`, once for each line that pixels share."""
    if not pixels.numel():
        return _interpolation(pixels, stride, tokens)
    line = torch.arange(int(pixels.max()) + 1, device=pixels.device)
    first, second = _interpolation(line, stride, tokens)
    return first[pixels], second[pixels]


def _interpolation(pixels: Tensor, stride: int, tokens: int) -> tuple[Tensor, Tensor]:
    """First token and weight of the second, for pixel centres along one axis."""
    position = ((pixels.double() + 0.5) / stride - 0.5).clamp(0, tokens - 1)
    first = position.floor()
    return first.long(), position - first


class _Axis(NamedTuple):
    """One axis of bilinear interpolation, as small dense matrices (pixels, tokens).

    Dense, because a product with them runs at the speed of a matrix product and is
    differentiable and deterministic on every device.

    Args:
        matrix: A, the pixel's weights of its two tokens.
        cross: The product of the two weights, in the column of the first token.
    """

    matrix: Tensor
    cross: Tensor

    @classmethod
    def of(cls, pixels: slice, stride: int, tokens: int, like: Tensor) -> '_Axis':
        """The axis of some pixels, in the type and on the device of a tensor.

        Chips are alike: it is kept for the next one, whose few dozen small operations
        would take a GPU as long as many on the pixels themselves.
        """
        # A compiler would trace through the cache, with a warning.
        make = _axis if torch.compiler.is_compiling() else _cached_axis
        return make(pixels.start, pixels.stop, stride, tokens, like.dtype, like.device)


def _axis(
    start: int,
    stop: int,
    stride: int,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
) -> _Axis:
    """The axis of pixels from *start* to before *stop*."""
    index = torch.arange(start, stop, device=device)
    first, second = _interpolation(index, stride, tokens)
    first, second = first[:, None], second.to(dtype)[:, None]
    after = (first + 1).clamp(max=tokens - 1)
    zeros = second.new_zeros(len(index), tokens)
    matrix = zeros.scatter(1, first, 1 - second).scatter_add(1, after, second)
    return _Axis(matrix, zeros.scatter(1, first, (1 - second) * second))


# Made outside of inference mode, since training may use it later.
_cached_axis = lru_cache(maxsize=8)(torch.inference_mode(False)(_axis))
