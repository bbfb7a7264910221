# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import urllib.request
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchgeo.models import DOFA, ScaleMAE, get_model, get_weight, resnet18
from torchvision.models import swin_v2_t

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones import torchgeo as torchgeo_backbone
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.backbones.frozen import FrozenNetwork
from torchgeo_mapsr.models.backbones.grids import DofaGrids, TimmGrids

RESNET = 'torchgeo:ResNet18_Weights.SENTINEL2_RGB_MOCO'
SWIN = 'torchgeo:Swin_V2_T_Weights.SENTINEL2_MI_RGB_SATLAS'
SWIN_MS = 'torchgeo:Swin_V2_T_Weights.SENTINEL2_MI_MS_SATLAS'
SCALE_MAE = 'torchgeo:ScaleMAELarge16_Weights.FMOW_RGB'
DOFA_BASE = 'torchgeo:DOFABase16_Weights.DOFA_MAE'

small_dofa = partial(DOFA, embed_dim=32, depth=3, num_heads=2, patch_size=16)
small_scale_mae = partial(
    ScaleMAE, embed_dim=32, depth=3, num_heads=2, patch_size=16, num_classes=0
)


def frozen(spec: str, bands: int, weights: Path | None = None) -> FrozenNetwork:
    backbone = create_backbone(spec, bands, weights and str(weights))
    assert isinstance(backbone, FrozenNetwork)
    return backbone


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def saved(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / 'weights.pth')
    return folder / 'weights.pth'


def test_resnet_from_a_file_is_torchgeos(tmp_path: Path) -> None:
    model = resnet18(in_chans=3).eval()
    backbone = frozen(f'{RESNET}?layers=0,1,2,3,4', 4, saved(model, tmp_path))
    assert backbone.strides == (2, 4, 8, 16, 32)
    image = rand(1, 4, 64, 96) * 10000
    with torch.no_grad():
        expected = model.forward_features(image[:, :3] / 10000)
    last = backbone(image).levels[-1]
    torch.testing.assert_close(last, expected, atol=1e-4, rtol=1e-4)


def test_swin_from_a_file_is_torchvisions(tmp_path: Path) -> None:
    model = swin_v2_t(weights=None).eval()
    backbone = frozen(f'{SWIN}?layers=0,3', 3, saved(model, tmp_path))
    assert backbone.strides == (4, 32)
    assert backbone.channels == (96, 768)
    image = rand(1, 3, 64, 96) * 255
    inputs = image / 255
    with torch.no_grad():
        expected = [model.features[:i](inputs).permute(0, 3, 1, 2) for i in (2, 8)]
    for ours, level in zip(backbone(image).levels, expected, strict=True):
        torch.testing.assert_close(ours, level, atol=1e-4, rtol=1e-4)


def test_swin_of_many_bands() -> None:
    backbone = frozen(f'{SWIN_MS}?weights=random&layers=0', 9)
    assert backbone.network.model.features[0][0].in_channels == 9
    assert backbone.std.tolist() == [255] * 3 + [8160] * 6
    assert backbone(rand(1, 9, 33, 65)).levels[0].shape == (1, 96, 9, 17)


def test_vit() -> None:
    spec = 'torchgeo:ViTSmall16_Weights.SENTINEL2_ALL_MOCO?weights=random'
    backbone = frozen(spec, 13)
    assert (backbone.channels, backbone.strides) == ((384,), (16,))
    assert backbone(rand(1, 13, 40, 72)).levels[0].shape == (1, 384, 3, 5)


@pytest.mark.parametrize('size', [(224, 224), (64, 96)])
def test_dofa_blocks_are_torchgeos(size: tuple[int, int]) -> None:
    """The module itself, caught at its blocks; its own size is 224 or as made."""
    torch.manual_seed(0)
    model = small_dofa(img_size=224).eval()
    nn.init.normal_(model.pos_embed)
    nn.init.normal_(model.fc_norm.weight)
    waves = (0.66, 0.56, 0.48, 0.83)
    image = rand(2, 4, *size)
    caught = []
    hooks = [
        b.register_forward_hook(lambda *a: caught.append(a[2])) for b in model.blocks
    ]
    with torch.no_grad():
        if size == (224, 224):
            model.forward_features(image, list(waves))
            expected = [model.fc_norm(x[:, 1:]) for x in (caught[1], caught[2])]
        for hook in hooks:
            hook.remove()
        grids = DofaGrids(model, (1, -1), waves, 'dofa')(image)
    shape = size[0] // 16, size[1] // 16
    assert [grid.shape for grid in grids] == [(2, 32, *shape)] * 2
    if size == (224, 224):
        for grid, level in zip(grids, expected, strict=True):
            torch.testing.assert_close(grid.flatten(2).transpose(1, 2), level)


