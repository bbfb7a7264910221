# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""One Processing algorithm a verb of the command."""

import os
import shlex
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputRasterLayer,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProcessingParameterVectorLayer,
)

from .command import SETTING, Canceled, CommandError, run, understands

Parameters = dict


class Verb(QgsProcessingAlgorithm):
    """What all algorithms have in common.

    Subclasses say their parameters and turn their values into arguments.
    """

    verb = ''
    title = ''
    group_name = 'Maps'
    about = ''

    def createInstance(self) -> 'Verb':
        return type(self)()

    def name(self) -> str:
        return self.verb

    def displayName(self) -> str:
        return self.title

    def group(self) -> str:
        return self.group_name

    def groupId(self) -> str:
        return self.group_name.lower()

    def shortHelpString(self) -> str:
        return self.about

    def initAlgorithm(self, configuration: Any = None) -> None:
        self.define()
        further = QgsProcessingParameterString(
            'OPTIONS', 'Further options, as on the command line', '', optional=True
        )
        further.setFlags(
            further.flags() | QgsProcessingParameterDefinition.FlagAdvanced
        )
        self.addParameter(further)

    def define(self) -> None:
        """Add the parameters."""
        raise NotImplementedError

    def arguments(
        self, parameters: Parameters, context: QgsProcessingContext
    ) -> 'tuple[list[str], dict[str, Any]]':
        """Arguments of the command, and results."""
        raise NotImplementedError

    def processAlgorithm(
        self,
        parameters: Parameters,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> 'dict[str, Any]':
        arguments, results = self.arguments(parameters, context)
        arguments += shlex.split(self.text(parameters, 'OPTIONS', context))
        command = os.environ.get(SETTING) or ProcessingConfig.getSetting(SETTING)
        command = command or 'torchgeo-mapsr'
        if understands(command, self.verb, '--progress'):
            arguments += ['--progress', 'json']
        feedback.pushCommandInfo(shlex.join([command, self.verb, *arguments]))
        stages: 'list[str]' = []

        def progress(stage: str, percent: float) -> None:
            if stage not in stages:
                stages.append(stage)
                feedback.setProgressText(stage)
            feedback.setProgress(percent)

        try:
            run(
                command,
                [self.verb, *arguments],
                progress,
                feedback.pushInfo,
                feedback.isCanceled,
            )
        except Canceled as stop:
            feedback.pushInfo(str(stop))
            return {}
        except CommandError as error:
            raise QgsProcessingException(str(error)) from None
        self.load(results, context)
        return results

    def load(self, results: 'dict[str, Any]', context: QgsProcessingContext) -> None:
        """Load what is not loaded by itself."""

    # Values of parameters.

    def text(
        self, parameters: Parameters, name: str, context: QgsProcessingContext
    ) -> str:
        return self.parameterAsString(parameters, name, context) or ''

    def option(
        self,
        parameters: Parameters,
        name: str,
        flag: str,
        context: QgsProcessingContext,
    ) -> 'list[str]':
        """A flag with its value, where there is one."""
        value = self.text(parameters, name, context).strip()
        return [flag, value] if value else []

    def rasters(
        self, parameters: Parameters, name: str, context: QgsProcessingContext
    ) -> 'list[str]':
        """Sources of raster layers."""
        layers = self.parameterAsLayerList(parameters, name, context) or []
        return [layer.source() for layer in layers]

    def vector(
        self, parameters: Parameters, name: str, context: QgsProcessingContext
    ) -> str:
        """File of a vector layer, with the name of its layer after a colon."""
        if not parameters.get(name):
            return ''
        path, layer = self.parameterAsCompatibleSourceLayerPathAndLayerName(
            parameters, name, context, ['gpkg', 'geojson', 'shp', 'fgb', 'parquet']
        )
        several = path.lower().endswith('.gpkg') and layer
        return f'{path}:{layer}' if several else path

    def overwrite(
        self, parameters: Parameters, context: QgsProcessingContext
    ) -> 'list[str]':
        wanted = self.parameterAsBool(parameters, 'OVERWRITE', context)
        return ['--overwrite'] if wanted else []

    def add_overwrite(self) -> None:
        self.addParameter(
            QgsProcessingParameterBoolean(
                'OVERWRITE', 'Replace files that exist', False
            )
        )


class Map(Verb):
    """``torchgeo-mapsr map``."""

    verb = 'map'
    title = 'Make a land-cover map'
    about = (
        'A land-cover map at the resolution of imagery, from coarse labels of the same '
        'place. Stopped, the same parameters go on where it was.'
    )

    def define(self) -> None:
        self.addParameter(
            QgsProcessingParameterMultipleLayers(
                'IMAGERY', 'Imagery', QgsProcessing.TypeRaster
            )
        )
        self.addParameter(
            QgsProcessingParameterMultipleLayers(
                'LABELS', 'Coarse labels', QgsProcessing.TypeRaster, optional=True
            )
        )
        for name, title, default in (
            ('LEGEND', 'Legend of the labels (a name or a file)', 'nlcd'),
            ('TARGET', 'Legend of the map', 'land-cover-4'),
            ('BACKBONE', 'Backbone', 'rcf'),
        ):
            self.addParameter(
                QgsProcessingParameterString(name, title, default, optional=True)
            )
        self.addParameter(
            QgsProcessingParameterVectorLayer(
                'AOI',
                'Area of interest',
                [QgsProcessing.TypeVectorPolygon],
                optional=True,
            )
        )
        for name, title in (
            ('WEIGHTS', 'Weights of the backbone'),
            ('MODEL', 'A fit that was saved, in place of labels'),
        ):
            self.addParameter(QgsProcessingParameterFile(name, title, optional=True))
        self.add_overwrite()
        self.addParameter(QgsProcessingParameterRasterDestination('OUTPUT', 'Map'))
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                'POLYGONS', 'Polygons', optional=True, createByDefault=False
            )
        )
        self.addParameter(
            QgsProcessingParameterNumber(
                'MIN_AREA',
                'Smallest patch (m²)',
                QgsProcessingParameterNumber.Double,
                0,
                minValue=0,
            )
        )
        self.addOutput(QgsProcessingOutputRasterLayer('CONFIDENCE', 'Confidence'))
        self.addOutput(QgsProcessingOutputFile('REPORT', 'Report'))

    def arguments(self, parameters, context):
        output = Path(self.parameterAsOutputLayer(parameters, 'OUTPUT', context))
        arguments = [*self.rasters(parameters, 'IMAGERY', context)]
        labels = self.rasters(parameters, 'LABELS', context)
        if labels:
            arguments += ['--labels', *labels]
            arguments += self.option(parameters, 'LEGEND', '--legend', context)
        for name, flag in (
            ('TARGET', '--target'),
            ('BACKBONE', '--backbone'),
            ('WEIGHTS', '--weights'),
            ('MODEL', '--model'),
        ):
            arguments += self.option(parameters, name, flag, context)
        area = self.vector(parameters, 'AOI', context)
        arguments += ['--aoi', area] if area else []
        results = {
            'OUTPUT': str(output),
            'CONFIDENCE': str(output.with_name(f'{output.stem}_confidence.tif')),
            'REPORT': str(output.with_suffix('.json')),
        }
        if parameters.get('POLYGONS'):
            polygons = self.parameterAsOutputLayer(parameters, 'POLYGONS', context)
            results['POLYGONS'] = polygons
            arguments += ['--polygons', polygons]
        smallest = self.parameterAsDouble(parameters, 'MIN_AREA', context)
        arguments += ['--min-area', repr(smallest)] if smallest else []
        arguments += ['--output', str(output)]
        return arguments + self.overwrite(parameters, context), results

    def load(self, results, context) -> None:
        confidence = results['CONFIDENCE']
        if context.project() is not None and os.path.exists(confidence):
            details = QgsProcessingContext.LayerDetails(
                Path(confidence).stem, context.project(), 'CONFIDENCE'
            )
            context.addLayerToLoadOnCompletion(confidence, details)


