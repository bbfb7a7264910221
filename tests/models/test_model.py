# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import pickle
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from torchgeo_mapsr import FitOptions, LandCoverModel
from torchgeo_mapsr.atomic import file_digest
from torchgeo_mapsr.datasets import Crosswalk, LRHRPair
from torchgeo_mapsr.datasets.chip import Chip
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models import features
from torchgeo_mapsr.models.backbones.backbone import Backbone
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.features import (
    FrozenBackbone,
    band_spread,
    calibration_part,
    extract,
)
from torchgeo_mapsr.models.head.cells import Cells
from torchgeo_mapsr.models.model import fit_model
from torchgeo_mapsr.models.model_file import ModelFile
from torchgeo_mapsr.models.tokens.bilateral import JointBilateral
from torchgeo_mapsr.samplers import FitSampler
from torchgeo_mapsr.samplers.lattice import LatticeSampler

SPEC = 'rcf?filters=6&colours=24&strides=1,4'
OPTIONS = FitOptions(l2=1e-3, prior=0.3, max_pixels=4000)


@pytest.fixture(scope='module')
def pair(made_scene: Scene) -> LRHRPair:
    return LRHRPair(made_scene.imagery, made_scene.labels)


@pytest.fixture(scope='module')
def chips(pair: LRHRPair) -> list[Chip]:
    return [pair.read(query) for query in FitSampler(pair, 160, halo=14, align=4)]


@pytest.fixture(scope='module')
def backbone(chips: list[Chip]) -> Backbone:
    made = create_backbone(SPEC, 4, None, 'uint8')
    made.calibrate([(chip.image, chip.valid) for chip in chips[:4]])
    return made


def fitted(
    backbone: Backbone, chips: list[Chip], options: FitOptions = OPTIONS
) -> LandCoverModel:
    cells = Cells.concat(
        Cells.of(extract(backbone, chip.image), chip, 400, 0) for chip in chips
    )
    return fit_model(
        cells.table(),
        Crosswalk.load('nlcd', 'land-cover-4'),
        backbone,
        FrozenBackbone.of(backbone, 4, 'uint8'),
        options,
    )


@pytest.fixture(scope='module')
def model(backbone: Backbone, chips: list[Chip]) -> LandCoverModel:
    return fitted(backbone, chips)


@pytest.fixture(scope='module')
def chip(pair: LRHRPair) -> Chip:
    """A chip of a map, of which the core is scored."""
    queries = list(LatticeSampler(pair, 160, halo=14, align=4))
    chip = pair.read(queries[1])
    assert chip.core is not None
    return chip


def test_order_of_chips_changes_no_bit(
    backbone: Backbone, chips: list[Chip], model: LandCoverModel
) -> None:
    again = fitted(backbone, chips[::-1])
    assert again.to_bytes() == model.to_bytes()


def test_core_is_part_of_the_whole(model: LandCoverModel, chip: Chip) -> None:
    part = model.probabilities(chip)
    rows, cols = chip.core
    assert part.shape == (4, rows.stop - rows.start, cols.stop - cols.start)
    whole = model.probabilities(replace(chip, core=None))
    assert whole.shape == (4, *chip.valid.shape)
    torch.testing.assert_close(part, whole[:, rows, cols], atol=1e-6, rtol=0)
    total = part.sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_file_is_everything(model: LandCoverModel, chip: Chip, tmp_path: Path) -> None:
    """But for the weights of the backbone: the same bytes, and the same numbers."""
    path = tmp_path / 'fit.safetensors'
    used = replace(
        model.with_options(upsampler='bilateral', propagate='tokens?spacing=16'),
        spread=(30.0, 31.0, 29.0, 40.0),
    )
    for kept in (model, used):
        kept.save(path)
        assert path.stat().st_size < 500_000
        again = LandCoverModel.load(path)
        assert again.to_bytes() == kept.to_bytes() == path.read_bytes()
        assert again.provenance == json.loads(json.dumps(kept.provenance))
        assert (again.upsampler, again.spread) == (kept.upsampler, kept.spread)
        assert again.propagate == kept.propagate
        assert torch.equal(again.probabilities(chip), kept.probabilities(chip))
    with safe_open(path, 'pt') as file:
        names = set(file.keys())
    assert names >= {'head.probe.weight', 'head.prior.composition'}


