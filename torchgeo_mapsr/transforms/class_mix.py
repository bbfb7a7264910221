# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Class mixing: part of the classes of one sample pasted onto another."""

import math

import torch
from torch import Tensor, nn

from .._compat import Sample
from ..arguments import check_range
from ..datasets.collate import fit_windows, renumber, windows_of
from ..errors import InputError


class ClassMix(nn.Module):
    """Paste half of the classes of source samples onto target samples.

    ClassMix (Olsson et al. 2021) with the two samples from two domains is DACS
    (Tranheden et al. 2021), the self-training that Liu et al. 2025 build on. Of the n
    classes of a source sample ⌈share · n⌉ are drawn; their pixels M take everything
    from the source, the others from the target: ``M ⊙ x_S + (1 − M) ⊙ x_T``. See
    :func:`mix_samples` for what becomes of LR labels.

    It works on batches, after augmentations of each domain. Sample i of the target is
    mixed with sample i of the source, or i modulo their number if there are fewer.

    Args:
        share: Share of the classes to paste, between 0 and 1.

    Raises:
        InputError: *share* is something else.
    """

    def __init__(self, share: float = 0.5) -> None:
        check_range('share', share, 0, 1)
        super().__init__()
        self.share = share

    def forward(self, source: Sample, target: Sample, classes: Tensor) -> Sample:
        """Mix two batches.

        Args:
            source: Batch to cut from.
            target: Batch to paste on, (B, …).
            classes: Class index of the source's pixels, (B', H, W), −1 = none, which is
                never pasted.

        Returns:
            The mixed batch, and ``mask_source``: 1 where a pixel is the source's,
            (B, H, W) int64.
        """
        some = torch.arange(len(target['image'])) % len(classes)
        cut = {
            key: value[some.to(value.device)]
            for key, value in source.items()
            if isinstance(value, Tensor)
        }
        paste = self.choose(classes[some.to(classes.device)])
        return mix_samples(cut, target, paste)

    def choose(self, classes: Tensor) -> Tensor:
        """Draw classes of each sample.

        Args:
            classes: Class index, (B, H, W), −1 = none.

        Returns:
            Pixels of the classes that are drawn, (B, H, W) bool.
        """
        pasted = []
        for index in classes:
            present = index[index >= 0].unique()
            count = math.ceil(self.share * len(present))
            order = torch.randperm(len(present)).to(present.device)
            pasted.append(torch.isin(index, present[order[:count]]))
        return torch.stack(pasted)

    def extra_repr(self) -> str:
        """Arguments, for ``print(module)``."""
        return f'share={self.share}'


def mix_samples(source: Sample, target: Sample, paste: Tensor) -> Sample:
    """Take some pixels of one batch and the others of another, with their labels.

    Keys that begin with ``image`` or ``mask`` are maps and are mixed pixel by pixel. The
    LR windows of both samples are put side by side, the source's at the left, and
    ``mask_region`` is numbered for the joint window, so it goes on to point each pixel
    to the cell that it came from:

    .. code-block:: text

       lr_label    source (h, w)   target (h', w')   →   (max(h, h'), w + w')
       cell i      row · w + col + 1                 →   row · (w + w') + col + 1
                   row · w' + col + 1                →   row · (w + w') + w + col + 1

    So is ``mask_coordinates``, whose columns are w more in the target. Windows of several
    label rasters are joined raster by raster; what only one of the batches has of them
    is without labels in the other.

    Cells that the paste cuts are seen in part: ``lr_pixels`` stays that of the whole
    cell, so their visible share falls. Cells of which nothing is left have no pixel.
    What only one batch has is left out, and so are the georeference and the cells' place
    in their rasters, ``lr_place``: a mixture lies nowhere.

    Args:
        source: Batch to cut from, as collated.
        target: Batch to paste on, of as many samples.
        paste: Pixels to take from the source, (B, H, W) bool.

    Returns:
        The mixed batch, and ``mask_source``.

    Raises:
        InputError: The samples differ in size.
    """
    size, other = source['image'].shape[-2:], target['image'].shape[-2:]
    if size != other:
        raise InputError(
            f'samples to mix have one size, not {tuple(size)} and {tuple(other)}; '
            'give both datasets the same patch_size'
        )
    mixed: Sample = {'mask_source': paste.long()}
    regions = all('lr_label' in s and 'mask_region' in s for s in (source, target))
    if regions:
        source, target = _joined(source, target)
        for key in ('lr_label', 'lr_pixels'):
            if key in source and key in target:
                mixed[key] = torch.cat([source[key], target[key]], dim=-1)
    of_cells = () if regions else ('mask_region', 'mask_coordinates')
    for key in source.keys() & target.keys():
        if key.startswith(('image', 'mask')) and key not in of_cells:
            # Augmentations may give masks a channel axis.
            pasted = paste if target[key].dim() == 3 else paste[:, None]
            mixed[key] = torch.where(pasted, source[key], target[key])
    return mixed


def _joined(source: Sample, target: Sample) -> tuple[Sample, Sample]:
    """Give both as many LR windows of one height, and number their cells side by side."""
    shapes = [windows_of(sample, batch=True) for sample in (source, target)]
    rasters, height = (max(sizes) for sizes in list(zip(*shapes, strict=True))[:2])
    (_, _, w), (_, _, w2) = shapes
    left = fit_windows(source, (rasters, height, w), batch=True)
    right = fit_windows(target, (rasters, height, w2), batch=True)
    wide = height, w + w2
    left['mask_region'] = renumber(left['mask_region'], (height, w), wide)
    region = renumber(right['mask_region'], (height, w2), wide)
    right['mask_region'] = torch.where(region > 0, region + w, 0)
    if 'mask_coordinates' in right:
        # row and column of each raster
        coordinates = right['mask_coordinates'].clone()
        coordinates[:, 1::2] += w
        right['mask_coordinates'] = coordinates
    return left, right
