# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The page in a real browser: it draws, weighs classes as the command does, and fits."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from scipy import ndimage

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.consistency import summarise
from torchgeo_mapsr.evaluation.page import build_page, notebook_html
from torchgeo_mapsr.evaluation.report import run_report
from torchgeo_mapsr.evaluation.reweighting import reweighted
from torchgeo_mapsr.main import main

WEIGHTS = ['--reweight', 'Water=0.5', 'Impervious=1.74']


@pytest.fixture(scope='module')
def run(made_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run, with all layers; the map is the truth with noise."""
    folder = tmp_path_factory.mktemp('page')
    rng = np.random.default_rng(0)
    with rasterio.open(made_scene.truth) as dataset:
        codes, profile = dataset.read(1), dataset.profile
    scores = np.stack([(codes == c) + rng.random(codes.shape) for c in range(1, 5)])
    scores = ndimage.gaussian_filter(scores, (0, 1, 1))
    scores = (100 * scores / scores.sum(0)).round().astype(np.uint8)
    scores[:, :20, :30] = 255
    mapped = np.where(scores[0] == 255, 0, scores.argmax(0) + 1).astype(np.uint8)
    percent = np.where(scores[0] == 255, 255, scores.max(0))
    for name, values, nodata in (
        ('map', mapped[None], 0),
        ('map_confidence', percent[None], 255),
        ('map_scores', scores, 255),
    ):
        settings = {**profile, 'count': len(values), 'nodata': nodata}
        settings['photometric'] = 'minisblack'
        with rasterio.open(folder / f'{name}.tif', 'w', **settings) as dataset:
            dataset.write(values)
    path = folder / 'map.tif'
    legend = Legend.load('land-cover-4')
    settings = {
        'imagery': [str(made_scene.imagery)],
        'labels': [str(made_scene.labels)],
        'legend': made_scene.legend,
        'target': 'land-cover-4',
        'crosswalk': None,
        'bands': None,
    }
    summary = summarise(path, legend)
    content = run_report(
        settings, {}, {str(path): summary}, {'total': 3.0}, ['A note.']
    )
    report = folder / 'map.json'
    report.write_text(json.dumps(content))
    return report


@pytest.fixture(scope='module')
def figures(run: Path, made_scene: Scene) -> list[str]:
    """JSON of evaluate and change."""
    path, truth = str(run.with_suffix('.tif')), str(made_scene.truth)
    labels = ['--labels', str(made_scene.labels), '--labels-legend', made_scene.legend]
    out = [str(run.with_name(name)) for name in ('accuracy.json', 'change.json')]
    assert main(['evaluate', path, '--truth', truth, *labels, '--json', out[0]]) == 0
    change = ['change', truth, path, '--legend', 'land-cover-4', '--window', '60']
    change += ['--output', str(run.with_name('c.tif')), '--json', out[1]]
    assert main(change) == 0
    return out


Open = Callable[..., Any]


@pytest.fixture(scope='module')
def opened() -> Iterator[Open]:
    """Opens a page in Chromium: Debian's, driven by its own driver."""
    webdriver = pytest.importorskip('selenium.webdriver')
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if binary is None or driver is None:
        pytest.skip('there is no chromium or no chromedriver')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        '--headless=new',
        '--no-sandbox',
        '--disable-dev-shm-usage',
        '--disable-gpu',
        '--hide-scrollbars',
    ):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_script_timeout(60)

    def show(page: Path, width: int = 1280, height: int = 900, scheme: str = '') -> Any:
        metrics = {'width': width, 'height': height, 'deviceScaleFactor': 1}
        metrics['mobile'] = width < 600
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
        features = [{'name': 'prefers-color-scheme', 'value': scheme}]
        browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})
        browser.get(page.as_uri())
        browser.execute_async_script(
            'const done = arguments[0]; const look = () => '
            'document.documentElement.dataset.ready ? done() : setTimeout(look, 20);'
            'look();'
        )
        return browser

    yield show
    browser.quit()


@pytest.fixture(scope='module')
def page(run: Path, figures: list[str]) -> Path:
    output = run.with_name('page.html')
    arguments = ['report', str(run), '--output', str(output), '--figures', *figures]
    assert main(arguments) == 0
    return output


def classes(browser: Any) -> np.ndarray:
    """Class indices that the page holds, (H, W); -1 = no data."""
    view = 'window.mapsr.views[0]'
    values = browser.execute_script(f'return Array.from({view}.index)')
    shape = browser.execute_script(f'return [{view}.height, {view}.width]')
    index = np.array(values).reshape(shape)
    return np.where(index == 255, -1, index)


