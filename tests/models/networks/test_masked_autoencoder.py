# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.networks.masked_autoencoder import MaskedAutoencoder


def make(**options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = smp.encoders.get_encoder('resnet18', in_channels=3, depth=5, weights=None)
    small = {'size': 64, 'dim': 32, 'depth': 2, 'heads': 4}
    small |= {'decoder_dim': 16, 'decoder_depth': 1, 'decoder_heads': 2}
    return MaskedAutoencoder(encoder, 3, **small | options)


def test_masks_three_quarters() -> None:
    kept, masked = make().draw(5, torch.device('cpu'))
    assert kept.shape == (5, 4)
    assert masked.shape == (5, 12)
    every = torch.cat([kept, masked], 1).sort(1).values
    assert torch.equal(every, torch.arange(16).expand(5, 16))
    assert len({tuple(row.tolist()) for row in kept.sort(1).values}) > 1


def test_nothing_of_masked_pixels_is_seen() -> None:
    """But by a convolutional embedding of the whole image."""
    image = torch.randn(2, 3, 64, 64)
    for hidden, blind in (('pixels', True), ('tokens', False)):
        model = make(hidden=hidden).eval()
        kept, masked = model.draw(2, image.device)
        other = torch.randn(2, 3, 64, 64)
        for n, numbers in enumerate(kept.tolist()):
            for i in numbers:
                place = (n, ..., slice(i // 4 * 16, i // 4 * 16 + 16))
                place = (*place, slice(i % 4 * 16, i % 4 * 16 + 16))
                other[place] = image[place]
        same = torch.equal(model(image, kept, masked), model(other, kept, masked))
        assert same == blind


def test_target_is_each_patch_in_its_own_units() -> None:
    image = torch.randn(1, 3, 64, 64) * 7 + 3
    masked = torch.tensor([[6, 1]])
    found = make().target(image, masked)
    for row, (i, j) in zip(found[0], ((1, 2), (0, 1)), strict=True):
        patch = image[0, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
        patch = (patch - patch.mean()) / patch.std()
        torch.testing.assert_close(row, patch.permute(1, 2, 0).flatten())


def test_loss_is_that_of_masked_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make().eval()
    image = torch.randn(2, 3, 64, 64)
    drawn = model.draw(2, image.device)
    monkeypatch.setattr(model, 'draw', lambda *_: drawn)
    squares = (model(image, *drawn) - model.target(image, drawn[1])).square()
    torch.testing.assert_close(model.loss(image), squares.mean())


def test_every_parameter_learns() -> None:
    """As several processes want it; and something is learned."""
    model = make()
    image = torch.randn(1, 3, 8, 8).repeat(2, 1, 8, 8)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 3e-3
    )
    losses = []
    for _ in range(30):
        loss = model.loss(image)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'size': 72}, 'multiple of 32'),
        ({'ratio': 1.0}, 'between 0 and 1'),
        ({'size': 32, 'ratio': 0.9}, 'leaves none'),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)


def test_other_size() -> None:
    with pytest.raises(InputError, match='patch_size=64'):
        make().loss(torch.zeros(1, 3, 96, 96))
