# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch

from torchgeo_mapsr import ExportableModel, InputError, fit, map_array
from torchgeo_mapsr.datasets.scene.scene import Scene

SPECS = ('rcf?filters=6&colours=24&strides=1,4', 'timm:test_vit?weights=random')


@pytest.fixture(scope='module', params=['identity', *SPECS])
def module(request: pytest.FixtureRequest, made_scene: Scene) -> ExportableModel:
    model = fit(
        made_scene.imagery, made_scene.labels, 'nlcd', backbone=request.param,
        chip_size=160, device='cpu',
    )  # fmt: skip
    return ExportableModel(model)


@pytest.mark.parametrize('module', SPECS, indirect=True)
def test_export_agrees_with_eager(module: ExportableModel, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    image = 255 * torch.rand(1, 4, 160, 160, generator=generator)
    with torch.no_grad():
        eager = module(image)
    torch.testing.assert_close(eager.sum(1), torch.ones(1, 160, 160))
    program = torch.export.export(module, (image,))
    other = 255 * torch.rand(1, 4, 160, 160, generator=generator)
    with torch.no_grad():
        expected = module(other)
    torch.testing.assert_close(program.module()(other), expected, atol=1e-5, rtol=0)

    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    path = tmp_path / 'model.onnx'
    torch.onnx.export(module, (image,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    (found,) = session.run(None, {name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('centre', [False, True])
def test_published_form_is_exported(made_scene: Scene, centre: bool) -> None:
    model = fit(
        made_scene.imagery, made_scene.labels, 'nlcd', backbone='identity',
        options={'score': 'cosine', 'centre': centre}, device='cpu',
    )  # fmt: skip
    module = ExportableModel(model)
    image = 255 * torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(module, (torch.zeros_like(image),))
    with torch.no_grad():
        expected = module(image)
    torch.testing.assert_close(program.module()(image), expected, atol=1e-5, rtol=0)


def test_compiled_in_one_graph(module: ExportableModel) -> None:
    """The scoring path has no graph break, and gives what it gives without a compiler."""
    graphs = []

    def compiler(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(module, backend=compiler, fullgraph=True)
    image = 255 * torch.rand(2, 4, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), module(image), atol=1e-5, rtol=0)
    assert len(graphs) == 1


def test_what_cannot_be_exported(made_scene: Scene) -> None:
    model = fit(
        made_scene.imagery, made_scene.labels, 'nlcd', backbone='identity',
        propagate='tokens?spacing=16', device='cpu',
    )  # fmt: skip
    with pytest.raises(InputError, match='with_options'):
        ExportableModel(model)
    ExportableModel(model.with_options(propagate='none'))


def test_integers_are_taken_as_numbers(module: ExportableModel) -> None:
    image = torch.randint(0, 255, (1, 4, 64, 64), dtype=torch.uint8)
    assert torch.equal(module(image), module(image.float()))


def test_a_pixel_that_is_not_finite_stays_alone(module: ExportableModel) -> None:
    image = torch.randint(0, 255, (1, 4, 128, 128)).float()
    broken = image.clone()
    broken[0, :, 60, 60] = torch.inf
    found, expected = module(broken).argmax(1), module(image).argmax(1)
    assert (found != expected).float().mean() < 0.05
    assert module(broken).isfinite().all()


def test_it_moves_as_a_whole_and_alone(made_scene: Scene) -> None:
    """Its head with its backbone, and not the model that it was made of."""
    model = fit(made_scene.imagery, made_scene.labels, 'nlcd', backbone='rcf')
    moved = ExportableModel(model).to('meta')
    assert moved.head.device.type == 'meta'
    assert moved(torch.zeros(1, 4, 64, 64, device='meta')).shape == (1, 4, 64, 64)
    assert model.device.type == 'cpu'
    assert map_array(model, made_scene.imagery).max() > 0
