# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A pyramid of token grids, and what is linear in its high-resolution features."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datasets.geo.grid import Window
from .upsample import Bilinear, Upsampler, seen, whole

# Rows of a level of stride 1 that are made at once where a part is enough: the allocator
# asks the system for blocks above 32 MB each time, which takes as long as the level itself.
PART = 64

# Made once: torch.compile cannot trace the making of objects.
BILINEAR = Bilinear()


@dataclass(frozen=True, eq=False)
class Tokens:
    """Features of an image batch, as token grids of one or several strides.

    Token (i, j) of level l covers the pixels [i*s_l, (i+1)*s_l) x [j*s_l, (j+1)*s_l).
    With U_l the upsampling operator and F_l the (h_l w_l, D_l) grid of a level, the
    high-resolution feature vector of a pixel is the concatenation of its rows of
    U_l F_l, of length D = sum_l D_l. That D x H x W map is never made: every method
    states the identity that its short form rests on. A level of stride 1 is at the
    pixels already, whichever the upsampler: there U is the identity.

    Immutable: methods return new objects or tensors, and are differentiable.

    Args:
        levels: Grids, (B, D_l, h_l, w_l). They may reach beyond the image (padding);
            what is beyond counts as a neighbour and is cropped.
        strides: Pixels a token, for each level.
        size: Height and width (H, W) of the image in pixels.
        upsampler: The operator U.

    Raises:
        ValueError: If a grid does not cover the image.
    """

    levels: tuple[Tensor, ...]
    strides: tuple[int, ...]
    size: tuple[int, int]
    upsampler: Upsampler = field(default_factory=lambda: BILINEAR)

    def __post_init__(self) -> None:
        """Check that every level covers the image."""
        for level, stride in zip(self.levels, self.strides, strict=True):
            h, w = level.shape[-2:]
            if h * stride < self.size[0] or w * stride < self.size[1]:
                raise ValueError(
                    f'A {h} x {w} token grid of stride {stride} does not cover an '
                    f'image of {self.size[0]} x {self.size[1]} pixels'
                )

    @classmethod
    def concat(cls, members: Sequence['Tokens']) -> 'Tokens':
        """All members' levels in order: concatenated feature vectors.

        Args:
            members: Tokens of the same images under bilinear upsampling.

        Returns:
            The concatenation; lazy where a member is.
        """
        if any(isinstance(member, LazyTokens) for member in members):
            return _ConcatTokens(members)
        return Tokens(
            tuple(level for member in members for level in member.levels),
            tuple(stride for member in members for stride in member.strides),
            members[0].size,
        )

    @property
    def device(self) -> torch.device:
        """Where the grids are."""
        return self.levels[0].device

    @property
    def channels(self) -> tuple[int, ...]:
        """Features of each level, D_l; their sum is D."""
        return tuple(level.shape[1] for level in self.levels)

    def parts(self, window: Window | None = None) -> Iterator['Part']:
        """The features part by part, each when it is asked for.

        A fit takes little of many features. Where grids are made when they are asked
        for, only one part is there at a time.

        Args:
            window: Rows and columns of the pixels that are wanted; all by default.

        Yields:
            The levels, one after another; together they have all wanted pixels, and
            maybe others.
        """
        for level, stride, columns in zip(
            self.levels, self.strides, self._columns(), strict=True
        ):
            tokens = Tokens((level,), (stride,), self.size, self.upsampler)
            yield Part(columns, whole(self.size), tokens)

    def _columns(self) -> list[slice]:
        """Where the features of each level are among all."""
        ends = list(accumulate(self.channels))
        return [slice(end - n, end) for end, n in zip(ends, self.channels, strict=True)]

    def with_upsampler(self, upsampler: Upsampler) -> 'Tokens':
        """The same grids under another operator U.

        Args:
            upsampler: The operator.

        Returns:
            New tokens that share the grids.
        """
        return Tokens(self.levels, self.strides, self.size, upsampler)

    def to(self, target: torch.device | torch.dtype | str) -> 'Tokens':
        """Move or convert the grids, as :meth:`torch.Tensor.to`.

        Args:
            target: A device or a floating point type.

        Returns:
            New tokens.
        """
        levels = tuple(level.to(target) for level in self.levels)
        return Tokens(levels, self.strides, self.size, self.upsampler)

    def affine(self, scale: Tensor, shift: Tensor | None = None) -> 'Tokens':
        """Scale and shift the features: (U F) a + b = U (F a + b), as U 1 = 1.

        Args:
            scale: (D,) factors a.
            shift: (D,) summands b.

        Returns:
            New tokens.
        """
        scales = scale.split(self.channels)
        levels = [
            level * part.to(level)[:, None, None]
            for level, part in zip(self.levels, scales, strict=True)
        ]
        if shift is not None:
            shifts = shift.split(self.channels)
            levels = [
                level + part.to(level)[:, None, None]
                for level, part in zip(levels, shifts, strict=True)
            ]
        return Tokens(tuple(levels), self.strides, self.size, self.upsampler)

    def project(
        self, weight: Tensor, bias: Tensor | None = None, window: Window | None = None
    ) -> Tensor:
        """Linear scores of every pixel, W (U F) + b = sum_l U_l (F_l W_l^T) + b.

        Args:
            weight: (K, D) weights.
            bias: (K,) intercepts.
            window: Rows and columns of the pixels that are wanted; all by default.

        Returns:
            (B, K, H, W) scores, or of the window's size.
        """
        scores = []
        window = window or whole(self.size)
        parts = weight.split(self.channels, dim=1)
        for level, stride, part in zip(self.levels, self.strides, parts, strict=True):
            grid = torch.einsum('kd,bdij->bkij', part.to(level), level)
            scores.append(self._operator(stride).apply(grid, stride, window))
        total = torch.stack(scores).sum(0) if len(scores) > 1 else scores[0]
        return total if bias is None else total + bias.to(total)[:, None, None]

    def squared_norms(self) -> Tensor:
        """Squared length of every pixel's features, |U F|^2 = sum_l |U_l F_l|^2.

        Returns:
            (B, H, W), from dot products of neighbouring tokens (see
            :meth:`Upsampler.squared_norms`).
        """
        norms = [
            self._operator(stride).squared_norms(level, stride, self.size)
            for level, stride in zip(self.levels, self.strides, strict=True)
        ]
        return torch.stack(norms).sum(0)

    def norms(self) -> Tensor:
        """Length of every pixel's features, |U F|.

        Returns:
            (B, H, W).
        """
        return self.squared_norms().sqrt()

    def adjoint(self, maps: Tensor) -> Tensor:
        """Sums of features weighted by maps, sum_x m(x) (U F)(x) = F^T (U^T m).

        Args:
            maps: (B, K, H, W) weights of the pixels.

        Returns:
            (B, K, D) weighted sums.
        """
        sums = []
        for level, stride in zip(self.levels, self.strides, strict=True):
            h, w = level.shape[-2:]
            weights = self._operator(stride).adjoint(maps.to(level), stride, (h, w))
            sums.append(torch.einsum('bkij,bdij->bkd', weights, level))
        return torch.cat(sums, dim=-1)

    def gather(self, batch: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """High-resolution features of chosen pixels, K tokens each.

        Args:
            batch: (N,) index of each pixel's image.
            rows: (N,) row of each pixel.
            cols: (N,) column of each pixel.

        Returns:
            (N, D) rows of U F.
        """
        levels = self.levels
        first, features = 0, levels[0].new_empty(len(batch), sum(self.channels))
        for level, stride in zip(levels, self.strides, strict=True):
            h, w = level.shape[-2:]
            base, offsets, weights = self._operator(stride).taps(
                batch, rows, cols, stride, (h, w), level.dtype
            )
            # A neighbour beyond the grid has weight zero: any valid index serves.
            index = (base[:, None] + offsets).clamp(0, h * w - 1)
            # Written into its place: joining parts at the end would hold them twice.
            features[:, first : first + level.shape[1]] = F.embedding_bag(
                index + (batch * (h * w))[:, None],
                _rows(level),
                per_sample_weights=weights,
                mode='sum',
            )
            first += level.shape[1]
        return features

    def pool(
        self,
        mask_region: Tensor,
        n: int,
        valid: Tensor | None = None,
        window: Window | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean features of every region, R F with R = (region average) U.

        The weight of a token in a region is the sum of its weights in the region's
        pixels, found without looking at a feature; then one sparse product.

        Args:
            mask_region: (B, H, W) int64, 0 where a pixel belongs to no region, i + 1
                where it belongs to region i of its image.
            n: Regions an image.
            valid: (B, H, W), pixels that are not valid (0) are left out.
            window: Rows and columns of all of these pixels, which may have steps; by
                default they are the whole images.

        Returns:
            (B, n, D) means, zero for a region without a pixel, and (B, n) int64
            numbers of pixels.
        """
        images = len(mask_region)
        inside = mask_region > 0
        if valid is not None:
            inside = inside & (valid > 0)
        # Pixels of no region are one more region, after all others.
        before = n * torch.arange(images, device=mask_region.device) - 1
        region = mask_region + before[:, None, None]
        region = torch.where(inside, region, images * n)
        count = torch.bincount(region.flatten(), minlength=images * n + 1)
        window = window or whole(self.size)
        sums = [
            self._pool_level(level, stride, region, count, window)
            for level, stride in zip(self.levels, self.strides, strict=True)
        ]
        means = torch.cat(sums, dim=1) / count[:-1].clamp(min=1)[:, None]
        return means.view(images, n, -1), count[:-1].view(images, n)

    def _pool_level(
        self, level: Tensor, stride: int, region: Tensor, count: Tensor, window: Window
    ) -> Tensor:
        """Sums of U F over all regions but the last, (regions - 1, D_l)."""
        device, images, (rows, cols) = region.device, len(region), window
        every = torch.arange(len(count), device=device)
        if stride == 1:
            # A pixel is its token.
            pixels = _rows(level[..., rows, cols])
            owner, sums = _sums_of_runs(narrow(region.flatten(), len(count)), pixels)
            order = owner.argsort(stable=True)
            first = torch.searchsorted(owner[order], every)
            return F.embedding_bag(order, sums, first, mode='sum')[:-1]
        h, w = level.shape[-2:]
        base, offsets, weights = self._operator(stride).taps(
            torch.arange(images, device=device)[:, None, None],
            torch.arange(rows.start, rows.stop, rows.step or 1, device=device)[:, None],
            torch.arange(cols.start, cols.stop, cols.step or 1, device=device),
            stride,
            (h, w),
            level.dtype,
        )
        # Pixels of one region with the same reference token share all their tokens:
        # their weights are added up first, in an order that is sorted by region.
        key = narrow(region * (h * w) + base, len(count) * h * w)
        weights = weights.expand(*region.shape, -1).flatten(0, 2)
        key, weights = _sums_of_runs(key.flatten(), weights)
        key, inverse = torch.unique(key, return_inverse=True)
        summed = weights.new_zeros(len(key), len(offsets))
        summed = summed.index_add(0, inverse, weights)
        owner = key.div(h * w, rounding_mode='floor').long()
        image = (owner * images).div(len(count) - 1, rounding_mode='floor')
        index = ((key % (h * w))[:, None] + offsets).clamp(0, h * w - 1)
        index = index + (image.clamp(max=images - 1) * (h * w))[:, None]
        first = torch.searchsorted(owner, every)
        return F.embedding_bag(
            index.flatten(),
            _rows(level),
            first * len(offsets),
            per_sample_weights=summed.flatten(),
            mode='sum',
        )[:-1]

    def _operator(self, stride: int) -> Upsampler:
        """U of a level."""
        return BILINEAR if stride == 1 else self.upsampler


class Part(NamedTuple):
    """Some of the features of an image.

    Args:
        columns: Where they are among all features of a pixel.
        window: Rows and columns of the image that they are of.
        tokens: They, by themselves.
    """

    columns: slice
    window: Window
    tokens: Tokens


class LazyTokens(Tokens):
    """Tokens whose grids are made when they are asked for, on the CPU or a GPU.

    A backbone that has a shorter way from images to linear scores than through its
    features overrides :meth:`project`. Everything else makes the grids.

    Args:
        channels: Features of each level, D_l.
        strides: Pixels a token, for each level.
        size: Height and width (H, W) of the image in pixels.
        device: Where the grids will be.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        # Not by the parent's __init__, which checks grids that are not made yet.
        fields = {
            '_channels': tuple(channels),
            '_device': device,
            'strides': tuple(strides),
            'size': size,
            'upsampler': BILINEAR,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @abstractmethod
    def make_level(self, index: int, window: Window | None = None) -> Tensor:
        """Make a grid.

        Args:
            index: Number of the level.
            window: Rows and columns of the grid that are wanted; all by default.

        Returns:
            (B, D_l, h_l, w_l) float32.
        """

    def parts(self, window: Window | None = None) -> Iterator['Part']:
        """Parts of which none is kept: of each level what wanted pixels see.

        On a CPU, a level of stride 1 comes in some rows at a time. See
        :meth:`Tokens.parts`.
        """
        if '_levels' in vars(self):
            yield from super().parts(window)
            return
        rows, cols = window or whole(self.size)
        for index, columns in enumerate(self._columns()):
            stride = self.strides[index]
            by_rows = stride == 1 and self.device.type == 'cpu'
            step = PART if by_rows else self.size[0]
            for first in range(rows.start, rows.stop, step):
                wanted = _clipped(slice(first, first + step), rows.stop), cols
                down, across = (
                    _clipped(seen(pixels, stride), -(-size // stride))
                    for pixels, size in zip(wanted, self.size, strict=True)
                )
                level = self.make_level(index, (down, across))
                # An image by itself, in which wanted pixels see the same tokens.
                below, right = (
                    _clipped(slice(span.start * stride, span.stop * stride), size)
                    for span, size in zip((down, across), self.size, strict=True)
                )
                size = below.stop - below.start, right.stop - right.start
                tokens = Tokens((level,), (stride,), size, self.upsampler)
                del level  # so that it is not held beside the next
                yield Part(columns, (below, right), tokens)
                del tokens

    @property
    def levels(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The grids; made once."""
        # torch.compile cannot follow the lock of a cached_property (Python 3.11).
        if '_levels' not in vars(self):
            levels = tuple(self.make_level(i) for i in range(len(self.strides)))
            object.__setattr__(self, '_levels', levels)
        made: tuple[Tensor, ...] = self._levels  # type: ignore[attr-defined]
        return made

    @property
    def channels(self) -> tuple[int, ...]:
        """Features of each level, D_l."""
        channels: tuple[int, ...] = self._channels  # type: ignore[attr-defined]
        return channels

    @property
    def device(self) -> torch.device:
        """Where the grids are, or will be."""
        device: torch.device = self._device  # type: ignore[attr-defined]
        return device

    def with_upsampler(self, upsampler: Upsampler) -> Tokens:
        """The same under another operator; see :meth:`Tokens.with_upsampler`."""
        return (
            self if type(upsampler) is Bilinear else super().with_upsampler(upsampler)
        )

    def to(self, target: torch.device | torch.dtype | str) -> Tokens:
        """The same, where nothing changes; see :meth:`Tokens.to`."""
        return self if target in (torch.float32, self.device) else super().to(target)


class _ConcatTokens(LazyTokens):
    """Tokens of several backbones, of which one at least is lazy."""

    def __init__(self, members: Sequence[Tokens]) -> None:
        super().__init__(
            [channel for member in members for channel in member.channels],
            [stride for member in members for stride in member.strides],
            members[0].size,
            members[0].device,
        )
        object.__setattr__(self, '_members', tuple(members))

    def to(self, target: torch.device | torch.dtype | str) -> Tokens:
        """Those of all members; see :meth:`Tokens.to`."""
        members: tuple[Tokens, ...] = self._members  # type: ignore[attr-defined]
        return _ConcatTokens([member.to(target) for member in members])

    def make_level(self, index: int, window: Window | None = None) -> Tensor:
        """A grid of the members' in order."""
        members: tuple[Tokens, ...] = self._members  # type: ignore[attr-defined]
        for member in members:
            if index < len(member.strides):
                break
            index -= len(member.strides)
        if isinstance(member, LazyTokens):
            return member.make_level(index, window)
        level = member.levels[index]
        return level if window is None else level[..., window[0], window[1]]

    def project(
        self, weight: Tensor, bias: Tensor | None = None, window: Window | None = None
    ) -> Tensor:
        """The sum of the members' scores; see :meth:`Tokens.project`."""
        members: tuple[Tokens, ...] = self._members  # type: ignore[attr-defined]
        widths = [sum(member.channels) for member in members]
        parts = zip(members, weight.split(widths, dim=1), strict=True)
        scores = [member.project(part, None, window) for member, part in parts]
        total = torch.stack(scores).sum(0)
        return total if bias is None else total + bias.to(total)[:, None, None]


def _clipped(span: slice, stop: int) -> slice:
    """What of a span lies before an end."""
    return slice(span.start, min(span.stop, stop))


def _rows(level: Tensor) -> Tensor:
    """A grid as one row of features a token, (B * h * w, D)."""
    # Rows that are not contiguous are looked up twenty times more slowly, and torch has
    # a fast way to this format only.
    last = level.contiguous(memory_format=torch.channels_last)
    return last.permute(0, 2, 3, 1).reshape(-1, level.shape[1]).contiguous()


def _sums_of_runs(key: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of rows that follow one another with the same key.

    Along a line of an image, pixels of one region do: what is sorted afterwards is a
    fraction of the pixels.

    Args:
        key: (N,) integers.
        rows: (N, K).

    Returns:
        Key (R,) and sum (R, K) of each run.
    """
    key, length = torch.unique_consecutive(key, return_counts=True)
    index = torch.arange(len(rows), device=rows.device)
    first = length.cumsum(0) - length
    return key, F.embedding_bag(index, rows, first, mode='sum')


def narrow(index: Tensor, bound: int) -> Tensor:
    """The same numbers in fewer bits, which sort faster.

    Args:
        index: Integers of at least 0 and below the bound.
        bound: The bound.
    """
    return index.to(torch.int32) if bound < 2**31 else index
