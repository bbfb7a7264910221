# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import huggingface_hub
import pytest
import rasterio
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchgeo_mapsr.errors import InputError, InputWarning
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.backbones.frozen import FrozenNetwork

MOBILENET = 'timm:mobilenetv2_100?pad_type=same&mean=0.5&std=0.5'


def frozen(spec: str, bands: int, **arguments: str) -> FrozenNetwork:
    backbone = create_backbone(spec, bands, **arguments)
    assert isinstance(backbone, FrozenNetwork)
    return backbone


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network and an empty cache of the Hub's client; returns the cache."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'torch'))
    return tmp_path / 'hub'


@pytest.fixture(scope='module')
def mobilenet(shared: Path) -> Path:
    return shared / 'weights' / 'mobilenetv2_100_imagenet.safetensors'


def test_pretrained_features_are_timms(shared: Path, mobilenet: Path) -> None:
    every = f'{MOBILENET}&layers=0,1,2,3,4'
    backbone = frozen(every, 3, weights=str(mobilenet), dtype='uint8')
    assert backbone.strides == (2, 4, 8, 16, 32)
    assert backbone.channels == (16, 24, 32, 96, 320)
    scene = shared / 'data' / 'openearthmap' / 'austin_29' / 'imagery.tif'
    with rasterio.open(scene) as src:
        image = torch.from_numpy(src.read()[None, :3, :192, 64:288]).float()

    half = (0.5, 0.5, 0.5)
    theirs = timm.create_model(
        'mobilenetv2_100',
        pretrained=True,
        features_only=True,
        pad_type='same',
        out_indices=(0, 1, 2, 3, 4),
        pretrained_cfg_overlay={'file': str(mobilenet), 'mean': half, 'std': half},
    ).eval()
    with torch.no_grad():
        expected = theirs(image / 127.5 - 1)
    tokens = backbone(image)
    for ours, level in zip(tokens.levels, expected, strict=True):
        torch.testing.assert_close(ours, level, atol=1e-4, rtol=1e-4)