def weigh(browser: Any, weights: dict[int, float]) -> None:
    """Move the sliders of classes."""
    for number, weight in weights.items():
        browser.execute_script(
            'const s = document.querySelector(`input[data-class="${arguments[0]}"]`);'
            's.step = "any"; s.value = Math.log2(arguments[1]);'
            's.dispatchEvent(new Event("input"));',
            number,
            weight,
        )


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1).astype(int)


def test_sliders_do_what_the_command_does(
    page: Path, run: Path, opened: Open, tmp_path: Path
) -> None:
    browser = opened(page)
    mapped = read(run.with_suffix('.tif'))
    np.testing.assert_array_equal(classes(browser), mapped - 1)
    weigh(browser, {0: 0.5, 3: 1.74})
    command = browser.execute_script(
        'return document.querySelector(".command code").textContent'
    )
    assert command.split() == WEIGHTS
    output = tmp_path / 'weighted.tif'
    arguments = ['postprocess', str(run.with_suffix('.tif')), '--output', str(output)]
    assert main([*arguments, *command.split()]) == 0
    expected = read(output)
    np.testing.assert_array_equal(classes(browser), expected - 1)
    assert (expected != mapped).mean() > 0.02
    with rasterio.open(output) as dataset:
        pixel = abs(dataset.transform.determinant) / 1e4
    now = browser.execute_script('return window.mapsr.views[0].now')
    hectares = [(expected == c).sum() * pixel for c in range(1, 5)]
    np.testing.assert_allclose(now, hectares, atol=1e-3)
    # what is drawn is what is held
    colors = np.array([[0, 0, 0], *Legend.load('land-cover-4').colors])
    picture = browser.execute_script(
        'return window.mapsr.views[0].layers.map.toDataURL("image/png")'
    )
    raw = base64.b64decode(picture.split(',')[1])
    drawn = np.array(Image.open(io.BytesIO(raw)).convert('RGBA'))
    np.testing.assert_array_equal(drawn[..., 3] > 0, expected > 0)
    valid = expected > 0
    np.testing.assert_array_equal(drawn[..., :3][valid], colors[expected[valid]])
    browser.find_element('class name', 'reset').click()
    np.testing.assert_array_equal(classes(browser), mapped - 1)
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def test_sliders_begin_at_the_weights_of_the_run(
    run: Path, opened: Open, tmp_path: Path
) -> None:
    path = tmp_path / 'weighted.tif'
    arguments = ['postprocess', str(run.with_suffix('.tif')), '--output', str(path)]
    assert main([*arguments, *WEIGHTS]) == 0
    for layer in ('scores', 'confidence'):
        shutil.copy(
            run.with_name(f'map_{layer}.tif'), tmp_path / f'weighted_{layer}.tif'
        )
    content = json.loads(run.read_text())
    content['settings']['postprocess'] = {'reweight': WEIGHTS[1:], 'min_area': 0.0}
    content['maps'][0]['map'] = str(path)
    report = tmp_path / 'weighted.json'
    report.write_text(json.dumps(content))
    assert main(['report', str(report), '--json', str(tmp_path / 'page.json')]) == 0
    about = json.loads((tmp_path / 'page.json').read_text())
    assert about['page'] == str(report.with_suffix('.html'))
    assert about['bytes'] == report.with_suffix('.html').stat().st_size
    browser = opened(report.with_suffix('.html'))
    mapped = read(path)
    np.testing.assert_array_equal(classes(browser), mapped - 1)
    shown = browser.execute_script(
        'return [...document.querySelectorAll(".weight output")].map(e => e.textContent)'
    )
    assert shown == ['× 0.5', '× 1', '× 1', '× 1.74']
    weigh(browser, {0: 1, 3: 1})
    with rasterio.open(tmp_path / 'weighted_scores.tif') as dataset:
        expected = reweighted(dataset.read(), mapped - 1, [1, 1, 1, 1])
    assert (expected != mapped - 1).mean() > 0.02
    np.testing.assert_array_equal(classes(browser), expected)
    browser.find_element('class name', 'reset').click()
    np.testing.assert_array_equal(classes(browser), mapped - 1)
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def tables(browser: Any) -> list[list[list[str]]]:
    """Text of the cells of the tables of land cover."""
    return browser.execute_script(
        'return [...document.querySelectorAll("table")].filter('
        't => t.rows[0].cells[0].textContent === "hectares").map(t => [...t.rows].map('
        'r => [...r.cells].map(c => c.textContent)))'
    )


def areas(browser: Any) -> list[list[str]]:
    """Names and areas of the classes beside the maps, of each run."""
    return browser.execute_script(
        'return [...document.querySelectorAll("aside .run")].map(run => '
        '[...run.querySelectorAll(".name, .area")].map(e => e.textContent))'
    )