@pytest.mark.parametrize('place', [3, 40, -1, -5000])
def test_damage_is_noticed(model: LandCoverModel, tmp_path: Path, place: int) -> None:
    """Wherever a bit is turned: in the header, the settings or the numbers."""
    content = bytearray(model.to_bytes())
    assert LandCoverModel.is_model(bytes(content))
    content[place] ^= 1
    assert not LandCoverModel.is_model(bytes(content))
    path = tmp_path / 'fit.safetensors'
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        LandCoverModel.load(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'text', b'\0' * 64])
def test_other_files_are_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'other'
    path.write_bytes(content)
    with pytest.raises(InputError, match='other'):
        LandCoverModel.load(path)
    with pytest.raises(InputError, match='Cannot read'):
        LandCoverModel.load(tmp_path / 'nothing')
    for other in (b'', b'{}', b'II*\0\x08\0\0\0' + bytes(range(256)) * 9, b'\xff' * 99):
        path.write_bytes(other)
        with pytest.raises(InputError, match='is not a fit of this torchgeo-mapsr'):
            LandCoverModel.load(path)


def test_weights_of_the_backbone_are_compared(
    model: LandCoverModel, tmp_path: Path
) -> None:
    path = tmp_path / 'fit.safetensors'
    replace(model, origin=replace(model.origin, digest='0' * 16)).save(path)
    with pytest.raises(InputError, match='are not those that the fit was made with'):
        LandCoverModel.load(path)
    model.save(path)
    other = create_backbone('rcf?filters=4', 4, None, 'uint8')
    with pytest.raises(InputError, match='are not those that the fit was made with'):
        LandCoverModel.load(path, backbone=other)


def test_used_in_another_way(model: LandCoverModel, chip: Chip) -> None:
    first = model.probabilities(chip)
    scored = {first.numpy().tobytes()}
    for changes in (
        {'score': 'lda'},
        {'score': 'probe'},
        {'prior': 0.0},
        {'prior': 2.0},
        {'propagate': 'tokens?spacing=16'},
    ):
        other = model.with_options(**changes)
        scored.add(other.probabilities(chip).numpy().tobytes())
        assert other.provenance != model.provenance
    assert len(scored) == 6
    assert torch.equal(model.with_options().probabilities(chip), first)
    with pytest.raises(InputError, match='score'):
        model.with_options(score='best')
    with pytest.raises(InputError, match='not fitted with'):
        model.with_options(score='cosine')
    with pytest.raises(InputError, match='upsampler'):
        model.with_options(upsampler='nearest')
    assert model.uses_labels
    bare = model.with_options(prior=0.0)
    assert not bare.uses_labels
    without = replace(chip, windows=(), region=torch.zeros_like(chip.region))
    assert torch.equal(bare.probabilities(chip), model.probabilities(without))


def test_guide_is_the_image_in_units_of_its_spread(
    model: LandCoverModel, backbone: Backbone, chip: Chip
) -> None:
    spread = band_spread([(chip.image, chip.valid)])
    expected = chip.image[:, chip.valid].numpy().std(1, ddof=1)
    np.testing.assert_allclose(spread, expected, rtol=1e-5)
    guided = replace(model, upsampler='bilateral', spread=spread)
    scale = torch.tensor(spread)[:, None, None]
    guide = (chip.image / scale * 0.2)[None]
    dense = backbone(chip.image[None]).with_upsampler(JointBilateral(guide))
    tokens = guided.tokens(chip.image)
    every = torch.eye(sum(dense.channels))
    torch.testing.assert_close(
        tokens.project(every), dense.project(every), atol=1e-4, rtol=1e-4
    )
    plain = model.probabilities(chip)
    assert not torch.allclose(guided.probabilities(chip), plain)


def in_a_worker(sent: bytes, chip: Chip) -> tuple[Tensor, bool]:
    """Open a file that was sent, and score a chip; whether it is opened once."""
    file: ModelFile = pickle.loads(sent)
    model = file.open()
    again: ModelFile = pickle.loads(sent)
    return model.probabilities(chip), again.open() is model


def test_sent_to_another_process(
    model: LandCoverModel, chip: Chip, tmp_path: Path
) -> None:
    path = tmp_path / 'fit.safetensors'
    model.save(path)
    options = (('prior', 0.0), ('score', 'probe'))
    file = ModelFile(path, file_digest(path), 'cpu', options=options)
    sent = pickle.dumps(file)
    assert len(sent) < 1000
    with ProcessPoolExecutor(1, get_context('spawn')) as pool:
        scores, once = pool.submit(in_a_worker, sent, chip).result()
    assert once
    expected = model.with_options(prior=0.0, score='probe').probabilities(chip)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)


