# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.spec import (
    Member,
    convert,
    is_asked_for,
    map_option,
    parse_spec,
    suggest,
)

TEXT = st.text(st.characters(exclude_categories=['Cs', 'Cc', 'Zs']), min_size=1)


def builder(
    name: str,
    *,
    layers: tuple[int, ...] | None = None,
    mean: tuple[float, ...] = (0.0,),
    norm: bool = False,
    seed: int = 0,
    weights: str | None = None,
) -> dict[str, Any]:
    return locals()


class Closed:
    def __init__(self, bands: int, filters: int = 64, scale: float = 1.0) -> None:
        self.arguments = bands, filters, scale


def open_builder(name: str, *, seed: int = 0, **options: Any) -> dict[str, Any]:
    return {'seed': seed, **options}


def test_members() -> None:
    spec = 'timm:resnet18.a1_in1k?layers=0,1&pad_type=same + rcf?filters=32+identity'
    first, second, third = parse_spec(spec)
    assert first == Member(
        'timm', 'resnet18.a1_in1k', {'layers': '0,1', 'pad_type': 'same'}
    )
    assert second == Member('rcf', '', {'filters': '32'})
    assert third == Member('identity', '', {})


@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=3))
def test_text_of_a_member_reads_back(
    kind: str, name: str, options: dict[str, str]
) -> None:
    member = Member('timm', name, {}).with_option('weights', kind)
    for key, value in options.items():
        member = member.with_option(key, value)
    assert parse_spec(f'rcf+{member}') == (Member('rcf', '', {}), member)


def test_an_option_changes_in_every_member_that_has_it() -> None:
    spec = 'rcf?filters=8 + timm:a?weights=w.pth+timm:b?weights=random'
    found = map_option(spec, 'weights', lambda value: f'/here/{value}')
    assert [member.options for member in parse_spec(found)] == [
        {'filters': '8'},
        {'weights': '/here/w.pth'},
        {'weights': '/here/random'},
    ]
    assert map_option(spec, 'weights', lambda value: value) == spec
    assert map_option(spec, 'layers', str.upper) == spec


def test_options_are_converted_by_annotation() -> None:
    text = 'x:a?layers=0,-1&mean=0.5&norm=true&seed=7&weights=/a/b c.pth'
    assert Member.parse(text).build(builder, 'a') == {
        'name': 'a',
        'layers': (0, -1),
        'mean': (0.5,),
        'norm': True,
        'seed': 7,
        'weights': '/a/b c.pth',
    }
    assert Member.parse('x?layers=none').build(builder, 'a')['layers'] is None
    assert Member.parse('x?filters=8').build(Closed, 4).arguments == (4, 8, 1.0)
    assert Member.parse('x?seed=3&a=1&b=0.5&c=same&d=false').build(
        open_builder, ''
    ) == {'seed': 3, 'a': 1, 'b': 0.5, 'c': 'same', 'd': False}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x?filter=8', "Unknown option 'filter'.*did you mean filters"),
        ('x?bands=3', "Unknown option 'bands'"),
        ('x?filters=many', 'filters=many.*expected int'),
        ('x?scale=', 'expected float'),
        ('x?filters', 'name=value'),
        ('x?=8', 'name=value'),
    ],
)
def test_wrong_options(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Member.parse(text).build(Closed, 4)


def test_booleans_are_strict() -> None:
    assert convert('1', bool) is True
    assert convert('False', bool) is False
    with pytest.raises(ValueError, match='true or false'):
        convert('yes please', bool)


def test_suggest() -> None:
    assert suggest('resnet81', ['resnet18', 'vgg']) == ': did you mean resnet18?'
    assert suggest('zzz', ['resnet18']) == ''


@pytest.mark.parametrize(
    ('spec', 'is_it'),
    [
        ('rcf?filters=6+identity', True),
        ('rcf?filters=6&seed=0+identity', True),
        ('rcf?filters=6&seed=1+identity', False),
        ('rcf?filters=7+identity', False),
        ('rcf?filters=6', False),
    ],
)
def test_spec_of_a_fit(spec: str, is_it: bool) -> None:
    assert is_asked_for(spec, 'rcf?filters=6&seed=0+identity') is is_it