def test_each_run_has_sliders_areas_and_classes_of_its_own(
    run: Path, opened: Open, tmp_path: Path
) -> None:
    # The first run was made with weights; the second, of another date, without; the
    # third has other classes with the same codes, and no scores.
    weighted, own = tmp_path / '2013' / 'map.tif', tmp_path / 'own.tif'
    weighted.parent.mkdir()
    arguments = ['postprocess', str(run.with_suffix('.tif')), '--output', str(weighted)]
    assert main([*arguments, *WEIGHTS]) == 0
    shutil.copy(run.with_name('map_scores.tif'), weighted.with_name('map_scores.tif'))
    names = {1: 'Snow', 2: 'Rock', 3: 'Ice', 4: 'Sand'}
    with rasterio.open(run.with_suffix('.tif')) as source:
        profile, codes = source.profile, source.read()
        pixel = abs(source.transform.determinant) / 1e4
    with rasterio.open(own, 'w', **profile) as file:
        file.write(codes)
        file.update_tags(LEGEND='own', CLASSES=json.dumps(names))
    content = json.loads(run.read_text())
    reports = [weighted.with_suffix('.json'), run, own.with_suffix('.json')]
    for path, settings in (
        (weighted, {'reweight': WEIGHTS[1:], 'target': 'land-cover-4'}),
        (own, {}),
    ):
        counts = np.bincount(read(path).ravel(), minlength=5)[1:] * pixel
        rows = [
            {'code': k + 1, 'hectares': float(area)} for k, area in enumerate(counts)
        ]
        report = content | {
            'settings': settings,
            'maps': [{'map': str(path), 'classes': rows}],
        }
        path.with_suffix('.json').write_text(json.dumps(report))
    page = tmp_path / 'three.html'
    arguments = ['report', *map(str, reports), '--output', str(page)]
    assert main(arguments) == 0
    browser = opened(page)

    def shown() -> list[np.ndarray]:
        return [
            np.array(values, int).reshape(codes.shape[1:])
            for values in browser.execute_script(
                'return window.mapsr.views.map(v => Array.from(v.index))'
            )
        ]

    maps = [read(path.with_suffix('.tif')) for path in reports]
    for found, expected in zip(shown(), maps, strict=True):
        np.testing.assert_array_equal(np.where(found == 255, 0, found + 1), expected)
    for texts, mapped in zip(areas(browser), maps, strict=True):
        counts = np.bincount(mapped.ravel(), minlength=5)[1:] * pixel
        found = [float(text.split()[0].replace(',', '')) for text in texts[1::2]]
        np.testing.assert_allclose(found, counts, atol=0.01)
    assert areas(browser)[2][::2] == list(names.values())
    two, one = tables(browser)
    assert two[0][1:-1] == list(Legend.load('land-cover-4').class_names)
    assert [row[0] for row in two[1:]] == ['2013/map', f'{run.parent.name}/map']
    assert one[0][1:-1] == list(names.values())
    assert [row[0] for row in one[1:]] == [f'{tmp_path.name}/own']
    headings = browser.find_elements('css selector', 'aside h3')
    assert [h.text for h in headings] == [row[0] for row in (*two[1:], one[1])]
    # Sliders of the second run leave the others as they are.
    sliders = browser.find_elements('css selector', 'aside .run:nth-of-type(2) input')
    browser.execute_script(
        'const s = arguments[0]; s.value = 2; s.dispatchEvent(new Event("input"))',
        sliders[0],
    )
    with rasterio.open(run.with_name('map_scores.tif')) as dataset:
        expected = reweighted(dataset.read(), maps[1] - 1, [4, 1, 1, 1])
    found = [np.where(index == 255, -1, index) for index in shown()]
    np.testing.assert_array_equal(found[1], expected)
    np.testing.assert_array_equal(found[0], maps[0] - 1)
    np.testing.assert_array_equal(found[2], maps[2] - 1)
    assert (found[1] != maps[1] - 1).mean() > 0.02
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def test_keyboard_wheel_and_buttons(page: Path, opened: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(page)
    canvas = browser.find_element('css selector', '.stage canvas')

    def place() -> list[float]:
        return browser.execute_script(
            'const p = window.mapsr.place; return [p.x, p.y, p.zoom]'
        )

    canvas.send_keys('++')
    assert place()[2] == pytest.approx(1.25**2)
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert place()[0] > 0.5
    canvas.send_keys('0')
    assert place() == [0.5, 0.5, 1]
    browser.find_element('id', 'in').click()
    assert place()[2] == 1.5
    browser.find_element('id', 'fit').click()
    assert place()[2] == 1
    # every control can be reached, and has a name
    names = browser.execute_script(
        'return [...document.querySelectorAll("select, input, button:not([hidden])")]'
        '.map(e => e.getAttribute("aria-label") || e.textContent.trim() || '
        '(e.labels && e.labels[0] && e.labels[0].textContent))'
    )
    assert all(names)
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def shown(browser: Any) -> np.ndarray:
    canvas = browser.find_element('css selector', '.stage canvas')
    picture = Image.open(io.BytesIO(canvas.screenshot_as_png)).convert('RGB')
    return np.array(picture).astype(int)


def test_swipe_and_opacity(page: Path, opened: Open) -> None:
    browser = opened(page)

    def put(name: str, value: object) -> np.ndarray:
        browser.execute_script(
            'const e = document.getElementById(arguments[0]); e.value = arguments[1];'
            'e.dispatchEvent(new Event("input"));',
            name,
            value,
        )
        return shown(browser)

    put('swipe', 0)
    full = put('opacity', 100)
    none = put('opacity', 0)
    half = put('opacity', 50)
    assert np.abs(full - none).mean() > 10
    middle = slice(40, -40), slice(10, -10)  # without the names of the layers
    np.testing.assert_allclose(half[middle], ((full + none) / 2)[middle], atol=2)
    put('opacity', 100)
    cut = put('swipe', 50)
    width = cut.shape[1]
    left, right = slice(10, width // 2 - 5), slice(width // 2 + 5, -10)
    assert (cut[40:-40, left] == none[40:-40, left]).all()
    assert (cut[40:-40, right] == full[40:-40, right]).all()


@pytest.mark.parametrize(('width', 'scheme'), [(1280, 'light'), (390, 'dark')])
def test_widths_and_dark_mode(
    page: Path, opened: Open, width: int, scheme: str
) -> None:
    browser = opened(page, width, 900, scheme)
    wide = browser.execute_script('return document.documentElement.scrollWidth')
    assert wide <= width
    back = browser.execute_script(
        'return getComputedStyle(document.body).backgroundColor'
    )
    channels = [int(n) for n in re.findall(r'\d+', back)]
    assert (max(channels) < 60) == (scheme == 'dark')
    below = browser.execute_script(
        'return document.querySelector("aside").getBoundingClientRect().top >= '
        'document.querySelector(".views").getBoundingClientRect().bottom'
    )
    assert below == (width < 820)
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def test_print(page: Path, opened: Open) -> None:
    browser = opened(page)
    printed = browser.execute_cdp_cmd('Page.printToPDF', {'printBackground': False})
    assert base64.b64decode(printed['data'])[:4] == b'%PDF'
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'media': 'print'})
    visible = browser.execute_script(
        'return getComputedStyle(document.querySelector(".tools")).display'
    )
    assert visible == 'none'


