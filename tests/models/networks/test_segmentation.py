# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.networks.segmentation import Network, SegmentationNetwork


def raw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator).float()


def test_is_smps_own_network_on_standardised_values() -> None:
    network = SegmentationNetwork(
        Network(in_channels=3, mean=(1, 2, 3), std=4), 5
    ).eval()
    image = raw(2, 3, 64, 32)
    theirs = smp.Unet('resnet18', encoder_weights=None, in_channels=3, classes=5)
    theirs.load_state_dict(network.network.state_dict())
    scaled = (image - torch.tensor([1.0, 2, 3])[:, None, None]) / 4
    torch.testing.assert_close(network(image), theirs.eval()(scaled))


@pytest.mark.parametrize(
    ('model', 'backbone'),
    [
        ('unet', 'resnet18'),
        ('deeplabv3+', 'resnet18'),
        ('segformer', 'mit_b0'),
        ('upernet', 'tu-resnet10t'),
        ('pan', 'resnet18'),
        ('dpt', 'tu-vit_tiny_patch16_224'),
    ],
)
def test_takes_any_size(model: str, backbone: str) -> None:
    network = SegmentationNetwork(Network(model, backbone), 3).eval()
    image = raw(1, 4, 70, 93)
    with torch.no_grad():
        logits = network(image)
        parts = network.classify(network.features(image))
    height, width = image.shape[-2:]
    assert logits.shape == (1, 3, height, width)
    torch.testing.assert_close(logits, parts[..., :height, :width])


def test_padding_changes_nothing_inside() -> None:
    """An image of a whole number of strides is not touched, a longer one is cropped."""
    network = SegmentationNetwork(Network(in_channels=1), 2).eval()
    image = raw(1, 1, 64, 64)
    with torch.no_grad():
        whole, cut = network(image), network(image[..., :63, :64])
    assert cut.shape[-2:] == (63, 64)
    # Row 63 of the longer image is unlike the mirror's, and is near the cut only.
    assert (whole[..., :63, :] - cut).abs().amax((0, 1, 3))[:8].max() < 1e-1


def test_uint8_is_scaled_by_its_type() -> None:
    network = SegmentationNetwork(Network(in_channels=2), 2)
    scaled = network.normalise(torch.tensor([0.0, 255]).expand(1, 2, 1, 2))
    assert scaled.flatten().tolist() == [-1, 1, -1, 1]


@pytest.mark.parametrize('chips', [1, 3, 12])
@pytest.mark.parametrize('kind', [torch.float32, torch.float64, torch.bfloat16])
def test_other_types_are_standardised_by_all_training_chips(
    chips: int, kind: torch.dtype
) -> None:
    """Chips are brighter than others, which a batch of one of them does not tell."""
    network = SegmentationNetwork(Network(in_channels=2, image_dtype='uint16'), 2)
    network.to(kind)
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([300.0, 10])[:, None, None]
    apart = torch.linspace(-900, 900, 12)[:, None, None, None]
    images = 1000 + apart + spread * torch.randn(12, 2, 32, 32, generator=generator)
    images = images.to(kind)
    for batch in images.split(chips):
        scaled = network.normalise(batch)
        assert scaled.dtype == kind
    pixels = images.double().numpy()
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    found = network.normalise
    np.testing.assert_allclose(found.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.running_var.sqrt(), std, rtol=1e-5)
    # the last batch was seen as it would be in a map
    assert torch.equal(network.eval().normalise(batch), scaled)
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    scaled = network.normalise(images).double().numpy()
    np.testing.assert_allclose(scaled, expected, atol=0.02)


def test_statistics_of_older_checkpoints_are_read() -> None:
    """Those were of batch normalisation."""
    network = SegmentationNetwork(Network(in_channels=2, image_dtype='uint16'), 2)
    older = torch.nn.BatchNorm2d(2, affine=False, momentum=None)
    older(torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)))
    network.normalise.load_state_dict(older.state_dict())
    image = torch.rand(1, 2, 4, 4)
    torch.testing.assert_close(
        network.eval().normalise(image), older.eval()(image), rtol=1e-5, atol=1e-6
    )


