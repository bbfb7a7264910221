# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch import nn

from torchgeo_mapsr.models.networks.teacher import EMATeacher


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


@pytest.mark.parametrize('warmup', [False, True])
@pytest.mark.parametrize('decay', [0.3, 0.9])
def test_is_equation_4(decay: float, warmup: bool) -> None:
    network = student()
    teacher = EMATeacher(network, decay, warmup)
    expected = {k: v.clone() for k, v in network.state_dict().items()}
    for step in range(6):
        network(torch.randn(4, 2, 3, 3))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += torch.randn_like(parameter)
        teacher.update_parameters(network)
        alpha = min(decay, 1 - 1 / (step + 1)) if warmup else decay
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = alpha * expected[name] + (1 - alpha) * value
            else:
                expected[name] = value.clone()
    found = teacher.module.state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert found['1.running_mean'].abs().sum() > 0


def test_follows_nobody_before_the_first_update() -> None:
    network = student()
    teacher = EMATeacher(network)
    with torch.no_grad():
        network[0].weight += 1  # type: ignore[operator]
    assert (teacher.module[0].weight != network[0].weight).all()


def test_takes_no_gradient_and_stays_in_evaluation_mode() -> None:
    network = student()
    teacher = EMATeacher(network)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in network.parameters())
    outer = nn.ModuleList([network, teacher]).train()
    assert not any(m.training for m in teacher.modules())
    assert outer[0].training


def test_goes_on_from_its_state() -> None:
    network = student()
    one = EMATeacher(network, 0.9)
    for _ in range(3):
        one.update_parameters(network)
    other = EMATeacher(student(), 0.9)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    for teacher in (one, other):
        teacher.update_parameters(network)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert (a == b).all()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match='decay'):
        EMATeacher(student(), 1.5)