def test_page_is_one_small_file_without_network(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    assert len(text) < 5e6
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:)', text)
    assert 'http' not in re.sub(r'data:[^"]*', '', text).replace('xmlns="http', '')
    for words in (
        'A note.',
        'Boundary'.lower(),
        'kappa',
        'does not rank maps',
        'Change',
    ):
        assert words in text


def test_figures_of_several_files_say_whose_they_are(
    run: Path, figures: list[str], tmp_path: Path
) -> None:
    def headings(files: list[Path]) -> list[str]:
        return re.findall('<h2>(A.*|Co.*|Ch.*)</h2>', build_page([run], files))

    names = (
        'Agreement with high-resolution labels',
        'Consistency with the coarse labels',
    )
    paths = list(map(Path, figures))
    assert headings(paths) == [*names, 'Change']
    copies = [Path(shutil.copy(path, tmp_path)) for path in paths]
    here, there = run.parent.name, tmp_path.name
    assert headings([*paths, *copies]) == [
        f'{name} ({folder}/{file})'
        for name, file in (*((n, 'accuracy') for n in names), ('Change', 'change'))
        for folder in (here, there)
    ]


def test_several_maps_and_names_are_escaped(
    run: Path, opened: Open, tmp_path: Path
) -> None:
    text = build_page([run, run], title='</script><b>two</b> & more')
    assert '</script><b>' not in text
    path = tmp_path / 'two.html'
    path.write_text(text, encoding='utf-8')
    browser = opened(path)
    assert browser.title == '</script><b>two</b> & more'
    assert len(browser.find_elements('css selector', '.stage canvas')) == 2
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']


