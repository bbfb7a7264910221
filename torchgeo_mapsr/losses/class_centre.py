# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Contrast of class centres across images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import POSITIVE, check_range
from .distributed import processes, sum_over_processes

# Stands for log 0, without the NaN that -inf leaves in gradients.
_NONE = -1e30


@dataclass(frozen=True, eq=False)
class Centres:
    """Feature centres of the classes in the images of a batch.

    Args:
        vectors: Mean features, (B, C, 3, D): of all, of the easy and of the hard pixels.
        present: Whether there is any such pixel, (B, C, 3) bool.
    """

    vectors: Tensor
    present: Tensor


def class_centres(features: Tensor, probabilities: Tensor, label: Tensor) -> Centres:
    """Find the centres of all, easy and hard pixels of each class in each image.

    Easy are the pixels whose probability of their label is above the mean over the
    class in the image, and hard are the others (Dong et al. 2023, §3.4). Where all
    probabilities of a class are equal (it has one pixel, say) all are hard.

    Args:
        features: (B, D, H, W).
        probabilities: Predicted, (B, C, H, W). They divide pixels and get no gradient.
        label: Ground truth or pseudo-label, (B, H, W) int64; -1 for neither.

    Returns:
        The centres, float32; zeros where there is none.
    """
    images, classes = probabilities.shape[:2]
    image, row, col = (label >= 0).nonzero(as_tuple=True)
    y = label[image, row, col]
    x = features.permute(0, 2, 3, 1)[image, row, col].float()
    p = probabilities.detach().float()[image, y, row, col]
    group = image * classes + y
    count = torch.bincount(group, minlength=images * classes).to(p)
    # In double precision, so that rounding does not order equal probabilities.
    sums = torch.zeros_like(count, dtype=torch.float64)
    mean = sums.index_add(0, group, p.double()) / count.clamp(min=1)
    easy = p > mean.float()[group]
    part = 2 * group + torch.where(easy, 0, 1)

    counts = torch.bincount(part, minlength=2 * len(count)).to(x)
    totals = x.new_zeros(len(counts), x.shape[1]).index_add(0, part, x)
    counts = counts.view(images, classes, 2)
    totals = totals.view(images, classes, 2, -1)
    counts = torch.cat([counts.sum(2, keepdim=True), counts], dim=2)
    totals = torch.cat([totals.sum(2, keepdim=True), totals], dim=2)
    return Centres(totals / counts.clamp(min=1)[..., None], counts > 0)


class ClassCentreContrast(nn.Module):
    r"""Class centre contrast, Dong et al. 2023, eq. 6.

    .. math::
        \mathcal L_{cct}^m = -\frac{1}{|P_m|} \sum_{c^+ \in P_m} \log
        \frac{e^{c_m \cdot c^+ / \tau}}
        {e^{c_m \cdot c^+ / \tau} + \sum_{c^- \in N_m} e^{c_m \cdot c^- / \tau}}

    The positives P_m are the other centres of the class of c_m in the batch (all, easy
    and hard ones, of its own image and of others), and the negatives N_m all centres
    of other classes. In a distributed run the batch is that of all processes. The loss
    is the mean over the centres that have a positive.

    What the paper does not say: centres are unit vectors here, as in Wang et al. 2021,
    which eq. 6 is taken from; with its τ of 0.07, others would saturate the softmax.

    Degenerate cases: a centre without a positive is a negative of others and no more;
    without a negative, its loss is log 1 = 0; a batch without a pair costs 0, with a
    gradient of 0. An easy centre that is missing, because all probabilities are equal,
    leaves its class two centres in that image, which are the same: all and hard.

    Args:
        temperature: τ.
        cross_image: Contrast across images; within each image otherwise (Table 7).

    Raises:
        InputError: *temperature* is not above 0.
    """

    def __init__(self, temperature: float = 0.07, cross_image: bool = True) -> None:
        check_range('temperature', temperature, POSITIVE)
        super().__init__()
        self.temperature = temperature
        self.cross_image = cross_image

    def forward(self, features: Tensor, probabilities: Tensor, label: Tensor) -> Tensor:
        """Compute the loss, in float32 whatever the features are.

        Args:
            features: (B, D, H, W).
            probabilities: Predicted, (B, C, H, W).
            label: Ground truth or pseudo-label, (B, H, W) int64; -1 for neither.

        Returns:
            The loss tensor. In a distributed run, the mean of the processes' losses is
            the loss of the whole batch.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._contrast(class_centres(features, probabilities, label))

    def _contrast(self, local: Centres) -> Tensor:
        images, classes, kinds = local.present.shape
        centres, first = _everywhere(local)
        unit = F.normalize(centres.vectors, dim=-1).flatten(0, 2)
        present = centres.present.flatten()
        number = torch.arange(len(present), device=present.device)
        anchors = slice(first * classes * kinds, (first + images) * classes * kinds)

        pair = present[anchors, None] & present & (number[anchors, None] != number)
        if not self.cross_image:
            image = number // (classes * kinds)
            pair &= image[anchors, None] == image
        of_class = number // kinds % classes
        same = of_class[anchors, None] == of_class
        positive, negative = pair & same, pair & ~same

        # log(e^a + Σ e^b) - a = softplus(log Σ e^b - a): one logsumexp for all positives
        cosine = unit[anchors] @ unit.T / self.temperature
        others = cosine.masked_fill(~negative, _NONE).logsumexp(1, keepdim=True)
        each = torch.where(positive, F.softplus(others - cosine), 0)
        count = positive.sum(1)
        loss = (each.sum(1) / count.clamp(min=1)).sum()
        having = sum_over_processes((count > 0).sum().to(loss))
        return loss * processes()[1] / having.clamp(min=1)


def _everywhere(local: Centres) -> tuple[Centres, int]:
    """The centres of all processes, and the place of this one's first image.

    Each process fills its own part of a tensor of zeros, and the parts are added up:
    batches may differ in size, and gradients flow back to where they belong.
    """
    rank, world = processes()
    if world == 1:
        return local, 0
    sizes = torch.zeros(world, dtype=torch.int64, device=local.present.device)
    sizes[rank] = len(local.present)
    sizes = sum_over_processes(sizes)
    first, after = int(sizes[:rank].sum()), int(sizes[rank + 1 :].sum())

    def gather(part: Tensor) -> Tensor:
        space = (0, 0) * (part.dim() - 1)
        return sum_over_processes(F.pad(part, (*space, first, after)))

    present = gather(local.present.to(local.vectors))
    return Centres(gather(local.vectors), present > 0), first
