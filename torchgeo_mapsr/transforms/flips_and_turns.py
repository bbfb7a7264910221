# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Flips and quarter turns of batches, with all their masks."""

import kornia.augmentation as K


def flips_and_turns() -> K.AugmentationSequential:
    """Make the augmentation of a training batch that data modules have in common.

    Each of the eight ways to lay a square down is as likely as another. Pixels move as a
    whole, so ``mask_region`` goes on to point to the right cells.

    Returns:
        Takes a batch, a dictionary, and returns it flipped and turned.
    """
    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomVerticalFlip(p=0.5),
        K.RandomRotation90((0, 3), p=1),
        data_keys=None,
        keepdim=True,
    )
