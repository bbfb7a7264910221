# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.backbone import Backbone
from torchgeo_mapsr.models.backbones.concat import Concat
from torchgeo_mapsr.models.backbones.create import create_backbone
from torchgeo_mapsr.models.backbones.identity import Identity
from torchgeo_mapsr.models.tokens.bilateral import JointBilateral
from torchgeo_mapsr.models.tokens.tokens import Tokens


class Centred(Backbone):
    """Learns the mean of the imagery."""

    mean: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__(bands, channels=(bands,), strides=(1,), halo=3)
        self.register_buffer('mean', torch.zeros(bands))
        self.dropout = nn.Dropout(0.5)

    @property
    def needs_calibration(self) -> bool:
        return True

    def forward(self, image: Tensor) -> Tokens:
        centred = self.dropout(image - self.mean[:, None, None])
        return Tokens((centred,), self.strides, (image.shape[2], image.shape[3]))

    def calibrate(self, chips: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.mean.copy_(torch.stack([c[:, v].mean(1) for c, v in chips]).mean(0))

    def calibration(self) -> dict[str, Tensor]:
        return {'mean': self.mean.clone()}

    def load_calibration(self, calibration: dict[str, Tensor]) -> None:
        self.mean.copy_(calibration['mean'])


def chips() -> Iterator[tuple[Tensor, Tensor]]:
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[0] = False
    image = torch.full((2, 4, 4), 3.0)
    image[:, 0] = 99
    yield image, valid
    yield image + 2, valid


def test_identity() -> None:
    backbone = create_backbone('identity', 5)
    assert isinstance(backbone, Identity)
    assert (backbone.channels, backbone.strides, backbone.halo) == ((5,), (1,), 0)
    image = torch.randn(2, 5, 7, 9)
    image[0, 1, 2, 3] = torch.nan
    tokens = backbone(image)
    assert tokens.size == (7, 9)
    torch.testing.assert_close(tokens.levels[0], image.nan_to_num(nan=0))


def test_concat_calibrates_every_member_from_one_pass() -> None:
    backbone = Concat([Centred(2), Identity(2), Centred(2)])
    assert backbone.needs_calibration
    assert backbone.channels == (2, 2, 2)
    assert backbone.halo == 3
    backbone.calibrate(chips())
    assert {k: v.tolist() for k, v in backbone.calibration().items()} == {
        '0.mean': [4, 4],
        '2.mean': [4, 4],
    }
    tokens = backbone(torch.full((1, 2, 3, 3), 5.0))
    assert [level.mean().item() for level in tokens.levels] == [1, 5, 1]
    other = Concat([Centred(2), Identity(2), Centred(2)])
    assert other.weights_digest() != backbone.weights_digest()
    other.load_calibration(backbone.calibration())
    assert other.weights_digest() == backbone.weights_digest()
    assert not Concat([Identity(2)]).needs_calibration


def test_projections_of_members_add_up() -> None:
    """And those of a member that has features only."""
    torch.manual_seed(0)
    image = torch.rand(2, 3, 24, 20) * 255
    valid = torch.ones(24, 20, dtype=torch.bool)
    backbone = create_backbone('identity+rcf?filters=3&colours=4&strides=1,4', 3)
    backbone.calibrate([(image[0], valid)])
    weight, bias = torch.randn(2, sum(backbone.channels)), torch.randn(2)
    tokens = backbone(image)
    dense = Tokens(tokens.levels, tokens.strides, tokens.size)
    expected = dense.project(weight, bias)
    lazy = backbone(image)
    torch.testing.assert_close(
        lazy.project(weight, bias), expected, atol=1e-4, rtol=1e-5
    )
    assert 'levels' not in vars(lazy)  # no feature was made
    window = slice(4, 21), slice(3, 20)
    part = lazy.project(weight, bias, window)
    torch.testing.assert_close(part, expected[..., *window], atol=1e-4, rtol=1e-5)
    assert lazy.channels == dense.channels == backbone.channels
    for ours, level in zip(lazy.levels, dense.levels, strict=True):
        assert torch.equal(ours, level)
    guided = JointBilateral(image)
    torch.testing.assert_close(
        lazy.with_upsampler(guided).project(weight, bias),
        dense.with_upsampler(guided).project(weight, bias),
    )


def test_networks_are_compiled() -> None:
    """Their graphs are seen by the compiler, and give what they gave before."""
    graphs = []

    def compiler(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    backbone = create_backbone('identity+timm:test_vit?weights=random', 3)
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    before, digest = backbone(image), backbone.weights_digest()
    backbone.compile(backend=compiler)
    assert not graphs
    for found, expected in zip(backbone(image).levels, before.levels, strict=True):
        torch.testing.assert_close(found, expected)
    assert graphs
    assert backbone.weights_digest() == digest


def test_stays_in_evaluation_mode() -> None:
    module = nn.ModuleList([Concat([Centred(2)])])
    module.train()
    assert module.training
    assert not any(m.training for m in module[0].modules())


def test_spec_makes_the_same_backbone_again(tmp_path: Path) -> None:
    made = create_backbone('timm:test_resnet?weights=random&seed=3&layers=0,2', 3)
    file = tmp_path / 'a+b &c.safetensors'
    state = made.network.model.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    whole = create_backbone('identity+timm:test_resnet?layers=0,2', 3, str(file))
    again = create_backbone(whole.spec, 3)
    assert isinstance(again, Concat)
    assert again.spec == whole.spec
    assert again.weights_digest() == whole.weights_digest()
    assert again.channels == (3, *made.channels)
    image = torch.rand(1, 3, 40, 50)
    for a, b in zip(again(image).levels[1:], made(image).levels, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('rfc', 'did you mean rcf.*timm:NAME, torchgeo:WEIGHTS'),
        ('test_resnet', 'did you mean timm:test_resnet'),
        ('identity+nothing', "Unknown backbone 'nothing'"),
        ('', "Unknown backbone ''"),
        ('identity:name', 'no name after a colon'),
        ('identity?filters=3', "Unknown option 'filters'"),
    ],
)
def test_wrong_specs(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_backbone(spec, 3)


def test_weights_without_a_taker() -> None:
    with pytest.raises(InputError, match='takes no weight file'):
        create_backbone('identity', 3, weights='file.pth')
