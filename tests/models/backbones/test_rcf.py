# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate, gaussian_filter, uniform_filter
from torch import Tensor

from torchgeo_mapsr.datasets.geo.grid import Window
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones import rcf
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.backbones.rcf import PATCHES, RCF
from torchgeo_mapsr.models.tokens.tokens import PART, Tokens


def picture(
    bands: int = 3, height: int = 160, width: int = 176, seed: int = 0
) -> Tensor:
    """Coloured noise with correlated bands, in raw units of no particular scale."""
    rng = np.random.default_rng(seed)
    layers = [
        gaussian_filter(rng.normal(size=(bands, height, width)), (0, s, s), mode='wrap')
        for s in (0.5, 2, 6)
    ]
    mixed = np.tensordot(rng.normal(size=(bands, bands)), sum(layers), 1)
    return torch.from_numpy(100 + 400 * mixed).float()


def everywhere(image: Tensor) -> tuple[Tensor, Tensor]:
    return image, torch.ones(image.shape[-2:], dtype=torch.bool)


def calibrated(image: Tensor, **options: int | tuple[int, ...]) -> RCF:
    backbone = RCF(len(image), **options)
    backbone.calibrate([everywhere(image)])
    return backbone


@pytest.fixture(scope='module')
def image() -> Tensor:
    return picture()


@pytest.fixture(scope='module')
def default(image: Tensor) -> RCF:
    return calibrated(image)


def standard(image: Tensor) -> Tensor:
    std, mean = torch.std_mean(image.double(), dim=(1, 2), correction=0)
    return ((image - mean[:, None, None]) / std[:, None, None]).float()


