# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Arguments that nothing can be made of are refused when an object is made."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from torch.utils.data import DataLoader

import torchgeo_mapsr
from torchgeo_mapsr import (
    AdversarialTask,
    BalancedChipSampler,
    ChipSampler,
    ClassAwareTask,
    ClassBalancedCrossEntropy,
    ClassCentreContrast,
    ClassPrior,
    ExemplarLabels,
    ExpectationMaximizationTask,
    FitOptions,
    FitSampler,
    Imagery,
    InputError,
    LatticeSampler,
    LRHRPair,
    MapJob,
    MapSRTask,
    MapWriter,
    MaskedAutoencoderTask,
    MatchedStatistics,
    OpenEarthMapDataModule,
    PairDataModule,
    PseudoLabelTask,
    ResolutionAlignment,
    SegmentationTask,
    SelfTrainingTask,
    SymmetricCrossEntropy,
    UnlabelledDataModule,
    create_backbone,
    fit,
    make_scene,
    map_array,
)
from torchgeo_mapsr.arguments import (
    POSITIVE,
    check_arguments,
    check_choice,
    check_range,
    construct,
)
from torchgeo_mapsr.tasks.network import NetworkTask
from torchgeo_mapsr.transforms import RandomChip

# What a class needs to be made with a wrong word.
NEEDED: dict[str, dict[str, Any]] = {
    'AdversarialTask': {'exemplars': 'hr.tif'},
    'SourceTargetDataModule': {'source': None, 'target': None},
}

SMALL: dict[str, Any] = {
    'dim': 24,
    'depth': 1,
    'heads': 3,
    'decoder_dim': 12,
    'decoder_heads': 3,
}


def words() -> Iterator[tuple[str, str]]:
    """Every argument of a public class that is one of some words."""
    for name in torchgeo_mapsr.__all__:
        kind = getattr(torchgeo_mapsr, name)
        if not inspect.isclass(kind) or issubclass(kind, Exception):
            continue
        for argument, parameter in inspect.signature(kind).parameters.items():
            if get_origin(parameter.annotation) is Literal:
                yield name, argument


@pytest.mark.parametrize(('name', 'argument'), words())
def test_words(name: str, argument: str) -> None:
    kind = getattr(torchgeo_mapsr, name)
    arguments = {**NEEDED.get(name, {}), argument: 'nonsense'}
    with pytest.raises(InputError, match=f'{argument} must be one of') as error:
        kind(**arguments)
    assert 'nonsense' in str(error.value)
    annotation = inspect.signature(kind).parameters[argument].annotation
    assert all(str(word) in str(error.value) for word in get_args(annotation))


def network_tasks(kind: type[NetworkTask] = NetworkTask) -> Iterator[type[NetworkTask]]:
    """Those of the package; other tests make some of their own."""
    for task in kind.__subclasses__():
        if task.__module__.startswith('torchgeo_mapsr.'):
            yield task
        yield from network_tasks(task)


@pytest.mark.parametrize('task', network_tasks())
def test_numbers_of_tasks_have_ranges(task: type[NetworkTask]) -> None:
    """What is a number and has no range is checked where it is used."""
    elsewhere = {'epsilon', 'in_channels'}
    numbers = {
        name
        for name, parameter in inspect.signature(task).parameters.items()
        if isinstance(parameter.default, float | int)
        and not isinstance(parameter.default, bool)
    }
    assert numbers - elsewhere <= set(task.ranges)


