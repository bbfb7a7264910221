# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.weights import (
    is_reachable,
    load_weights,
    read_weights,
    strip_prefix,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize('nest', [None, 'state_dict', 'model', 'teacher'])
def test_checkpoints(tmp_path: Path, nest: str | None) -> None:
    state = network().state_dict()
    content = state if nest is None else {'epoch': 3, nest: state, 'lr': 0.1}
    torch.save(content, tmp_path / 'w.pth')
    read = read_weights(tmp_path / 'w.pth')
    assert read.keys() == state.keys()
    torch.testing.assert_close(read['0.weight'], state['0.weight'])


def test_safetensors(tmp_path: Path) -> None:
    state = network().state_dict()
    save_file(state, tmp_path / 'w.safetensors')
    torch.testing.assert_close(read_weights(tmp_path / 'w.safetensors'), state)


class Evil:
    """What a checkpoint could do if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    torch.save({'a': Evil(tmp_path / 'ran')}, tmp_path / 'evil.pth')
    with pytest.raises(InputError, match='no plain state dict'):
        read_weights(tmp_path / 'evil.pth')
    assert not (tmp_path / 'ran').exists()


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='does not exist'):
        read_weights(tmp_path / 'none.pth')
    for name in ('a.safetensors', 'a.pth'):
        (tmp_path / name).write_bytes(b'not weights')
        with pytest.raises(InputError, match=f'{name} '):
            read_weights(tmp_path / name)
    save_file(network().state_dict(), tmp_path / 'cut.safetensors')
    whole = (tmp_path / 'cut.safetensors').read_bytes()
    (tmp_path / 'cut.safetensors').write_bytes(whole[:-10])
    with pytest.raises(InputError, match='cannot be read'):
        read_weights(tmp_path / 'cut.safetensors')
    torch.save({'epoch': 3}, tmp_path / 'empty.pth')
    with pytest.raises(InputError, match='no state dict'):
        read_weights(tmp_path / 'empty.pth')


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.backbone.'])
def test_prefixes(prefix: str) -> None:
    state = network().state_dict()
    wrapped = {f'{prefix}{key}': value for key, value in state.items()}
    wrapped['head.weight'] = torch.zeros(2)
    stripped = strip_prefix(wrapped, state)
    assert state.keys() <= stripped.keys()


def test_all_or_nothing() -> None:
    source, target = network(), network()
    state = source.state_dict()
    load_weights(target, {**state, 'head.weight': torch.zeros(2)}, 'FILE', 'NET')
    torch.testing.assert_close(target.state_dict(), state)

    for broken in (
        {k: v for k, v in state.items() if k != '0.bias'},
        {**state, '0.bias': torch.zeros(5)},
        {},
    ):
        other = network()
        before = {k: v.clone() for k, v in other.state_dict().items()}
        with pytest.raises(InputError, match='FILE does not fit NET'):
            load_weights(other, broken, 'FILE', 'NET')
        torch.testing.assert_close(other.state_dict(), before)
    part = {k: v for k, v in state.items() if not k.startswith('1.')}
    load_weights(target, part, 'FILE', 'NET', optional=('1.',))


class Refuse(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *args: object) -> None: ...


def test_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    server = HTTPServer(('127.0.0.1', 0), Refuse)
    url = f'http://127.0.0.1:{server.server_port}/file'
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    # An answer is a sign of life, even if it is a refusal.
    assert is_reachable(url)
    thread.join()
    server.server_close()
    assert not is_reachable(url)