class Export(Verb):
    """``torchgeo-mapsr export``."""

    verb = 'export'
    title = 'Polygons of a map'
    about = 'Connected areas of a class with hectares and mean confidence.'

    def define(self) -> None:
        self.addParameter(QgsProcessingParameterRasterLayer('MAP', 'Map'))
        self.addParameter(
            QgsProcessingParameterNumber(
                'MIN_AREA',
                'Smallest polygon (m²)',
                QgsProcessingParameterNumber.Double,
                0,
                minValue=0,
            )
        )
        self.add_overwrite()
        self.addParameter(QgsProcessingParameterVectorDestination('OUTPUT', 'Polygons'))

    def arguments(self, parameters, context):
        output = self.parameterAsOutputLayer(parameters, 'OUTPUT', context)
        layer = self.parameterAsRasterLayer(parameters, 'MAP', context)
        smallest = self.parameterAsDouble(parameters, 'MIN_AREA', context)
        arguments = [layer.source(), '--polygons', output, '--min-area', repr(smallest)]
        return arguments + self.overwrite(parameters, context), {'OUTPUT': output}


class Evaluate(Verb):
    """``torchgeo-mapsr evaluate``."""

    verb = 'evaluate'
    title = 'Evaluate a map'
    group_name = 'Accuracy'
    about = 'Accuracy, IoU of each class and their mean against high-resolution labels.'

    def define(self) -> None:
        for name, title in (('MAPS', 'Maps'), ('TRUTH', 'Truth, in the same order')):
            self.addParameter(
                QgsProcessingParameterMultipleLayers(
                    name, title, QgsProcessing.TypeRaster
                )
            )
        for name, title in (
            ('LEGEND', 'Legend of the maps'),
            ('TRUTH_LEGEND', 'Legend of the truth'),
            ('TARGET', 'Legend in which they are compared'),
        ):
            self.addParameter(
                QgsProcessingParameterString(name, title, '', optional=True)
            )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                'OUTPUT', 'Figures', 'JSON (*.json)', optional=True
            )
        )
        self.add_overwrite()

    def arguments(self, parameters, context):
        arguments = [*self.rasters(parameters, 'MAPS', context)]
        arguments += ['--truth', *self.rasters(parameters, 'TRUTH', context)]
        for name, flag in (
            ('LEGEND', '--legend'),
            ('TRUTH_LEGEND', '--truth-legend'),
            ('TARGET', '--target'),
        ):
            arguments += self.option(parameters, name, flag, context)
        results = {}
        if parameters.get('OUTPUT'):
            results['OUTPUT'] = self.parameterAsFileOutput(
                parameters, 'OUTPUT', context
            )
            arguments += ['--json', results['OUTPUT']]
        arguments += self.overwrite(parameters, context)
        return arguments, results