@pytest.mark.parametrize(
    ('make', 'arguments'),
    [
        (SegmentationTask, {'lr': -1e-3}),
        (SegmentationTask, {'weight_decay': nan}),
        (SegmentationTask, {'in_channels': 0}),
        (SegmentationTask, {'in_channels': 2.5}),
        (SegmentationTask, {'class_weights': (1, 1, -1, 1)}),
        (SegmentationTask, {'class_weights': (1, nan, 1, 1)}),
        (SegmentationTask, {'class_weights': (1, inf, 1, 1)}),
        (SegmentationTask, {'class_weights': ['1', '1', '1', '1']}),
        (SegmentationTask, {'class_weights': 3}),
        (SegmentationTask, {'class_weights': (0, 0, 0, 0)}),
        (SegmentationTask, {'loss': 'dice', 'class_weights': (1, 2, 3, 4)}),
        (SegmentationTask, {'scheduler': 'cosine', 'patience': 3}),
        (SegmentationTask, {'ignore_index': 4}),
        (SegmentationTask, {'ignore_index': -1}),
        (SegmentationTask, {'ignore_index': 1.5}),
        (SegmentationTask, {'std': 1, 'mean': nan}),
        (SegmentationTask, {'std': 1, 'mean': 'a'}),
        (SegmentationTask, {'mean': 1, 'std': [1, 1, inf, 1]}),
        (AdversarialTask, {'exemplars': []}),
        (ClassAwareTask, {'shares': [inf, 1, 1, 1]}),
        (ClassAwareTask, {'shares': 'abcd'}),
        (ClassAwareTask, {'temperature': 0.0}),
        (ClassAwareTask, {'least_share': 2.0}),
        (ExpectationMaximizationTask, {'round_epochs': 0}),
        (ExpectationMaximizationTask, {'round_epochs': 1.5}),
        (SelfTrainingTask, {'threshold': nan}),
        (SelfTrainingTask, {'ema_decay': -1.0}),
        (SelfTrainingTask, {'alignment_p': 2.0}),
        (SelfTrainingTask, {'alignment': 0.5}),
        (SelfTrainingTask, {'alignment': ('a', 'b')}),
        (PseudoLabelTask, {'lovasz_weight': -1.0}),
        (PseudoLabelTask, {'epsilon': 0.0}),
        (PseudoLabelTask, {'epsilon': 'a'}),
        (PseudoLabelTask, {'teachers': ['a'], 'teacher_weights': ['x']}),
        (PseudoLabelTask, {'teacher_image': 'sar'}),
        (MapSRTask, {'bands': 0}),
        (MapSRTask, {'bands': 3.5}),
        (MapSRTask, {'lr': inf}),
        (MapSRTask, {'fit': {'prompt': 2}}),
        (MapSRTask, {'fit': 'quick'}),
        (SegmentationTask, {'classes': 'nlcd'}),
        (SelfTrainingTask, {'network': {'bands': 4}}),
        (MaskedAutoencoderTask, {**SMALL, 'warmup': 2.0}),
        (MaskedAutoencoderTask, {'dim': 24, 'heads': 0}),
        (MaskedAutoencoderTask, {**SMALL, 'decoder_depth': 0}),
        (MaskedAutoencoderTask, {**SMALL, 'size': 0}),
        (MaskedAutoencoderTask, {**SMALL, 'size': 64.0}),
        (MaskedAutoencoderTask, {**SMALL, 'ratio': 'a'}),
        (MatchedStatistics, {'hr_weight': nan}),
        (ClassBalancedCrossEntropy, {'least': 0.0}),
        (ClassCentreContrast, {'temperature': -0.1}),
        (ClassPrior, {'momentum': 0.5, 'classes': 0}),
        (SymmetricCrossEntropy, {'ce_weight': -1.0}),
        (ResolutionAlignment, {'p': nan}),
        (ResolutionAlignment, {'ratio': (0.5,)}),
        (ResolutionAlignment, {'ratio': (0.25, 0.5, 1)}),
        (RandomChip, {'size': 0}),
        (RandomChip, {'size': 2.5}),
        (FitOptions, {'l2': nan}),
        (FitOptions, {'prompts': 1.5}),
        (FitOptions, {'seed': 0.5}),
        (MapJob, {'imagery': 'i.tif', 'output': 'map.tif', 'fit': {'prompt': 0}}),
        (MapJob, {'imagery': 'i.tif', 'output': 'map.tif', 'chips': {'stride': 9}}),
        (create_backbone, {'spec': 'rcf', 'bands': 0}),
        (create_backbone, {'spec': 'rcf', 'bands': 3.5}),
        (Imagery, {'paths': 'i.tif', 'bands': ['red']}),
        (ExemplarLabels, {'labels': 'hr.tif', 'size': 0}),
        (ExemplarLabels, {'labels': 'hr.tif', 'size': 4.5}),
        (PairDataModule, {'imagery': 'i.tif', 'labels': 'l.tif', 'batch_size': 0}),
        (PairDataModule, {'imagery': 'i.tif', 'labels': 'l.tif', 'stride': -1}),
        (PairDataModule, {'imagery': 'i.tif', 'labels': 'l.tif', 'val_split': 'a'}),
        (PairDataModule, {'imagery': 'i.tif', 'labels': 'l.tif', 'seed': 1.5}),
        (PairDataModule, {'imagery': 'i.tif', 'labels': 'l.tif', 'roi': 'abcd'}),
        (PairDataModule, {'imagery': 'i.tif', 'labels': 'l.tif', 'roi': [nan] * 4}),
        (PairDataModule, {'imagery': 'i.tif', 'labels': 'l.tif', 'batch_size': 2.5}),
        (UnlabelledDataModule, {'imagery': 'i.tif', 'patch_size': 64.5}),
        (UnlabelledDataModule, {'imagery': 'i.tif', 'num_workers': -1}),
        (OpenEarthMapDataModule, {'patch_size': 0}),
        (MapWriter, {'output': 'map.tif', 'tile_size': 0}),
        (MapWriter, {'output': 'map.tif', 'tile_size': 99.5}),
        (MapWriter, {'output': 'map.tif', 'min_area': nan}),
    ],
)
def test_numbers(make: Any, arguments: dict[str, Any]) -> None:
    wrong = list(arguments)[-1]
    with pytest.raises(InputError, match=wrong) as error:
        make(**arguments)
    assert '\n' not in str(error.value)


