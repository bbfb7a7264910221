# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What is forbidden offline, whichever library would do it."""

import http.server
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import rasterio
import requests
import torch

from torchgeo_mapsr import offline
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.dask import DaskCluster
from torchgeo_mapsr.models.backbones.create import create_backbone

#: An address that is kept for documentation (RFC 5737): nobody has it.
NOBODY = '192.0.2.1'

#: A proxy on this machine, as desktops have them: through it, all is the network.
PROXY = 'http://127.0.0.1:9'


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline until the end of a test."""
    for name in offline._SETTINGS:
        monkeypatch.setenv(name, '')
    for name in offline._PROXIES:
        monkeypatch.setenv(name, PROXY)
        monkeypatch.setenv(name.upper(), PROXY)
    monkeypatch.setattr(urllib.request, '_opener', urllib.request.build_opener())
    constants = sys.modules.get('huggingface_hub.constants')
    if constants is not None:
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', constants.HF_HUB_OFFLINE)
    offline.forbid_network()


@pytest.fixture
def server() -> Iterator[str]:
    """A server on this machine; gives its address."""
    handler = http.server.SimpleHTTPRequestHandler
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{running.server_address[1]}/'
        running.shutdown()
        thread.join()


@pytest.mark.usefixtures('forbidden')
def test_any_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf'connection to {NOBODY} needs the network'):
        socket.create_connection((NOBODY, 80), timeout=5)
    with pytest.raises(InputError, match=r'example\.org'):
        urllib.request.urlopen('http://example.org/', timeout=5)
    with pytest.raises(InputError, match=r'example\.org'):
        requests.get('https://example.org/', timeout=5)
    with pytest.raises(InputError, match=r'example\.org'):
        torch.hub.load_state_dict_from_url('https://example.org/x.pth', str(tmp_path))


@pytest.mark.usefixtures('forbidden')
def test_this_machine_is_not_the_network(server: str) -> None:
    assert requests.get(server, timeout=5).ok


def test_it_ends_with_the_variable(server: str) -> None:
    assert not offline.is_offline()
    with pytest.raises(OSError):  # noqa: PT011 (whatever this machine says)
        socket.create_connection((NOBODY, 80), timeout=0.01)


@pytest.mark.usefixtures('forbidden')
@pytest.mark.parametrize(
    'path',
    ['https://example.org/a.tif', '/vsicurl/https://example.org/a.tif', 's3://b/a.tif'],
)
def test_rasters(path: str) -> None:
    with pytest.raises(InputError, match=r'needs the network, which is forbidden'):
        Imagery(path)


def test_gdal_itself(
    server: str, forbidden: None, tmp_path: Path, made_scene: Scene
) -> None:
    """A VRT whose source is behind an address."""
    with rasterio.open(made_scene.imagery) as file:
        grid = file.transform.to_gdal()
    path = tmp_path / 'remote.vrt'
    path.write_text(
        f"""<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32618</SRS>
        <GeoTransform>{', '.join(map(str, grid))}</GeoTransform>
        <VRTRasterBand dataType="Byte" band="1"><SimpleSource>
        <SourceFilename>/vsicurl/{server}a.tif</SourceFilename><SourceBand>1</SourceBand>
        </SimpleSource></VRTRasterBand></VRTDataset>"""
    )
    with pytest.raises(InputError, match=r'remote\.vrt'):
        Imagery(path)


@pytest.mark.usefixtures('forbidden')
@pytest.mark.parametrize(
    'spec', ['timm:test_resnet', 'torchgeo:ResNet18_Weights.SENTINEL2_RGB_MOCO']
)
def test_weights_of_a_hub(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    with pytest.raises(InputError, match=r'network is forbidden .*--weights FILE'):
        create_backbone(spec, 3)


@pytest.mark.usefixtures('forbidden')
def test_catalogues_and_schedulers(
    made_scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('pystac_client')
    box = '-76.61', '39.28', '-76.60', '39.29'
    imagery = 'stac:https://example.org/?collections=naip&assets=image'
    args = ['map', imagery, '--labels', str(made_scene.labels), '--legend', 'nlcd']
    args += ['--output', str(tmp_path / 'a.tif'), '--date', '2022', '--bbox', *box]
    assert main(args) == 2
    assert 'example.org needs the network' in capsys.readouterr().err.replace('/ ', ' ')
    with pytest.raises(InputError, match=r'The Dask scheduler tcp://192.0.2.1:8786'):
        DaskCluster(f'tcp://{NOBODY}:8786').__enter__()


@pytest.mark.parametrize('args', [['--offline'], []])
def test_the_option_and_the_variable(args: list[str]) -> None:
    """In a process of its own: what is forbidden there stays so."""
    script = f"""
import os, sys
if not {args!r}:
    os.environ['TORCHGEO_MAPSR_OFFLINE'] = '1'
from torchgeo_mapsr.main import main
code = main(['evaluate', 'https://example.org/a.tif', '--truth', 'b.tif', *{args!r}])
assert os.environ['HF_HUB_OFFLINE'] == '1'
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith('torchgeo-mapsr: https://example.org/a.tif needs')
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ('host', 'local'),
    [
        ('localhost', True),
        ('127.0.0.1', True),
        ('::1', True),
        (None, True),
        ('example.org', False),
        ('10.0.0.1', False),
        ('8.8.8.8', False),
    ],
)
def test_what_is_this_machine(host: str | None, local: bool) -> None:
    assert offline.is_this_machine(host) == local