class Sample(Verb):
    """``torchgeo-mapsr sample``."""

    verb = 'sample'
    title = 'Draw reference points'
    group_name = 'Accuracy'
    about = (
        'A stratified random sample of a map, to be labelled: fill in the column '
        '“reference”, then estimate areas with it.'
    )

    def define(self) -> None:
        self.addParameter(
            QgsProcessingParameterMultipleLayers(
                'MAPS', 'Maps', QgsProcessing.TypeRaster
            )
        )
        self.addParameter(
            QgsProcessingParameterNumber(
                'SIZE', 'Points in all', defaultValue=None, optional=True, minValue=1
            )
        )
        self.addParameter(
            QgsProcessingParameterNumber('SEED', 'Random seed', defaultValue=0)
        )
        self.add_overwrite()
        self.addParameter(QgsProcessingParameterVectorDestination('OUTPUT', 'Points'))

    def arguments(self, parameters, context):
        output = self.parameterAsOutputLayer(parameters, 'OUTPUT', context)
        arguments = [*self.rasters(parameters, 'MAPS', context), '--output', output]
        if parameters.get('SIZE') is not None:
            arguments += [
                '--size',
                str(self.parameterAsInt(parameters, 'SIZE', context)),
            ]
        arguments += ['--seed', str(self.parameterAsInt(parameters, 'SEED', context))]
        return arguments + self.overwrite(parameters, context), {'OUTPUT': output}