def test_what_does_not_fit_together() -> None:
    with pytest.raises(InputError, match='dim and decoder_dim are multiples'):
        MaskedAutoencoderTask(**{**SMALL, 'heads': 5})
    with pytest.raises(InputError, match='Propagation must be none or one of'):
        MapSRTask(propagate='segments')


def test_samplers(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, size=(96, 96))
    pair = LRHRPair(scene.imagery, scene.labels)
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (ChipSampler, {'size': 0}),
        (ChipSampler, {'size': 32, 'stride': -3}),
        (ChipSampler, {'size': 32, 'length': -3}),
        (BalancedChipSampler, {'length': 4, 'size': -1}),
        (BalancedChipSampler, {'size': 32, 'length': 4, 'balance': nan}),
        (LatticeSampler, {'size': 32, 'tile_size': 0}),
        (LatticeSampler, {'size': 32, 'align': 0}),
        (FitSampler, {'size': 32, 'halo': -3}),
        (FitSampler, {'size': 32, 'seed': -3}),
        (ChipSampler, {'size': 32.5}),
        (BalancedChipSampler, {'size': 32, 'length': 4.5}),
        (LatticeSampler, {'size': 32, 'overlap': 8.5}),
        (FitSampler, {'size': 32, 'halo': 2.5}),
    ]
    for make, arguments in wrong:
        with pytest.raises(InputError, match=f'{list(arguments)[-1]} must be'):
            make(pair, **arguments)


def test_a_number_is_no_place(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, size=(96, 96))
    pair = LRHRPair(scene.imagery, scene.labels)
    with pytest.raises(InputError, match='give the DataLoader a sampler'):
        next(iter(DataLoader(pair)))


def test_arrays(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, size=(96, 96))
    files = scene.imagery, scene.labels
    with pytest.raises(InputError, match='options has no prompt; it has'):
        fit(*files, 'nlcd', options={'prompt': 2})
    with pytest.raises(InputError, match='chip_size must be 1 or more'):
        fit(*files, 'nlcd', chip_size=-1)
    model = fit(*files, 'nlcd', backbone='identity', options={'seed': 1})
    assert model.head.provenance['options']['seed'] == 1
    with pytest.raises(InputError, match="chip_size must be an integer, not '64'"):
        map_array(model, scene.imagery, chip_size='64')  # type: ignore[arg-type]


def test_messages() -> None:
    for value, low, high, said in (
        (3, 0, 2, 'x must be between 0 and 2, not 3.'),
        (nan, 0, 2, 'x must be between 0 and 2, not nan.'),
        (0, 1, inf, 'x must be 1 or more, not 0.'),
        (inf, 1, inf, 'x must be 1 or more, not inf.'),
        (0, POSITIVE, inf, 'x must be above 0, not 0.'),
        (2, POSITIVE, 1, 'x must be above 0 and at most 1, not 2.'),
        (nan, -inf, inf, 'x must be a finite number, not nan.'),
        ('2', 0, inf, "x must be a number, not '2'."),
    ):
        with pytest.raises(InputError) as error:
            check_range('x', value, low, high)
        assert str(error.value) == said
    for value in (None, 0, 1, 0.5, True):
        check_range('x', value, 0, 1)
    for value in (None, 0, 1, np.int64(1)):
        check_range('x', value, 0, 1, whole=True)
    with pytest.raises(InputError, match=r'x must be an integer, not 0\.5'):
        check_range('x', 0.5, 0, 1, whole=True)
    check_choice('x', 'a', ('a', 'b'))
    with pytest.raises(InputError) as error:
        check_choice('x', 'c', ('a', 'b'))
    assert str(error.value) == "x must be one of a, b, not 'c'."


def test_signatures() -> None:
    def function(word: Literal['a', 'b'], number: int = 1) -> None:
        """Nothing."""

    check_arguments(function, {'word': 'a', 'number': 3}, {'number': (1, 3)})
    with pytest.raises(InputError, match='number must be an integer'):
        check_arguments(function, {'number': 1.5}, {'number': (1, 3)})
    with pytest.raises(InputError, match='word'):
        check_arguments(function, {'word': 'c'})
    with pytest.raises(InputError, match='number'):
        check_arguments(function, {'number': 4}, {'number': (1, 3)})


def test_construct() -> None:
    @dataclass(frozen=True)
    class Point:
        x: int = 0
        y: int = 0

    point = Point(1)
    assert construct(Point, point, 'point') is point
    assert construct(Point, {'x': 1}, 'point') == point
    with pytest.raises(InputError) as error:
        construct(Point, {'x': 1, 'z': 2}, 'point')
    assert str(error.value) == 'point has no z; it has x, y.'
    with pytest.raises(InputError, match='point must be Point'):
        construct(Point, 3, 'point')  # type: ignore[arg-type]
