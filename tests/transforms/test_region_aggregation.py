# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine
from torch import Tensor

from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.transforms import RegionAggregation, aggregate_regions


def blocks(batch: int, cells: int, size: int) -> Tensor:
    region = torch.arange(1, cells**2 + 1).view(1, cells, cells)
    return (
        region.repeat_interleave(size, 1)
        .repeat_interleave(size, 2)
        .expand(batch, -1, -1)
    )


def loop(
    values: Tensor, region: Tensor, n: int, reduction: str, valid: Tensor | None
) -> Tensor:
    """Read the definition aloud."""
    out = torch.zeros(len(values), n, values.shape[1], dtype=values.dtype)
    for b in range(len(values)):
        for cell in range(n):
            inside = region[b] == cell + 1
            if valid is not None:
                inside = inside & (valid[b] > 0)
            if inside.any():
                chosen = values[b][:, inside]
                out[b, cell] = chosen.mean(1) if reduction == 'mean' else chosen.sum(1)
    return out


@pytest.mark.parametrize('size', [1, 3, 8])
def test_blocks_are_average_pooling(size: int) -> None:
    values = torch.rand(2, 5, 6 * size, 6 * size, dtype=torch.float64)
    pooled = F.avg_pool2d(values, size).flatten(2).mT
    region = blocks(2, 6, size)
    torch.testing.assert_close(aggregate_regions(values, region, 36), pooled)
    torch.testing.assert_close(
        aggregate_regions(values, region, 36, 'sum'), pooled * size**2
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 12),
    reduction=st.sampled_from(['mean', 'sum']),
    masked=st.booleans(),
)
def test_loop(seed: int, n: int, reduction: str, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 3, 7, 9, generator=generator, dtype=torch.float64)
    region = torch.randint(0, n + 1, (2, 7, 9), generator=generator)
    valid = torch.randint(0, 2, (2, 7, 9), generator=generator) if masked else None
    found = aggregate_regions(values, region, n, reduction, valid)  # type: ignore[arg-type]
    torch.testing.assert_close(found, loop(values, region, n, reduction, valid))


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_gradient(reduction: str) -> None:
    values = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    region = torch.randint(0, 5, (2, 5, 6))
    valid = torch.rand(2, 5, 6) < 0.7
    assert torch.autograd.gradcheck(
        lambda v: aggregate_regions(v, region, 4, reduction, valid),  # type: ignore[arg-type]
        values,
    )


def test_invalid_pixels_leave_nothing() -> None:
    values = torch.ones(1, 1, 4, 4)
    values[..., 0, :] = torch.nan
    values.requires_grad_()
    valid = torch.ones(1, 4, 4, dtype=torch.long)
    valid[:, 0] = 0
    mean = aggregate_regions(values, blocks(1, 2, 2), 4, valid=valid)
    torch.testing.assert_close(mean, torch.ones(1, 4, 1))
    mean.sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_single(dtype: torch.dtype) -> None:
    # 10 000 ones: in float16 they saturate at 2048, in bfloat16 at 256
    values = torch.ones(1, 1, 100, 100, dtype=dtype)
    total = aggregate_regions(
        values, torch.ones(1, 100, 100, dtype=torch.long), 1, 'sum'
    )
    assert total.item() == 10_000


def test_unknown_reduction() -> None:
    with pytest.raises(ValueError, match='mean'):
        aggregate_regions(torch.ones(1, 1, 2, 2), blocks(1, 1, 2), 1, 'max')  # type: ignore[arg-type]


class TestModule:
    def batch(self) -> dict[str, Tensor]:
        hr = GeoBox((90, 80), Affine(1, 0, 535094.3, 0, -1, 4170780.3), 'EPSG:26917')
        lr = GeoBox((500, 500), Affine(30, 0, 1338000, 0, -30, 1742000), 'EPSG:5070')
        regions = region_map(hr, lr)
        cells = regions.window[2:]
        pixels = np.bincount(regions.mask_region.ravel(), minlength=np.prod(cells) + 1)
        whole = pixels[1:] / np.where(pixels[1:] > 0, regions.share, 1)
        return {
            'logits': torch.randn(1, 4, 90, 80),
            'mask_region': torch.from_numpy(regions.mask_region)[None],
            'mask_valid': torch.ones(1, 90, 80, dtype=torch.long),
            'lr_label': torch.randint(11, 96, (1, *cells)),
            'lr_pixels': torch.from_numpy(whole.reshape(1, *cells)).float(),
            'share': torch.from_numpy(regions.share)[None].float(),
        }

    def test_adds_keys_and_leaves_the_batch_alone(self) -> None:
        batch = self.batch()
        keys, copies = set(batch), {k: v.clone() for k, v in batch.items()}
        out = RegionAggregation()(batch)
        assert set(batch) == keys
        for key, value in copies.items():
            torch.testing.assert_close(batch[key], value)
        assert set(out) - keys == {'region_logits', 'region_label', 'region_weight'}
        n = batch['lr_label'].numel()
        torch.testing.assert_close(
            out['region_logits'],
            loop(batch['logits'], batch['mask_region'], n, 'mean', None),
        )
        torch.testing.assert_close(out['region_label'], batch['lr_label'].flatten(1))

    def test_weight_is_the_visible_share(self) -> None:
        batch = self.batch()
        torch.testing.assert_close(
            RegionAggregation()(batch)['region_weight'], batch['share']
        )
        # a crop and clouds take their part
        small = batch | {'mask_region': batch['mask_region'][:, 20:60, 10:70]}
        small['logits'] = batch['logits'][:, :, 20:60, 10:70]
        small['mask_valid'] = batch['mask_valid'][:, 20:60, 10:70].clone()
        small['mask_valid'][:, :20] = 0
        weight = RegionAggregation()(small)['region_weight']
        n = weight.shape[1]
        kept = small['mask_region'][:, 20:]
        expected = torch.bincount(kept.flatten(), minlength=n + 1)[1:]
        torch.testing.assert_close(
            weight[0], expected / batch['lr_pixels'].flatten().clamp(min=1)
        )

    def test_without_optional_keys(self) -> None:
        batch = self.batch()
        del batch['mask_valid'], batch['lr_pixels']
        weight = RegionAggregation()(batch)['region_weight']
        assert weight.max() == 1
        assert (weight - batch['share']).abs().max() < 0.05

    def test_other_maps(self) -> None:
        batch = self.batch()
        batch['features'] = torch.randn(1, 7, 90, 80)
        module = RegionAggregation('features', 'sum')
        n = batch['lr_label'].numel()
        torch.testing.assert_close(
            module(batch)['region_features'],
            loop(batch['features'], batch['mask_region'], n, 'sum', None),
            rtol=1e-4,
            atol=1e-4,
        )
        assert repr(module) == "RegionAggregation(key='features', reduction='sum')"

    def test_masks_as_augmentations_leave_them(self) -> None:
        batch = self.batch()
        other = batch | {
            key: batch[key][:, None].float() for key in ('mask_region', 'mask_valid')
        }
        plain, kornias = (RegionAggregation()(b) for b in (batch, other))
        for key in ('region_logits', 'region_weight'):
            assert torch.equal(plain[key], kornias[key])

    def test_no_cells(self) -> None:
        batch = {
            'logits': torch.randn(2, 4, 5, 5),
            'mask_region': torch.zeros(2, 5, 5, dtype=torch.long),
            'lr_label': torch.zeros(2, 0, 0, dtype=torch.long),
        }
        out = RegionAggregation()(batch)
        assert out['region_logits'].shape == (2, 0, 4)
        assert out['region_weight'].shape == (2, 0)