def test_large_maps_are_thinned_out(run: Path, opened: Open, tmp_path: Path) -> None:
    """Weights of one leave the published classes, and areas are the report's."""
    path = tmp_path / 'thin.html'
    path.write_text(build_page([run], size=100), encoding='utf-8')
    browser = opened(path)
    index = classes(browser)
    assert max(index.shape) == 100
    whole = read(run.with_suffix('.tif'))
    rows = (np.arange(index.shape[0]) + 0.5) * whole.shape[0] / index.shape[0]
    cols = (np.arange(index.shape[1]) + 0.5) * whole.shape[1] / index.shape[1]
    expected = whole[np.ix_(rows.astype(int), cols.astype(int))] - 1
    assert (index == expected).mean() > 0.97
    entry = json.loads(run.read_text())['maps'][0]
    now = browser.execute_script('return window.mapsr.views[0].now')
    np.testing.assert_allclose(
        now, [c['hectares'] for c in entry['classes']], rtol=1e-6
    )


def test_in_a_notebook(run: Path) -> None:
    frame = notebook_html(run)
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert frame.count('"') == 6 + 0


def test_one_line_errors(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / 'other.json'
    other.write_text('{"a": 1}')
    moved = tmp_path / 'moved.json'
    content = json.loads(run.read_text())
    content['maps'][0]['map'] = 'gone.tif'
    moved.write_text(json.dumps(content))
    output = ['--output', str(tmp_path / 'o.html')]
    for arguments, message in (
        ([str(tmp_path / 'none.json'), *output], 'cannot be read'),
        ([str(other), *output], 'is no report'),
        ([str(moved), *output], 'names gone.tif'),
        ([str(run), *output, '--figures', str(other)], 'has no figures'),
        ([str(run), '--output', str(run), '--overwrite'], 'is not a .html'),
    ):
        assert main(['report', *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1
    with pytest.raises(InputError):
        build_page([other])


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('maps', []),
        ('maps', {'a': 1}),
        ('maps.0', None),
        ('maps.0.map', ['a.tif']),
        ('maps.0.lr_agreement', 'x'),
        ('maps.0.classes', None),
        ('maps.0.classes.0.hectares', 'much'),
        ('settings', [None]),
        ('settings.imagery', [None]),
        ('settings.labels', 1e308),
        ('settings.crosswalk', {'a': 1}),
        ('settings.bands', [99, 1, 1]),
        ('settings.fit', 3),
        ('settings.reweight', -1),
        ('timings.total', []),
        ('versions', 'x'),
        ('notes', 3),
    ],
)
def test_damaged_report(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    value: object,
) -> None:
    content = json.loads(run.read_text())
    *above, last = (int(key) if key.isdigit() else key for key in place.split('.'))
    part = content
    for key in above:
        part = part[key]
    part[last] = value
    damaged = run.with_name('damaged.json')
    damaged.write_text(json.dumps(content))
    try:
        assert main(['report', str(damaged), '--output', str(tmp_path / 'o.html')]) == 2
    finally:
        damaged.unlink()
    error = capsys.readouterr().err
    assert str(damaged) in error
    assert error.count('\n') == 1
    assert not (tmp_path / 'o.html').exists()


@pytest.mark.parametrize(
    'content', [{'confusion': 3}, {'error_matrix_points': 'x'}, {'lr': 3}]
)
def test_damaged_figures(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: dict[str, object],
) -> None:
    figures = tmp_path / 'figures.json'
    figures.write_text(json.dumps(content))
    output = ['--output', str(tmp_path / 'o.html'), '--figures', str(figures)]
    assert main(['report', str(run), *output]) == 2
    error = capsys.readouterr().err
    assert str(figures) in error
    assert error.count('\n') == 1


def test_a_band_that_is_declared_alpha_is_shown(
    run: Path, made_scene: Scene, tmp_path: Path
) -> None:
    # --bands 4 takes such a band as imagery, and so does the page.
    with rasterio.open(made_scene.imagery) as source:
        values, profile = source.read(), source.profile
    imagery = tmp_path / 'rgba.tif'
    options = {**profile, 'count': 4, 'photometric': 'RGB', 'ALPHA': 'YES'}
    with rasterio.open(imagery, 'w', **options) as file:
        file.write(values[:4])
        file.colorinterp = [*file.colorinterp[:3], ColorInterp.alpha]
    content = json.loads(run.read_text())
    content['settings'] |= {'imagery': [str(imagery)], 'bands': [4, 1, 2]}
    report = run.with_name('alpha.json')
    report.write_text(json.dumps(content))
    try:
        page = build_page([report])
    finally:
        report.unlink()
    assert page.count('data:image/jpeg') == 1
