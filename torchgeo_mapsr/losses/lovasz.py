# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Lovász-Softmax: a surrogate of the mean IoU, for rare classes."""

import torch
from segmentation_models_pytorch import losses
from torch import Tensor, nn


class LovaszLoss(nn.Module):
    """Lovász-Softmax loss of segmentation-models-pytorch, for any batch.

    Berman et al. 2018: the convex extension of the Jaccard loss 1 − IoU, averaged over
    the classes that occur. A class of few pixels weighs as much as one of many, which is
    what Liu et al. 2025, section II-D, use it for.

    The library's own breaks on two kinds of batches that training meets: without a
    labelled pixel it returns an empty tensor, and half precision meets single in a dot
    product.

    Args:
        per_image: Average the loss of images, instead of one for all pixels.
        ignore_index: Label of pixels that do not count.
    """

    def __init__(self, per_image: bool = False, ignore_index: int = -1) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.lovasz = losses.LovaszLoss('multiclass', per_image, ignore_index)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, C, H, W).
            label: Class index, (B, H, W).

        Returns:
            The loss; 0, with a gradient of 0, where no pixel counts.
        """
        # With per_image, the library's loss of an image without labels is an empty tensor.
        labelled = (label != self.ignore_index).flatten(1).any(1)
        if not labelled.any():
            return logits[:0].float().sum()
        with torch.autocast(logits.device.type, enabled=False):
            loss: Tensor = self.lovasz(logits[labelled].float(), label[labelled])
        return loss
