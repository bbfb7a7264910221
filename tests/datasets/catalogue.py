# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A STAC API on this machine: search, range requests, and files that want a token.

It runs in a process of its own: rasterio holds Python's lock while GDAL waits for an
answer. What is served is read from ``catalogue.json`` at each request.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Catalogue:
    """What is served.

    Args:
        folder: Files, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ''
        self.items: dict[str, dict[str, Any]] = {}
        self.token = 'first'

    @property
    def token(self) -> str:
        """What a file's address has to carry; addresses in items carry it."""
        return self._token

    @token.setter
    def token(self, token: str) -> None:
        self._token = token
        self._save()

    def _save(self) -> None:
        part = self.folder / 'catalogue.json.part'
        part.write_text(json.dumps({'items': self.items, 'token': self._token}))
        os.replace(part, self.folder / 'catalogue.json')

    def add(
        self,
        name: str,
        bbox: tuple[float, float, float, float],
        when: str,
        assets: dict[str, str],
        collection: str = 'imagery',
        **properties: Any,
    ) -> None:
        """List files as an item."""
        west, south, east, north = bbox
        ring = [
            [west, south],
            [east, south],
            [east, north],
            [west, north],
            [west, south],
        ]
        self.items[name] = {
            'type': 'Feature',
            'stac_version': '1.0.0',
            'stac_extensions': [],
            'id': name,
            'collection': collection,
            'bbox': list(bbox),
            'geometry': {'type': 'Polygon', 'coordinates': [ring]},
            'properties': {'datetime': when, **properties},
            'assets': {
                key: {
                    'href': file,
                    'roles': ['data'],
                    'type': 'image/tiff; application=geotiff',
                }
                for key, file in assets.items()
            },
        }
        self._save()

    @property
    def requests(self) -> list[tuple[str, int]]:
        """Paths that were asked for, and bytes of files that were sent."""
        log = self.folder / 'requests.log'
        lines = log.read_text().splitlines() if log.exists() else []
        return [(path, int(size)) for path, size in (line.split() for line in lines)]


@contextmanager
def served(catalogue: Catalogue) -> Iterator[Catalogue]:
    """Serve a catalogue while the block runs."""
    with subprocess.Popen(
        [sys.executable, __file__, str(catalogue.folder)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        catalogue.url = f'http://127.0.0.1:{process.stdout.readline().strip()}'
        try:
            yield catalogue
        finally:
            process.kill()


class Handler(BaseHTTPRequestHandler):
    """Answers of the API, and ranges of files."""

    protocol_version = 'HTTP/1.1'
    folder: Path
    url: str

    def log_message(self, *_: Any) -> None:
        pass

    def _note(self, size: int = 0) -> None:
        with (self.folder / 'requests.log').open('a') as log:
            log.write(f'{self.path} {size}\n')

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(
            (self.folder / 'catalogue.json').read_text()
        )
        return content

    def _item(self, name: str) -> dict[str, Any]:
        """An item as it is served, its addresses signed."""
        content = self._content()
        item: dict[str, Any] = content['items'][name]
        for asset in item['assets'].values():
            asset['href'] = f'{self.url}/files/{asset["href"]}?sig={content["token"]}'
        where = f'{self.url}/collections/{item["collection"]}/items/{name}'
        item['links'] = [{'rel': 'self', 'href': where, 'type': 'application/geo+json'}]
        return item

    def _root(self) -> dict[str, Any]:
        search = {'rel': 'search', 'href': f'{self.url}/search', 'method': 'POST'}
        return {
            'type': 'Catalog',
            'stac_version': '1.0.0',
            'id': 'here',
            'description': 'made',
            'conformsTo': [
                'https://api.stacspec.org/v1.0.0/core',
                'https://api.stacspec.org/v1.0.0/item-search',
            ],
            'links': [
                {'rel': 'self', 'href': self.url},
                {'rel': 'root', 'href': self.url},
                {**search, 'type': 'application/geo+json'},
            ],
        }

    def _search(self, query: dict[str, Any]) -> dict[str, Any]:
        """Items of collections in a box and an interval."""
        west, south, east, north = query['bbox']
        start, _, end = (query.get('datetime') or '../..').partition('/')
        found = []
        for name, item in self._content()['items'].items():
            left, bottom, right, top = item['bbox']
            when = item['properties']['datetime']
            if (
                item['collection'] in query['collections']
                and (left < east and right > west and bottom < north and top > south)
                and (start == '..' or when >= start)
                and (end == '..' or when <= end)
            ):
                found.append(self._item(name))
        return {'type': 'FeatureCollection', 'features': found, 'links': []}

    def _send(self, status: int, body: bytes = b'', **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def _json(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self._send(200, body, Content_Type='application/geo+json')

    def do_POST(self) -> None:
        self._note()
        length = int(self.headers['Content-Length'])
        self._json(self._search(json.loads(self.rfile.read(length))))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        folder, _, name = parts.path.rpartition('/')
        path = self.folder / name
        content = self._content()
        if parts.path in ('', '/'):
            self._note()
            self._json(self._root())
        elif folder.endswith('/items') and name in content['items']:
            self._note()
            self._json(self._item(name))
        elif parts.path.startswith('/static/'):
            self._file(self.folder / parts.path.removeprefix('/static/'))
        elif folder != '/files' or not path.exists():
            self._note()
            self._send(404)
        elif parse_qs(parts.query).get('sig') != [content['token']]:
            self._note()
            self._send(403)
        else:
            self._file(path)

    def _file(self, path: Path) -> None:
        """A file, or a range of it."""
        data = path.read_bytes()
        headers = {'ETag': f'"{path.stat().st_mtime_ns}"', 'Accept_Ranges': 'bytes'}
        span = self.headers.get('Range')
        if span:
            left, _, right = span.removeprefix('bytes=').partition('-')
            first, last = int(left), min(int(right or len(data)), len(data) - 1)
            headers['Content_Range'] = f'bytes {first}-{last}/{len(data)}'
            data = data[first : last + 1]
        self._note(len(data) if self.command == 'GET' else 0)
        self._send(206 if span else 200, data, **headers)


def main(folder: str) -> None:
    """Serve a folder, and say at which port."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    Handler.folder = Path(folder)
    Handler.url = f'http://127.0.0.1:{server.server_port}'
    sys.stdout.write(f'{server.server_port}\n')
    sys.stdout.flush()
    server.serve_forever()


if __name__ == '__main__':
    main(sys.argv[1])