def test_near_infrared_is_left_out_and_grey_is_repeated(mobilenet: Path) -> None:
    image = rand(1, 4, 64, 64) * 255
    rgb = frozen(MOBILENET, 3, weights=str(mobilenet), dtype='uint8')
    four = frozen(MOBILENET, 4, weights=str(mobilenet), dtype='uint8')
    torch.testing.assert_close(four(image).levels, rgb(image[:, :3]).levels)
    chosen = frozen(
        f'{MOBILENET}&bands=4,1,2', 4, weights=str(mobilenet), dtype='uint8'
    )
    torch.testing.assert_close(chosen(image).levels, rgb(image[:, [3, 0, 1]]).levels)
    grey = frozen(MOBILENET, 1, weights=str(mobilenet), dtype='uint8')
    repeated = image[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(grey(image[:, :1]).levels, rgb(repeated).levels)
    with pytest.raises(InputError, match='made for 4 bands'):
        four(image[:, :3])


def test_choosing_four_bands_adapts_the_first_layer(mobilenet: Path) -> None:
    four = frozen(f'{MOBILENET}&bands=1,2,3,4', 4, weights=str(mobilenet))
    weight = load_file(mobilenet)['conv_stem.weight'].float()
    expected = timm.models.adapt_input_conv(4, weight)
    own = four.network.model.conv_stem.weight
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize(
    ('dtype', 'option', 'scale'),
    [
        ('uint8', '', 255),
        ('uint16', '', 10000),
        ('float32', '', 1),
        ('uint16', '&scale=4095', 4095),
    ],
)
def test_scale(dtype: str, option: str, scale: float) -> None:
    spec = f'timm:test_resnet?weights=random{option}'
    backbone = frozen(spec, 3, dtype=dtype)
    cfg = timm.create_model('test_resnet').pretrained_cfg
    image = rand(1, 3, 32, 32)
    mean = torch.tensor(cfg['mean'])[:, None, None]
    std = torch.tensor(cfg['std'])[:, None, None]
    with torch.no_grad():
        expected = backbone.network((image - mean) / std)
    for ours, level in zip(backbone(image * scale).levels, expected, strict=True):
        torch.testing.assert_close(ours, level, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('spec', 'size', 'strides'),
    [
        ('timm:test_convnext?weights=random', (70, 45), (4, 8, 16)),
        ('timm:test_convnext?weights=random&layers=2,3', (70, 45), (16, 32)),
        ('timm:test_vit?weights=random', (50, 90), (16,)),
        ('timm:test_vit?weights=random&layers=0,2,-1', (33, 1), (16, 16, 16)),
        ('timm:vit_tiny_patch16_224?weights=random&layers=0,1', (40, 50), (16, 16)),
        ('timm:vit_small_patch14_reg4_dinov2?weights=random&layers=0', (40, 50), (14,)),
        ('timm:vit_small_patch16_dinov3?weights=random&layers=0', (40, 50), (16,)),
        ('timm:swin_s3_tiny_224?weights=random&layers=0', (70, 45), (4,)),
        ('timm:mobilenetv3_small_050?weights=random', (70, 45), (2, 4, 8, 16)),
    ],
)
def test_any_size_is_padded_and_cropped(
    spec: str, size: tuple[int, int], strides: tuple[int, ...]
) -> None:
    backbone = frozen(spec, 5)
    assert backbone.strides == strides
    assert backbone.halo == 2 * max(strides)
    image = rand(2, 5, *size)
    tokens = backbone(image)
    assert tokens.size == size
    assert tokens.channels == backbone.channels
    # Padding by hand, to the next multiple, makes no difference.
    height, width = (-(-n // max(strides)) * max(strides) for n in size)
    padded = image
    while padded.shape[-2:] != (height, width):
        rows = min(height - padded.shape[-2], padded.shape[-2] - 1)
        cols = min(width - padded.shape[-1], max(padded.shape[-1] - 1, 0))
        if padded.shape[-1] == 1:
            padded = padded.expand(-1, -1, -1, width)
            cols = 0
        padded = F.pad(padded, (0, cols, 0, rows), mode='reflect')
    whole = backbone(padded)
    for ours, level in zip(tokens.levels, whole.levels, strict=True):
        torch.testing.assert_close(ours, level)
    assert tokens.project(torch.ones(1, sum(tokens.channels))).shape == (2, 1, *size)


def test_vit_gives_its_last_block_behind_the_norm() -> None:
    backbone = frozen('timm:test_vit?weights=random', 3)
    torch.manual_seed(0)
    model = timm.create_model('test_vit', num_classes=0, dynamic_img_size=True).eval()
    image = rand(1, 3, 64, 96)
    mean, std = backbone.mean[:, None, None], backbone.std[:, None, None]
    with torch.no_grad():
        features = model.forward_features((image - mean) / std)
    expected = features[:, model.num_prefix_tokens :].transpose(1, 2)
    torch.testing.assert_close(
        backbone(image).levels[0].flatten(2), expected, atol=1e-5, rtol=1e-5
    )
    raw = frozen('timm:test_vit?weights=random&norm=false', 3)(image).levels[0]
    assert not torch.allclose(raw.flatten(2), expected, atol=1e-2)


def test_frozen_and_reproducible() -> None:
    spec = 'timm:test_resnet?weights=random'
    backbone = frozen(spec, 3)
    parent = nn.Sequential(backbone)
    parent.train()
    before = backbone.weights_digest()
    image = rand(2, 3, 32, 32).requires_grad_()
    tokens = backbone(image)
    assert backbone.weights_digest() == before
    assert not any(p.requires_grad for p in parent.parameters())
    assert not any(level.requires_grad for level in tokens.levels)
    # The tokens can take part in autograd later (inference mode would forbid it).
    weight = torch.ones(1, sum(tokens.channels), requires_grad=True)
    tokens.project(weight).sum().backward()
    assert weight.grad is not None
    state = torch.random.get_rng_state()
    assert frozen(spec, 3).weights_digest() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert frozen(f'{spec}&seed=1', 3).weights_digest() != before
    assert backbone.calibration() == {}


def test_invalid_values_become_the_mean() -> None:
    backbone = frozen('timm:test_resnet?weights=random', 3)
    image = rand(1, 3, 32, 32)
    image[..., 3:5, 3:5] = torch.nan
    filled = image.clone()
    filled[..., 3:5, 3:5] = backbone.mean[:, None, None]
    for ours, level in zip(
        backbone(image).levels, backbone(filled).levels, strict=True
    ):
        torch.testing.assert_close(ours, level)


def test_weights_with_other_bands_or_wrappers(tmp_path: Path) -> None:
    model = timm.create_model('test_resnet', in_chans=5)
    wrapped = {f'module.encoder.{k}': v for k, v in model.state_dict().items()}
    torch.save({'state_dict': wrapped, 'epoch': 1}, tmp_path / 'five.pth')
    backbone = frozen('timm:test_resnet', 5, weights=str(tmp_path / 'five.pth'))
    assert len(backbone.mean) == 5
    torch.testing.assert_close(
        backbone.network.model.conv1[0].weight, model.conv1[0].weight.detach()
    )
    with pytest.raises(InputError, match='takes 5 bands, the imagery has 4'):
        create_backbone('timm:test_resnet', 4, weights=str(tmp_path / 'five.pth'))


def test_weights_of_another_size_have_their_positions_interpolated(
    tmp_path: Path,
) -> None:
    model = timm.create_model('test_vit', img_size=320)
    save_file(model.state_dict(), tmp_path / 'large.safetensors')
    spec = 'timm:test_vit?img_size=160'
    backbone = frozen(spec, 3, weights=str(tmp_path / 'large.safetensors'))
    assert backbone(rand(1, 3, 320, 320)).levels[0].shape[-2:] == (20, 20)
    torch.testing.assert_close(
        backbone.network.model.blocks[0].attn.qkv.weight,
        model.blocks[0].attn.qkv.weight.detach(),
    )


def test_weights_of_another_model(mobilenet: Path) -> None:
    with pytest.raises(InputError, match=r'does not fit timm:test_resnet: \d+ of'):
        create_backbone('timm:test_resnet', 3, weights=str(mobilenet))
    with pytest.raises(InputError, match='does not fit timm:test_vit'):
        create_backbone('timm:test_vit', 3, weights=str(mobilenet))
    # The same architecture at another width.
    with pytest.raises(InputError, match='another shape'):
        create_backbone('timm:mobilenetv2_140', 3, weights=str(mobilenet))


def test_a_missing_head_does_not_matter(mobilenet: Path, tmp_path: Path) -> None:
    state = load_file(mobilenet)
    body = {
        k: v for k, v in state.items() if not k.startswith(('classifier', 'conv_h'))
    }
    assert len(body) < len(state)
    save_file(body, tmp_path / 'body.safetensors')
    file = str(tmp_path / 'body.safetensors')
    create_backbone(f'{MOBILENET}&layers=0,1,2', 3, weights=file)
    early = {k: v for k, v in body.items() if not k.startswith('blocks.6')}
    save_file(early, tmp_path / 'body.safetensors')
    create_backbone(f'{MOBILENET}&layers=0,1,2', 3, weights=file)
    with pytest.raises(InputError, match=r'first: blocks\.6'):
        create_backbone(f'{MOBILENET}&layers=4', 3, weights=file)


def test_offline(offline: Path) -> None:
    with pytest.raises(InputError, match=r'--weights FILE .*rcf') as error:
        create_backbone('timm:test_resnet', 3)
    assert '\n' not in str(error.value)


def test_offline_with_weights_in_the_hubs_cache(offline: Path) -> None:
    cfg = timm.models.get_pretrained_cfg('test_resnet')
    folder = offline / f'models--{cfg.hf_hub_id.replace("/", "--")}'
    (folder / 'refs').mkdir(parents=True)
    (folder / 'refs' / 'main').write_text('abc')
    (folder / 'snapshots' / 'abc').mkdir(parents=True)
    model = timm.create_model('test_resnet')
    save_file(model.state_dict(), folder / 'snapshots' / 'abc' / 'model.safetensors')
    backbone = frozen('timm:test_resnet', 4)
    torch.testing.assert_close(
        backbone.network.model.conv1[0].weight, model.conv1[0].weight.detach()
    )


def test_download_that_fails(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers and the file is not to be had."""
    monkeypatch.setattr(
        'torchgeo_mapsr.models.backbones.weights.is_reachable', lambda url: True
    )
    monkeypatch.setattr(
        timm.models._builder,
        'load_state_dict_from_hf',
        lambda *args, **kwargs: (_ for _ in ()).throw(OSError('gone\nfor ever')),
    )
    with (
        pytest.warns(InputWarning, match=r'test_resnet: http.* is asked for them'),
        pytest.raises(InputError, match=r'gone\. Give a local file'),
    ):
        create_backbone('timm:test_resnet', 3)


@pytest.mark.parametrize(
    ('spec', 'bands', 'message'),
    [
        ('timm:test_resnat', 3, 'did you mean test_resnet'),
        ('timm:test_resnet.none', 3, r'there are: test_resnet\.r160_in1k'),
        ('timm:test_resnet?weights=random&layers=5', 3, 'layers 0 to 4'),
        ('timm:test_resnet?weights=random&foo=1', 3, "argument 'foo'"),
        ('timm:test_resnet?weights=random&output_stride=7', 3, 'timm:test_resnet'),
        ('timm:test_resnet?weights=random&mean=1,2', 3, '1 or 3 values'),
        ('timm:test_resnet?weights=random&bands=1,9', 3, 'got bands=1,9'),
    ],
)
def test_wrong_options(spec: str, bands: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_backbone(spec, bands)


def test_model_of_a_fixed_size() -> None:
    backbone = create_backbone('timm:cait_xxs24_224?weights=random&img_size=64', 3)
    backbone(rand(1, 3, 60, 64))
    with pytest.raises(InputError, match=r'cannot take images of 80 x 64 .*img_size'):
        backbone(rand(1, 3, 66, 64))


@pytest.mark.parametrize(
    ('name', 'size', 'padded'),
    [
        ('test_resnet', 70, 80),
        ('hrnet_w18_small', 300, 320),
        ('sam2_hiera_tiny&layers=0,1', 300, 320),
        ('crossvit_tiny_240', 230, 240),
    ],
)
def test_padding_goes_to_what_the_network_takes(
    name: str, size: int, padded: int
) -> None:
    model, _, option = name.partition('&')
    backbone = frozen(f'timm:{model}?weights=random&{option}'.rstrip('&'), 3)
    tokens = backbone(rand(1, 3, size, size))
    for level, stride in zip(tokens.levels, tokens.strides, strict=True):
        assert level.shape[-2:] == (padded // stride, padded // stride)


def test_network_that_resizes_inside_is_refused() -> None:
    """Its tokens, read by the stride, would lie beside their places."""
    backbone = frozen('timm:crossvit_tiny_240?weights=random', 3)
    with pytest.raises(
        InputError, match=r'gives a 20 x 20 grid .*--chip-size 240'
    ) as e:
        backbone(torch.zeros(1, 3, 448, 448))
    if 'img_size' in str(e.value):
        size = str(e.value).rpartition('img_size=')[2].rstrip(')')
        other = frozen(f'timm:crossvit_tiny_240?weights=random&img_size={size}', 3)
        other(torch.zeros(1, 3, int(size), int(size)))


def test_img_size_is_named_where_it_helps() -> None:
    backbone = frozen('timm:mixer_s16_224?weights=random', 3)
    with pytest.raises(InputError, match='img_size=448'):
        backbone(torch.zeros(1, 3, 448, 448))
    large = frozen('timm:mixer_s16_224?weights=random&img_size=448', 3)
    large(torch.zeros(1, 3, 448, 448))
