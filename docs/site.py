# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Hooks of the documentation site: the reference's pages, and the benchmarks.

A page of the reference is a part of the package, and has every public name that
``torchgeo_mapsr/__init__.pyi`` imports from it.
"""

import ast
from collections import defaultdict
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / 'torchgeo_mapsr'

TITLES = {
    'mapping': 'Maps',
    'datasets': 'Datasets, legends and statistics',
    'datamodules': 'Data modules',
    'samplers': 'Samplers',
    'models': 'Backbones, tokens and heads',
    'tasks': 'Tasks',
    'losses': 'Losses',
    'transforms': 'Transforms',
    'evaluation': 'Evaluation',
    'errors': 'Errors',
}

#: What is public without being a name of the package's top.
FURTHER = {
    'mapping': (
        'mapping.polygons.polygonise',
        'mapping.postprocess.Postprocessing',
        'mapping.style.write_class_styles',
        'mapping.style.write_confidence_styles',
        'mapping.stac_item.stac_item',
        'mapping.run.MapResult',
        'mapping.options.BackboneOptions',
        'mapping.options.ChipOptions',
        'mapping.options.ComputeOptions',
        'mapping.options.PostprocessOptions',
        'mapping.options.ScoringOptions',
        'mapping.postprocess.LandCoverChange',
    ),
    'datasets': (
        'datasets.base.ChipDataset',
        'datasets.geo.aoi.AreaOfInterest',
        'datasets.geo.aoi.AreaOnGrid',
        'datasets.imagery_chips.ImageryChips',
        'datasets.legends.legend.LegendClass',
        'datasets.patches.class_shares',
        'datasets.patches.select_patches',
        'datasets.query.ChipQuery',
        'datasets.scene.scene.Scene',
    ),
    'evaluation': (
        'evaluation.accuracy.assess',
        'evaluation.accuracy.Assessment',
        'evaluation.change.ChangeMap',
        'evaluation.change.detect_change',
        'evaluation.class_maps.ClassMaps',
        'evaluation.class_maps.MapBlock',
        'evaluation.confusion.Confusion',
        'evaluation.consistency.composition',
        'evaluation.consistency.Composition',
        'evaluation.estimation.Accuracy',
        'evaluation.estimation.allocate',
        'evaluation.estimation.Estimate',
        'evaluation.estimation.sample_size',
        'evaluation.estimation.StratifiedSample',
        'evaluation.groups.code_groups',
        'evaluation.groups.lr_groups',
        'evaluation.points.LabelledPoints',
        'evaluation.reliability.map_reliability',
        'evaluation.reliability.Reliability',
        'evaluation.sampling.draw_sample',
        'evaluation.sampling.Strata',
        'evaluation.sampling.StrataSizes',
        'evaluation.sampling.write_sample',
        'evaluation.selection.select_footprints',
        'evaluation.signal_pair.SignalPair',
        'evaluation.transitions.transitions',
        'evaluation.transitions.Transitions',
    ),
    'models': (
        'models.backbones.backbone.Backbone',
        'models.backbones.identity.Identity',
        'models.backbones.rcf.RCF',
        'models.backbones.timm.timm_backbone',
        'models.backbones.torchgeo.torchgeo_backbone',
        'models.chip_model.ChipModel',
        'models.head.cells.CellTable',
        'models.propagation.propagation.Propagation',
        'models.tokens.upsample.Upsampler',
    ),
    'tasks': (
        'tasks.supervision.LabelReader',
        'tasks.supervision.Supervision',
        'tasks.supervision.SupervisionLoss',
    ),
    'losses': (
        'losses.IntervalConstraintLoss',
        'losses.LabelCounts',
        'losses.SelfTrainingLoss',
        'losses.StatisticsMatchingLoss',
        'losses.agreement',
        'losses.block_regions',
        'losses.box_counts',
        'losses.class_weight',
        'losses.label_counts',
        'losses.pseudo_labels',
        'losses.sample_weight',
    ),
}


def public_names() -> dict[str, list[str]]:
    """Public names by the part of the package that they are imported from."""
    tree = ast.parse((PACKAGE / '__init__.pyi').read_text())
    names = defaultdict(list)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            part = node.module.split('.')[0]
            names[part] += [f'torchgeo_mapsr.{alias.name}' for alias in node.names]
    for part, further in FURTHER.items():
        names[part] += [f'torchgeo_mapsr.{name}' for name in further]
    return dict(names)


def pages() -> dict[str, str]:
    """Content of the reference's pages by their names."""
    content = {}
    names = public_names()
    for part in sorted(names, key=[*TITLES, *names].index):
        title = TITLES.get(part, part.capitalize())
        blocks = '\n\n'.join(
            f'::: {name}' for name in sorted(names[part], key=str.lower)
        )
        content[f'reference/{part}.md'] = f'# {title}\n\n{blocks}\n'
    return content


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference at the end of the navigation."""
    config.nav.append({'Reference': list(pages())})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference's pages and that of the benchmarks."""
    benchmarks = (PACKAGE.parent / 'benchmarks' / 'README.md').read_text()
    content = benchmarks.replace('../docs/', '')
    files.append(File.generated(config, 'benchmarks.md', content=content))
    for name, content in pages().items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to the benchmarks' own page, which lies outside this folder."""
    return markdown.replace('../benchmarks/README.md', 'benchmarks.md')