def test_shapes(default: RCF, image: Tensor) -> None:
    assert default.strides == (1, 1, 2, 4, 8, 16)
    assert default.channels == (3 + 128, *(3 + 2 * 48,) * 5)
    tokens = default(image[None, :, :50, :71].repeat(2, 1, 1, 1))
    assert tokens.size == (50, 71)
    assert tokens.channels == default.channels
    for level, stride in zip(tokens.levels, default.strides, strict=True):
        assert level.shape[-2:] == (-(-50 // stride), -(-71 // stride))
        assert level.dtype == torch.float32
        torch.testing.assert_close(level[0], level[1])


def test_spec_reaches_the_options() -> None:
    made = create_backbone('rcf?filters=5&kernel=3&strides=1,8&colours=7&seed=3', 2)
    assert isinstance(made, RCF)
    assert made.strides == (1, 1, 8)
    assert made.channels == (9, 12, 12)
    assert made.kernel == 3
    assert made.seed == 3
    assert not list(made.parameters())


def test_equals_a_literal_transcription(image: Tensor) -> None:
    """Every level, from the filters, with scipy."""
    backbone = calibrated(image, filters=20, kernel=5, strides=(1, 4), colours=6)
    bands = standard(image).numpy()
    fine, *textures = (level[0] for level in backbone(image[None]).levels)
    angle = np.tensordot(backbone.frequency.numpy(), bands, 1)
    waves = np.cos(angle + backbone.phase.numpy()[:, None, None])
    torch.testing.assert_close(
        fine, torch.from_numpy(np.concatenate([bands, waves])), atol=1e-4, rtol=1e-4
    )
    for i, (level, stride) in enumerate(zip(textures, (1, 4), strict=True)):
        c, h, w = bands.shape
        blocks = bands.reshape(c, h // stride, stride, w // stride, stride)
        coarse = blocks.mean((2, 4))
        z = np.stack(
            [
                sum(
                    correlate(band, kernel, mode='mirror')
                    for band, kernel in zip(coarse, own, strict=True)
                )
                + bias
                for own, bias in zip(
                    backbone.weight[i].numpy(), backbone.bias[i].numpy(), strict=True
                )
            ]
        )
        parts = [coarse, np.maximum(z - 0.5, 0), np.maximum(-z - 0.5, 0)]
        mean = uniform_filter(np.concatenate(parts), (0, 3, 3), mode='mirror')
        torch.testing.assert_close(level, torch.from_numpy(mean), atol=1e-4, rtol=1e-4)


def patches_at(image: Tensor, stride: int, kernel: int) -> Tensor:
    """All patches of an image that need no padding, (n, C k k)."""
    coarse = F.avg_pool2d(standard(image)[None], stride)
    return F.unfold(coarse, kernel)[0].T


@pytest.mark.parametrize('stride', [1, 2, 4])
def test_responses_have_unit_variance(image: Tensor, stride: int) -> None:
    """On patches of the calibration image: on all of them, up to the sample drawn."""
    backbone = calibrated(image, strides=(stride,), filters=32)
    patches = patches_at(image, stride, 5)
    response = patches @ backbone.weight[0].flatten(1).T + backbone.bias[0]
    assert len(patches) < 10 * PATCHES
    torch.testing.assert_close(
        response.std(0), torch.ones(32), atol=0.08, rtol=0, msg=str(response.std(0))
    )
    assert response.mean(0).abs().max() < 0.1


def test_filters_are_whitened_patches(image: Tensor) -> None:
    """With the whitening undone, every filter is a patch of the image, up to scale."""
    backbone = calibrated(image, strides=(2,), filters=16)
    patches = patches_at(image, 2, 5).double()
    # The sample that was drawn has nearly the moments of all patches.
    centred = patches - patches.mean(0)
    covariance = centred.T @ centred / len(centred)
    covariance += 0.1 * covariance.diagonal().mean() * torch.eye(len(covariance))
    filters = backbone.weight[0].flatten(1).double()
    undone = F.normalize(filters @ covariance, dim=1)
    cosine = undone @ F.normalize(centred, dim=1).T
    inner = cosine.max(1).values
    # One drawn at the border has a mirrored part, and is not in the list.
    assert (inner > 0.97).sum() >= 12, inner
    # Two different patches do not look alike.
    assert cosine.median() < 0.5


def test_fourier_features_approximate_the_gaussian_kernel(image: Tensor) -> None:
    """2/K sum_k cos cos -> exp(-|x - y|² / 2) of the whitened bands."""
    count = 20_000
    backbone = calibrated(image, strides=(16,), filters=1, colours=count)
    pixels = image[:, ::16, ::16]
    waves = backbone(pixels[None]).levels[0][0, 3:].flatten(1)
    kernel = 2 / count * waves.T @ waves

    # Symmetric whitening with a floor of 2 %, in closed form.
    every = standard(image).flatten(1).double()
    values, vectors = torch.linalg.eigh(every @ every.T / every.shape[1])
    whiten = vectors / (values + 0.02 * values.mean()).sqrt() @ vectors.T
    white = whiten @ standard(image)[:, ::16, ::16].flatten(1).double()
    expected = (-torch.cdist(white.T, white.T).square() / 2).exp()
    assert expected.min() < 0.05
    torch.testing.assert_close(kernel.double(), expected, atol=0.04, rtol=0)


def test_seeds(default: RCF, image: Tensor) -> None:
    again, other = calibrated(image), calibrated(image, seed=1)
    assert again.weights_digest() == default.weights_digest()
    small = image[None, :, :64, :64]
    for a, b, c in zip(
        default(small).levels, again(small).levels, other(small).levels, strict=True
    ):
        assert torch.equal(a, b)
        assert (a - c).abs().max() > 0.1


def test_calibration_leaves_the_global_generator_alone(image: Tensor) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    calibrated(image[:, :64, :64], filters=4)
    assert torch.equal(before, torch.get_rng_state())


def test_calibration_round_trip(default: RCF, image: Tensor) -> None:
    assert not default.needs_calibration
    other = RCF(3)
    assert other.needs_calibration
    with pytest.raises(RuntimeError, match='calibrate'):
        other(image[None])
    calibration = default.calibration()
    other.load_calibration(calibration)
    assert other.weights_digest() == default.weights_digest()
    for a, b in zip(
        default(image[None]).levels, other(image[None]).levels, strict=True
    ):
        assert torch.equal(a, b)
    # Small enough to travel with a fit.
    assert sum(t.numel() * t.element_size() for t in calibration.values()) < 200_000


@pytest.mark.parametrize('scale', [1e-3, 1e4])
def test_units_of_the_imagery_do_not_matter(image: Tensor, scale: float) -> None:
    offset = torch.tensor([0.0, 5.0, -3.0])[:, None, None]
    a = calibrated(image, filters=8)(image[None, :, :64, :64])
    moved = (image + 100 * offset) * scale
    b = calibrated(moved, filters=8)(moved[None, :, :64, :64])
    for x, y in zip(a.levels, b.levels, strict=True):
        torch.testing.assert_close(x, y, atol=2e-2, rtol=0)


@pytest.mark.parametrize('size', [(192, 208), (240, 160)])
def test_interior_does_not_depend_on_the_chip(size: tuple[int, int]) -> None:
    """Maps are seamless: beyond its halo, a chip has the features of any other one."""
    image = picture(3, 352, 368, seed=4)
    backbone = calibrated(image, filters=6, colours=8)
    assert backbone.halo == 56
    whole = backbone(image[None])
    height, width = size
    weight = torch.randn(
        7, sum(backbone.channels), generator=torch.Generator().manual_seed(0)
    )
    expected = whole.project(weight)
    for row, col in ((16, 0), (64, 96), (352 - height, 368 - width)):
        chip = backbone(image[None, :, row : row + height, col : col + width])
        part = expected[..., row : row + height, col : col + width]
        difference = (chip.project(weight) - part).abs().amax((0, 1))
        inner = difference[56:-56, 56:-56]
        assert inner.max() < 1e-3
        # The halo is not larger than it must be: one pixel within it differs, unless
        # the chip's border is the image's.
        for border, edge in (
            (difference[55, 56:-56], row > 0),
            (difference[-56, 56:-56], row + height < 352),
            (difference[56:-56, 55], col > 0),
            (difference[56:-56, -56], col + width < 368),
        ):
            if edge:
                assert border.max() > 1e-3
            else:
                assert border.max() < 1e-3


@pytest.mark.parametrize(('kernel', 'strides'), [(3, (1,)), (7, (1, 3)), (5, (2, 8))])
def test_halo_of_other_options(kernel: int, strides: tuple[int, ...]) -> None:
    image = picture(2, 240, 240, seed=2)
    backbone = calibrated(image, filters=4, colours=2, kernel=kernel, strides=strides)
    halo, start = backbone.halo, 48
    chip = backbone(image[None, :, start : start + 144, start : start + 144])
    weight = torch.ones(1, sum(backbone.channels))
    weight[0, 1::2] = -1
    expected = backbone(image[None]).project(weight)
    expected = expected[..., start : start + 144, start : start + 144]
    inner = slice(halo, -halo)
    torch.testing.assert_close(
        chip.project(weight)[..., inner, inner],
        expected[..., inner, inner],
        atol=1e-4,
        rtol=1e-4,
    )


def test_invalid_pixels_take_no_part_in_calibration(image: Tensor) -> None:
    """Whatever no-data pixels hold, NaN included, the calibration is the same."""
    valid = torch.ones(160, 176, dtype=torch.bool)
    valid[:50] = False
    valid[90:100, 20:70] = False
    calibrations = []
    for fill in (0.0, -9999.0, torch.nan, torch.inf):
        filled = torch.where(valid, image, fill)
        backbone = RCF(3, filters=8)
        backbone.calibrate([(filled, valid)])
        calibrations.append(backbone.calibration())
    for other in calibrations[1:]:
        for name, tensor in calibrations[0].items():
            assert tensor.isfinite().all()
            assert torch.equal(tensor, other[name]), name
    std, mean = torch.std_mean(image[:, valid].double(), dim=1, correction=0)
    torch.testing.assert_close(calibrations[0]['mean'], mean.float())
    torch.testing.assert_close(calibrations[0]['std'], std.float())


def test_nan_counts_as_no_data_though_it_is_called_valid(image: Tensor) -> None:
    broken = image.clone()
    broken[1, 30:60, 40:90] = torch.nan
    a, b = RCF(3, filters=4), RCF(3, filters=4)
    a.calibrate([everywhere(broken)])
    b.calibrate([(image, broken[1].isfinite())])
    assert a.weights_digest() == b.weights_digest()
    tokens = a(broken[None])
    assert all(level.isfinite().all() for level in tokens.levels)


def test_constant_band(image: Tensor) -> None:
    """It has no say: neither in the features, nor where it varies after all."""
    constant = image.clone()
    constant[1] = 255
    backbone = calibrated(constant, filters=8)
    flipped = constant.clone()
    flipped[1, :, :80] = 0
    for a, b in zip(
        backbone(constant[None]).levels, backbone(flipped[None]).levels, strict=True
    ):
        assert a.isfinite().all()
        assert torch.equal(a, b)
        assert not a[:, 1].any()
    # The other bands are as they would be: a half of a level tells them apart.
    fine = backbone(constant[None]).levels[0][0]
    torch.testing.assert_close(fine[[0, 2]], standard(image)[[0, 2]])


def test_constant_image() -> None:
    image = torch.full((2, 40, 40), 7.0)
    backbone = calibrated(image, filters=4)
    assert not backbone.needs_calibration
    for level in backbone(image[None]).levels:
        assert level.isfinite().all()


@pytest.mark.parametrize('size', [(1, 1), (2, 40), (3, 3), (15, 17)])
def test_tiny_images(image: Tensor, size: tuple[int, int]) -> None:
    height, width = size
    small = image[:, :height, :width]
    for backbone in (calibrated(image, filters=4), calibrated(small, filters=4)):
        tokens = backbone(small[None])
        assert tokens.size == size
        assert all(level.isfinite().all() for level in tokens.levels)
        weight = torch.ones(1, sum(backbone.channels))
        assert tokens.project(weight).shape == (1, 1, height, width)


@pytest.mark.parametrize('bands', [1, 12, 32])
def test_many_bands(bands: int) -> None:
    image = picture(bands, 64, 64)
    backbone = calibrated(image, filters=4, kernel=3, strides=(1, 4), colours=8)
    assert backbone.channels == (bands + 8, bands + 8, bands + 8)
    fine, *textures = backbone(image[None]).levels
    torch.testing.assert_close(fine[0, :bands], standard(image), atol=1e-3, rtol=1e-3)
    for level in textures:
        assert level.isfinite().all()
        # Responses are neither lost nor blown up: a good part is beyond 1/2.
        assert 0.02 < level[:, bands:].mean() < 1


def spectra(bands: int, seed: int = 0) -> Tensor:
    """A picture of smooth spectra: few degrees of freedom, and noise in each band."""
    rng = np.random.default_rng(seed)
    basis = gaussian_filter(rng.normal(size=(4, bands)), (0, bands / 8))
    layers = picture(4, 72, 88, seed).numpy() / 400
    clean = np.tensordot(basis.T, layers, 1)
    noise = 0.1 * clean.std() * rng.normal(size=clean.shape)
    return torch.from_numpy(1000 + 300 * (clean + noise)).float()


def test_more_bands_than_32_are_reduced_to_principal_components() -> None:
    image = spectra(50)
    backbone = calibrated(image, filters=4, kernel=3, strides=(1, 4), colours=8)
    assert backbone.channels == (16 + 8, 16 + 8, 16 + 8)
    assert backbone.weight.shape == (2, 4, 16, 3, 3)
    # Against the singular value decomposition of all standardised pixels.
    x = standard(image).flatten(1).double()
    _, singular, vectors = np.linalg.svd(x.T.numpy(), full_matrices=False)
    fine = backbone(image[None]).levels[0][0, :16].flatten(1).double()
    expected = torch.from_numpy(vectors[:16]) @ x
    for one, other in zip(fine[:4], expected[:4], strict=True):
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) > 0.999
    variance = torch.from_numpy(singular[:16]) ** 2
    torch.testing.assert_close(fine.square().sum(1), variance, rtol=1e-2, atol=0)


def test_as_many_components_as_bands_are_no_reduction() -> None:
    image = spectra(40)
    made = calibrated(image, filters=4, strides=(1,), colours=8, components=40)
    assert made.channels[0] == 48
    assert 'axes' not in made.calibration()
    few = spectra(32)
    options = {'filters': 4, 'strides': (1,), 'colours': 8}
    plain, other = calibrated(few, **options), calibrated(few, components=2, **options)
    assert plain.weights_digest() == other.weights_digest()


def test_reduction_is_kept_with_the_calibration() -> None:
    image = spectra(40)
    options = {'filters': 4, 'kernel': 3, 'strides': (1, 2), 'colours': 8}
    made = calibrated(image, **options)
    again = RCF(40, **options)
    again.load_calibration(made.calibration())
    holes = image.clone()
    holes[3, 5, 7] = torch.nan
    weight = torch.randn(2, sum(made.channels))
    for picture_ in (image, holes):
        for one, other in zip(
            made(picture_[None]).levels, again(picture_[None]).levels, strict=True
        ):
            assert torch.equal(one, other)
            assert one.isfinite().all()
        tokens = made(picture_[None])
        dense = Tokens(made(picture_[None]).levels, made.strides, tokens.size)
        torch.testing.assert_close(
            tokens.project(weight), dense.project(weight), atol=1e-3, rtol=1e-3
        )


def test_several_chips_are_one_sample(image: Tensor) -> None:
    """Statistics are those of all chips together, and an invalid one is left out."""
    other = picture(3, 96, 96, seed=5) + 300
    nothing = torch.full((3, 20, 20), torch.nan), torch.zeros(20, 20, dtype=torch.bool)
    backbone = RCF(3, filters=4)
    backbone.calibrate(iter([everywhere(image), nothing, everywhere(other)]))
    together = torch.cat([image.flatten(1), other.flatten(1)], 1).double()
    torch.testing.assert_close(backbone.mean, together.mean(1).float())
    torch.testing.assert_close(backbone.std, together.std(1).float(), rtol=1e-4, atol=0)


def test_no_colours_and_no_textures_share(image: Tensor) -> None:
    backbone = calibrated(image, filters=2, strides=(2,), colours=0)
    fine, coarse = backbone(image[None]).levels
    assert fine.shape[1] == 3
    assert coarse.shape[1] == 7


@pytest.mark.parametrize('window', [None, (slice(70, 150), slice(3, 40))])
@pytest.mark.parametrize('beside', [False, True])
def test_parts_are_the_features(
    default: RCF, image: Tensor, beside: bool, window: Window | None
) -> None:
    """Each once, of all pixels or of some; none is kept, few are there at a time."""
    lazy, height, width = default(image[None]), image.shape[1], image.shape[2]
    if beside:
        grid = torch.rand(1, 7, height, width)
        lazy = Tokens.concat([lazy, Tokens((grid,), (1,), (height, width))])
    found = torch.full((height, width, sum(lazy.channels)), torch.nan)
    rows, cols = torch.arange(height), torch.arange(width)
    for columns, (down, across), part in lazy.parts(window):
        fine = part.strides == (1,)
        assert not fine or part.size[0] <= PART < height
        if window is not None:
            # What wanted pixels are interpolated between, and no more of any level.
            assert window[1].start - across.start in range(2 * part.strides[0])
            assert across.stop - window[1].stop in range(2 * part.strides[0])
        place = torch.cartesian_prod(*map(torch.arange, part.size)).T
        assert found[down, across, columns].isnan().all()
        features = part.gather(0 * place[0], *place)
        found[down, across, columns] = features.unflatten(0, part.size)
    assert '_levels' not in vars(lazy)
    down, across = window or (slice(None), slice(None))
    place = torch.cartesian_prod(rows[down], cols[across]).T
    expected = Tokens(lazy.levels, lazy.strides, lazy.size).gather(0 * place[0], *place)
    torch.testing.assert_close(
        found[down, across].flatten(0, 1), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize('size', [(160, 176), (37, 51), (2, 40), (3, 2)])
@pytest.mark.parametrize('options', [{}, {'colours': 0}, {'kernel': 3, 'filters': 5}])
def test_projection_without_features(
    image: Tensor,
    size: tuple[int, int],
    options: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the features and a matrix give, whatever is computed at once."""
    backbone = calibrated(image, **options)
    batch = torch.stack([image, image.flip(-1)])[..., : size[0], : size[1]].clone()
    batch[0, :, 0, 0] = torch.nan
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, sum(backbone.channels), generator=generator)
    bias = torch.randn(5, generator=generator)
    made = backbone(batch)
    tokens = Tokens(made.levels, made.strides, made.size)
    expected = tokens.project(weight, bias)
    lazy = backbone(batch)
    for pixels in (1, 500, 10**9):
        monkeypatch.setattr(rcf, 'CACHED_PIXELS', pixels)
        found = lazy.project(weight, bias)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)
    found = lazy.project(weight)
    assert 'levels' not in vars(lazy)  # no feature was made
    torch.testing.assert_close(found, tokens.project(weight), atol=2e-4, rtol=1e-5)
    # Once they are there, they are used.
    torch.testing.assert_close(made.project(weight, bias), expected)


@pytest.mark.parametrize('size', [(160, 176), (37, 51), (3, 2)])
@pytest.mark.parametrize('options', [{}, {'strides': (3, 1)}, {'kernel': 3}])
def test_projection_of_a_window(
    image: Tensor, size: tuple[int, int], options: dict[str, Any]
) -> None:
    """Wherever it lies, it is a part of the whole."""
    backbone = calibrated(image, filters=4, colours=8, **options)
    batch = torch.stack([image, image.flip(-1)])[..., : size[0], : size[1]]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, sum(backbone.channels), generator=generator)
    bias = torch.randn(5, generator=generator)
    tokens = backbone(batch)
    whole = tokens.project(weight, bias)
    spans = [
        [slice(0, n), slice(0, -(-n // 2)), slice(n // 3, n), slice(n // 2, n // 2 + 1)]
        for n in size
    ]
    for rows, cols in itertools.product(*spans):
        found = tokens.project(weight, bias, (rows, cols))
        torch.testing.assert_close(found, whole[..., rows, cols], atol=1e-4, rtol=1e-5)


def test_operands_are_not_changed(image: Tensor) -> None:
    before, valid = image.clone(), torch.ones(160, 176, dtype=torch.bool)
    backbone = RCF(3, filters=4)
    backbone.calibrate([(image, valid)])
    backbone(image[None])
    assert torch.equal(image, before)
    assert valid.all()


@pytest.mark.parametrize(
    'options',
    [
        {'kernel': 4},
        {'kernel': -1},
        {'filters': 0},
        {'strides': (1, 0)},
        {'colours': -1},
    ],
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError, match='odd kernel'):
        RCF(3, **options)


def test_nothing_to_calibrate_from(image: Tensor) -> None:
    nowhere = torch.zeros(160, 176, dtype=torch.bool)
    for chips in ([], [(image, nowhere)]):
        with pytest.raises(InputError, match='no valid pixel'):
            RCF(3).calibrate(chips)
    striped = nowhere.clone()
    striped[:, ::10] = True
    with pytest.raises(InputError, match=r'2 x 2 valid pixels.*strides=1,2'):
        RCF(3).calibrate([(image, striped)])