class Area(Verb):
    """``torchgeo-mapsr area``."""

    verb = 'area'
    title = 'Estimate areas from labelled points'
    group_name = 'Accuracy'
    about = 'Accuracies and areas of the classes with confidence intervals.'

    def define(self) -> None:
        self.addParameter(
            QgsProcessingParameterMultipleLayers(
                'MAPS', 'Maps', QgsProcessing.TypeRaster
            )
        )
        self.addParameter(
            QgsProcessingParameterVectorLayer(
                'POINTS', 'Labelled points', [QgsProcessing.TypeVectorPoint]
            )
        )
        self.addParameter(
            QgsProcessingParameterString('REFERENCE', 'Column', 'reference')
        )
        self.add_overwrite()
        self.addParameter(
            QgsProcessingParameterFileDestination(
                'OUTPUT', 'Figures', 'JSON (*.json)', optional=True
            )
        )

    def arguments(self, parameters, context):
        points = self.vector(parameters, 'POINTS', context)
        arguments = [*self.rasters(parameters, 'MAPS', context), '--points', points]
        arguments += self.option(parameters, 'REFERENCE', '--reference', context)
        results = {}
        if parameters.get('OUTPUT'):
            results['OUTPUT'] = self.parameterAsFileOutput(
                parameters, 'OUTPUT', context
            )
            arguments += ['--json', results['OUTPUT']]
        return arguments + self.overwrite(parameters, context), results


class Change(Verb):
    """``torchgeo-mapsr change``."""

    verb = 'change'
    title = 'Find change between two dates'
    about = 'Windows that differ between two maps, their scores, or imagery.'

    def define(self) -> None:
        self.addParameter(QgsProcessingParameterRasterLayer('BEFORE', 'Before'))
        self.addParameter(QgsProcessingParameterRasterLayer('AFTER', 'After'))
        self.addParameter(
            QgsProcessingParameterNumber(
                'WINDOW',
                'Window (m)',
                QgsProcessingParameterNumber.Double,
                240,
                minValue=0,
            )
        )
        self.add_overwrite()
        self.addParameter(
            QgsProcessingParameterRasterDestination('OUTPUT', 'Difference')
        )
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                'POLYGONS', 'Changed windows', optional=True, createByDefault=False
            )
        )

    def arguments(self, parameters, context):
        output = self.parameterAsOutputLayer(parameters, 'OUTPUT', context)
        layers = [
            self.parameterAsRasterLayer(parameters, name, context).source()
            for name in ('BEFORE', 'AFTER')
        ]
        window = self.parameterAsDouble(parameters, 'WINDOW', context)
        arguments = [*layers, '--output', output, '--window', repr(window)]
        results = {'OUTPUT': output}
        if parameters.get('POLYGONS'):
            polygons = self.parameterAsOutputLayer(parameters, 'POLYGONS', context)
            arguments += ['--polygons', polygons]
            results['POLYGONS'] = polygons
        return arguments + self.overwrite(parameters, context), results


class Select(Verb):
    """``torchgeo-mapsr select``."""

    verb = 'select'
    title = 'Select patches with minority classes'
    about = 'Footprints of patches of predicted maps that have rare classes.'

    def define(self) -> None:
        self.addParameter(
            QgsProcessingParameterMultipleLayers(
                'MAPS', 'Maps', QgsProcessing.TypeRaster
            )
        )
        self.addParameter(
            QgsProcessingParameterString('MINORITY', 'Codes of the minority classes')
        )
        self.addParameter(
            QgsProcessingParameterNumber(
                'PATCH_SIZE', 'Side of a patch (pixels)', defaultValue=256, minValue=1
            )
        )
        self.addParameter(QgsProcessingParameterVectorDestination('OUTPUT', 'Patches'))

    def arguments(self, parameters, context):
        output = self.parameterAsOutputLayer(parameters, 'OUTPUT', context)
        text = self.text(parameters, 'MINORITY', context)
        # names may have blanks
        codes = [c.strip() for c in text.split(',')] if ',' in text else text.split()
        size = self.parameterAsInt(parameters, 'PATCH_SIZE', context)
        arguments = [*self.rasters(parameters, 'MAPS', context), '--minority', *codes]
        arguments += ['--patch-size', str(size), '--output', output]
        return arguments, {'OUTPUT': output}


ALGORITHMS = (Map, Export, Evaluate, Sample, Area, Change, Select)
