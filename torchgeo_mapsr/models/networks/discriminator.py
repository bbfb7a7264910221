# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A discriminator of label maps."""

from collections.abc import Mapping
from itertools import pairwise

from kornia.filters import gaussian_blur2d
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from ...errors import InputError


class LabelDiscriminator(nn.Module):
    """Tells HR label maps that were drawn from those that a network predicts.

    Workman et al. 2023, section 4.4 and 4.6: its input is an index map, B × 1 × H × W,
    blurred by a Gaussian (3 × 3, σ = 0.6). So what it sees of a sharp label map and of
    the soft one of :func:`~torchgeo_mapsr.losses.sargmax` differs in its shapes, not in
    being whole numbers.

    The paper does not say how it is built. Here it judges patches (a receptive field of
    46 pixels, three halvings), with spectral normalisation, which keeps the scores of a
    hinge game bounded without statistics of batches: they would tell real from fake by
    what else is in the batch.

    Args:
        classes: Number of classes, C.
        width: Channels of the first layer.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.classes = classes
        widths = (1, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
            ]
        last = spectral_norm(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*layers, last)

    def forward(self, index_map: Tensor) -> Tensor:
        """Score label maps: above 0 is real, below is made.

        Args:
            index_map: Class numbers 1..C, 0 = no label, (B, 1, H, W) with H, W ≥ 16.

        Returns:
            Scores of patches, (B, 1, H / 8 − 1, W / 8 − 1).

        Raises:
            InputError: If they are smaller.
        """
        if min(index_map.shape[-2:]) < 16:
            raise InputError(
                'The discriminator judges chips of 16 × 16 pixels or more: give the data '
                'a larger patch_size'
            )
        blurred = gaussian_blur2d(index_map.float(), (3, 3), (0.6, 0.6))
        # Precisions '64-true' and 'bf16-true' convert the weights.
        kind = next(self.parameters()).dtype
        scores: Tensor = self.layers((2 * blurred / self.classes - 1).to(kind))
        return scores

    def judge(self, index_map: Tensor) -> Tensor:
        """Score label maps for their maker: no gradient reaches the discriminator.

        So the losses of both players go through one backward pass, which is what
        several processes need: each parameter has one gradient a step.

        Args:
            index_map: As in :meth:`forward`.

        Returns:
            The same scores.
        """
        fixed: Mapping[str, Tensor] = {
            name: parameter.detach() for name, parameter in self.named_parameters()
        }
        scores: Tensor = functional_call(self, dict(fixed), (index_map,))
        return scores