def test_dofa_standardises_by_the_imagery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchgeo_backbone, 'get_model', lambda name: small_dofa())
    model = small_dofa()
    # The published file has neither the pooled norm nor a head.
    state = {k: v for k, v in model.state_dict().items() if k[:3] not in ('fc_', 'hea')}
    torch.save(state, tmp_path / 'dofa.pth')
    spec = f'{DOFA_BASE}?wavelengths=0.66,0.56,0.48&bands=3,2,1'
    backbone = frozen(spec, 4, tmp_path / 'dofa.pth')
    assert backbone.needs_calibration
    image = rand(1, 4, 40, 56) * 255
    with pytest.raises(RuntimeError, match='calibrated'):
        backbone(image)
    valid = rand(40, 56) < 0.8
    bad = image[0].clone()
    bad[1, 0, 0] = torch.nan
    bad[:, ~valid] = 1e9
    backbone.calibrate([(bad, valid), (image[0] + 3, valid)])
    good = valid.clone()
    good[0, 0] = False
    pixels = torch.cat([image[0][:, good], image[0][:, valid] + 3], dim=1)[[2, 1, 0]]
    torch.testing.assert_close(backbone.mean, pixels.mean(1))
    torch.testing.assert_close(backbone.std, pixels.std(1, unbiased=False))
    assert backbone(image).levels[0].shape == (1, 32, 3, 4)

    other = frozen(spec, 4, tmp_path / 'dofa.pth')
    other.load_calibration(backbone.calibration())
    torch.testing.assert_close(other(image).levels, backbone(image).levels)
    given = frozen(f'{spec}&mean=100&std=50', 4, tmp_path / 'dofa.pth')
    assert not given.needs_calibration
    assert given.mean.tolist() == [100] * 3


def test_scale_mae_of_any_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        torchgeo_backbone, 'get_model', lambda name, **kwargs: small_scale_mae(**kwargs)
    )
    weights = saved(small_scale_mae(), tmp_path)
    backbone = frozen(f'{SCALE_MAE}?res=0.6', 3, weights)
    image = rand(1, 3, 90, 150) * 255
    tokens = backbone(image)
    # Padded to a square: its position embedding knows no other shape.
    assert tokens.levels[0].shape == (1, 32, 10, 10)

    native = small_scale_mae(res=0.6, img_size=160).eval()
    state = torch.load(weights)
    state['pos_embed'] = native.pos_embed
    native.load_state_dict(state)
    square = rand(1, 3, 160, 160) * 255
    scaled = (square / 255 - backbone.mean[:, None, None] / 255) / (
        backbone.std[:, None, None] / 255
    )
    with torch.no_grad():
        expected = native.forward_features(scaled)[:, 1:].transpose(1, 2)
    torch.testing.assert_close(
        backbone(square).levels[0].flatten(2), expected, atol=1e-4, rtol=1e-4
    )
    assert isinstance(backbone.network, TimmGrids)


@pytest.mark.parametrize(
    ('name', 'image'),
    [
        ('ScaleMAELarge16_Weights.FMOW_RGB', rand(1, 3, 8, 8) * 255),
        ('ResNet18_Weights.SENTINEL2_RGB_SECO', rand(1, 3, 8, 8) * 3000),
        ('Swin_V2_B_Weights.NAIP_RGB_MI_SATLAS', rand(1, 3, 8, 8) * 255),
        ('ResNet50_Weights.FMOW_RGB_GASSL', rand(1, 3, 8, 8) * 255),
    ],
)
def test_statistics_are_those_of_the_transforms(name: str, image: Tensor) -> None:
    entry = get_weight(name)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in torchgeo_backbone._statistics(entry)
    )
    steps = [m for m in entry.transforms.modules() if hasattr(m, 'std')]
    expected = image.clone()
    for step in steps:
        expected = step(expected.clone())
    torch.testing.assert_close((image - mean) / std, expected)


def test_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    # Kept by urllib from its first call on, with the proxies of that call.
    monkeypatch.setattr(urllib.request, '_opener', None)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(InputError, match=r'cannot be reached.*--weights FILE .*rcf'):
        create_backbone(SWIN, 3)


def test_weights_in_torch_hubs_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    entry = get_weight(RESNET.removeprefix('torchgeo:'))
    (tmp_path / 'checkpoints').mkdir()
    model = resnet18(in_chans=3)
    torch.save(model.state_dict(), tmp_path / 'checkpoints' / Path(entry.url).name)
    backbone = frozen(RESNET, 3)
    torch.testing.assert_close(
        backbone.network.model.conv1.weight, model.conv1.weight.detach()
    )


@pytest.mark.parametrize(
    ('spec', 'bands', 'message'),
    [
        (f'{SWIN}S', 3, 'did you mean Swin_V2_T_Weights'),
        ('torchgeo:', 3, 'torchgeo has no weights'),
        ('torchgeo:CROMABase_Weights.CROMA_VIT', 3, 'no grid of tokens'),
        (f'{SWIN_MS}?weights=random', 4, r'takes 9 bands \(B04, .*imagery has 4'),
        (f'{DOFA_BASE}?weights=random', 3, 'wavelengths'),
        (f'{DOFA_BASE}?weights=random&wavelengths=0.6,0.5', 4, 'takes 2 bands'),
        (f'{SWIN}?weights=random&wavelengths=0.6,0.5,0.4', 3, 'option of DOFA'),
        (f'{SWIN}?weights=random&res=2', 3, 'option of Scale-MAE'),
        (f'{SWIN}?weights=random&layers=4', 3, 'layers 0 to 3'),
        (f'{SWIN}?weight=random', 3, 'did you mean weights'),
    ],
)
def test_wrong_options(spec: str, bands: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_backbone(spec, bands)


def test_weights_of_another_model(tmp_path: Path) -> None:
    file = saved(resnet18(), tmp_path)
    with pytest.raises(InputError, match='does not fit torchgeo:Swin'):
        create_backbone(SWIN, 3, str(file))


def test_builders_load_as_ours_do() -> None:
    """Names in our grids are those of the model that torchgeo builds."""
    backbone = frozen(f'{RESNET}?weights=random', 3)
    assert (
        backbone.network.model.state_dict().keys()
        <= get_model('resnet18').state_dict().keys()
    )
