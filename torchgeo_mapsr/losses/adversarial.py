# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What an adversarial game over label maps needs: soft argmax and hinge losses."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: Workman et al. 2023, section 4.4.
TEMPERATURE = 1e3


def sargmax(logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Class number of each pixel, so that gradients pass.

    Workman et al. 2023, equation 3: Σ_c c · softmax(τ x)_c with c = 1 … C. It is
    computed in single precision at least, and from the differences to the largest score: in half
    precision τ x overflows from x = 66.

    The gradient by x_c is τ p_c (c − s): where one class leads by much more than 1 / τ,
    none is left.

    Args:
        logits: X, (B, C, H, W).
        temperature: τ, which scores are multiplied by.

    Returns:
        S, (B, 1, H, W) in 1..C.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scores = scores - scores.amax(1, keepdim=True).detach()
    # Neither the product nor the sum may be in half precision under autocast.
    with torch.autocast(logits.device.type, enabled=False):
        probability = (temperature * scores).softmax(1)
        number = torch.arange(1, logits.shape[1] + 1, device=logits.device)
        return (probability * number[:, None, None]).sum(1, keepdim=True)


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator.

    Lim and Ye 2017 (Geometric GAN): E max(0, 1 − D(real)) + E max(0, 1 + D(fake)).

    Args:
        real: Scores D of what is real, of any shape.
        fake: Scores of what was made, of any shape.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """Hinge loss of a generator: −E D(fake).

    Args:
        fake: Scores D of what was made, of any shape.
    """
    return -fake.mean()