def test_another_file_is_noticed(model: LandCoverModel, tmp_path: Path) -> None:
    path = tmp_path / 'fit.safetensors'
    model.save(path)
    file = ModelFile(path, file_digest(path), 'cpu')
    model.with_options(prior=0.0).save(path)
    with pytest.raises(OSError, match='another one'):
        file.open()


def test_on_a_gpu(
    gpu: Counter[str] | None, model: LandCoverModel, chip: Chip, tmp_path: Path
) -> None:
    """Chips stay on the CPU, and what is scored is there."""
    expected = model.probabilities(chip)
    path = tmp_path / 'fit.safetensors'
    model.save(path)
    there = LandCoverModel.load(path, 'cuda')
    assert there.device.type == 'cuda'
    scores = there.probabilities(chip)
    assert scores.is_cuda
    torch.testing.assert_close(scores.cpu(), expected, atol=1e-4, rtol=0)
    assert there.to_bytes() == model.to_bytes()


def test_calibration_looks_at_a_part_of_chips_of_many_bands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gigabyte at most, of as many chips; chips of few bands as they are."""
    monkeypatch.setattr(features, 'CALIBRATION_VALUES', 4 * 40 * 100)
    valid = torch.ones(30, 20, dtype=torch.bool)
    few = torch.rand(32, 30, 20)
    assert calibration_part(few, valid, 4)[0] is few
    image = torch.rand(40, 30, 20)
    part, there = calibration_part(image, valid, 4)
    assert torch.equal(part, image[:, 10:20, 5:15])
    assert there.shape == (10, 10)
    # A middle without data is no use.
    valid[5:25] = False
    assert calibration_part(image, valid, 4)[0] is image


def test_spread_of_many_bands_is_that_of_each() -> None:
    chips = [(torch.rand(40, 9, 7) * 50, torch.rand(9, 7) > 0.3) for _ in range(3)]
    values = torch.cat([image[:, valid] for image, valid in chips], 1)
    np.testing.assert_allclose(band_spread(chips), values.std(1), rtol=1e-5)


def test_two_fits_of_one_backbone(
    model: LandCoverModel, chips: list[Chip], chip: Chip, tmp_path: Path
) -> None:
    """A second one does not change what the first maps with."""
    paths = tmp_path / 'a.safetensors', tmp_path / 'b.safetensors'
    other = create_backbone(SPEC, 4, None, 'uint8')
    other.calibrate([(255 - chip.image, chip.valid) for chip in chips[4:6]])
    for fit, path in zip((model, fitted(other, chips)), paths, strict=True):
        fit.save(path)
    shared = create_backbone(SPEC, 4, None, 'uint8')
    first, second = (LandCoverModel.load(path, backbone=shared) for path in paths)
    for loaded, path in ((first, paths[0]), (second, paths[1])):
        alone = LandCoverModel.load(path)
        assert torch.equal(loaded.probabilities(chip), alone.probabilities(chip))
    # the same calibration needs no copy
    assert LandCoverModel.load(paths[1], backbone=second.backbone).backbone is (
        second.backbone
    )


def test_another_device_leaves_the_model_where_it_is(
    model: LandCoverModel, chip: Chip
) -> None:
    before = model.probabilities(chip)
    assert model.to('meta').device.type == 'meta'
    assert model.to('cpu').backbone is model.backbone
    assert torch.equal(model.probabilities(chip), before)


def test_guides_without_a_value_spoil_no_pixel_beside_them(
    backbone: Backbone, chips: list[Chip]
) -> None:
    """A pixel that is not finite counts as 0 in what guides the upsampling."""
    image = chips[0].image.clone()
    spread = band_spread([(chip.image, chip.valid) for chip in chips[:4]])
    weight = torch.ones(2, sum(backbone.channels))
    zero, broken = image.clone(), image.clone()
    zero[:, 20, 30] = 0
    broken[:, 20, 30] = torch.tensor([torch.inf, -torch.inf, torch.nan, torch.inf])
    expected, found = (
        extract(backbone, some, spread=spread).upsampler.weights(4)
        for some in (zero, broken)
    )
    assert torch.equal(found, expected)
    assert extract(backbone, broken, spread=spread).project(weight).isfinite().all()


def test_a_backbone_is_named() -> None:
    with pytest.raises(InputError, match='named by its spec'):
        create_backbone(torch.nn.Identity(), 4)  # type: ignore[arg-type]
