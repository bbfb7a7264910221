# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import torch
from scipy.ndimage import convolve
from torch import Tensor

from torchgeo_mapsr.losses import discriminator_hinge, generator_hinge
from torchgeo_mapsr.models.networks.discriminator import LabelDiscriminator


def test_sees_blurred_index_maps() -> None:
    """By 3 × 3 Gaussian weights with σ = 0.6, computed here by hand."""
    torch.manual_seed(0)
    model = LabelDiscriminator(5, width=4).eval()
    seen: list[Tensor] = []
    model.layers[0].register_forward_hook(lambda *given: seen.append(given[1][0]))
    index = torch.randint(0, 6, (1, 1, 24, 16))
    model(index)
    edge = float(torch.exp(torch.tensor(-1 / (2 * 0.6**2))))
    line = torch.tensor([edge, 1.0, edge]) / (1 + 2 * edge)
    blurred = convolve(
        index[0, 0].double().numpy(), torch.outer(line, line).numpy(), mode='mirror'
    )
    expected = 2 * torch.from_numpy(blurred).float() / 5 - 1
    torch.testing.assert_close(seen[0][0, 0], expected)


def test_judging_teaches_the_maker_alone() -> None:
    """And both players' gradients are those of separate passes."""
    torch.manual_seed(0)
    model = LabelDiscriminator(4, width=4).eval()
    real, made = torch.rand(2, 1, 32, 32) * 4, torch.rand(2, 1, 32, 32) * 4
    made.requires_grad_()
    generator_hinge(model.judge(made)).backward()
    assert all(p.grad is None for p in model.parameters())
    (apart,) = torch.autograd.grad(-model(made).mean(), made)
    torch.testing.assert_close(made.grad, apart)

    own = discriminator_hinge(model(real), model(made.detach()))
    wanted = torch.autograd.grad(own, list(model.parameters()))
    made.grad = None
    both = generator_hinge(model.judge(made))
    (both + discriminator_hinge(model(real), model(made.detach()))).backward()
    torch.testing.assert_close(made.grad, apart)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_learns_to_tell_stripes_from_noise() -> None:
    torch.manual_seed(0)
    model = LabelDiscriminator(2, width=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def maps() -> tuple[Tensor, Tensor]:
        stripes = (torch.arange(32) // 8 % 2 + 1.0).expand(4, 1, 32, 32)
        return stripes, torch.randint(1, 3, (4, 1, 32, 32)).float()

    for _ in range(60):
        loss = discriminator_hinge(*map(model, maps()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = map(model, maps())
    assert real.min() > 0 > fake.max()
    assert real.shape == (4, 1, 3, 3)