def test_what_is_not_finite_has_no_influence_beyond() -> None:
    network = SegmentationNetwork(Network(in_channels=1), 2).eval()
    image = raw(1, 1, 64, 64)
    image[..., 3, 4] = torch.nan
    assert network(image).isfinite().all()


@pytest.mark.parametrize('name', ['convnextv2_atto', 'mobilenetv3_small_050'])
def test_weights_of_a_network_of_timm(name: str, tmp_path: Path) -> None:
    """Files have the names of the whole network; its features go by other ones."""
    torch.manual_seed(1)
    theirs = timm.create_model(name, pretrained=False)
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    ours = SegmentationNetwork(
        Network('unet', f'tu-{name}', str(tmp_path / 'timm.pth'), in_channels=3), 2
    )
    image = torch.rand(1, 3, 64, 64)
    ours.eval()
    whole = theirs.eval().forward_intermediates(image, intermediates_only=True)[-1]
    with torch.no_grad():
        last = ours.network.encoder(image)[-1]
    torch.testing.assert_close(last, whole)


def test_weights_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = SegmentationNetwork(Network(), 2)
    path = tmp_path / 'encoder.pth'
    torch.save({'state_dict': donor.encoder.state_dict()}, path)
    network = SegmentationNetwork(Network(weights=str(path)), 3)
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, donor.encoder.state_dict()[name]), name
    with pytest.raises(InputError, match='does not fit the encoder resnet18'):
        SegmentationNetwork(Network(weights=str(path), in_channels=3), 3)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'model': 'unett'}, "Unknown model 'unett': did you mean unet"),
        ({'backbone': 'resnet19'}, 'did you mean resnet1'),
        ({'mean': 1.0}, 'mean and std together'),
        ({'mean': (1.0, 2.0), 'std': 1.0}, 'mean has 2 values for 4 bands'),
        ({'mean': 1.0, 'std': 0.0}, 'std must be positive'),
        ({'weights': 'none.pth'}, 'none.pth is no file, and no weights of torchgeo'),
    ],
)
def test_mistakes(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmentationNetwork(Network(**arguments), 2)  # type: ignore[arg-type]


def test_other_number_of_bands() -> None:
    network = SegmentationNetwork(Network(), 2)
    with pytest.raises(InputError, match=r'has 3 bands .* made for 4'):
        network(raw(1, 3, 32, 32))


@pytest.mark.parametrize(
    ('model', 'backbone', 'size'),
    [
        ('deeplabv3', 'resnet18', 64),
        ('deeplabv3+', 'resnet18', 64),
        ('upernet', 'resnet18', 64),
        ('upernet', 'tu-convnextv2_atto', 64),
        ('pan', 'resnet18', 40),
        ('unet', 'resnet18', 32),
        ('unet', 'tu-resnet18', 32),
    ],
)
def test_one_chip_trains(model: str, backbone: str, size: int) -> None:
    """Layers that see one value of it are as they would be in evaluation."""
    torch.manual_seed(0)
    network = SegmentationNetwork(Network(model, backbone), 3)
    other = deepcopy(network)
    norms = [
        (one, two)
        for one, two in zip(network.modules(), other.modules(), strict=True)
        if isinstance(one, torch.nn.BatchNorm2d)
    ]
    # statistics that are not those of a new network
    for one, two in norms:
        for norm in (one, two):
            norm.running_mean.fill_(0.3)
            norm.running_var.fill_(2)
    single = []

    def note(norm: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.numel() == output.shape[1]:
            single.append(norm)

    for one, _ in norms:
        one.register_forward_hook(note)
    image = raw(1, 4, size, size)
    torch.manual_seed(1)
    logits = network(image)
    for one, two in norms:
        two.train(one not in single)
    torch.manual_seed(1)
    torch.testing.assert_close(logits, other(image))
    logits.sum().backward()
    assert 0 < len(single) < len(norms)
    for one, _ in norms:
        assert one.training
        assert bool(one.num_batches_tracked) != (one in single)
