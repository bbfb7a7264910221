# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The plugin and its provider: a setting, and the algorithms."""

import os
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS
from .command import SETTING


class Provider(QgsProcessingProvider):
    """Algorithms of torchgeo-mapsr."""

    def id(self) -> str:
        return 'torchgeo_mapsr'

    def name(self) -> str:
        return 'torchgeo-mapsr'

    def icon(self) -> QIcon:
        return QIcon(os.path.join(os.path.dirname(__file__), 'icon.svg'))

    def load(self) -> bool:
        """Make the setting known."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(),
                SETTING,
                'The command torchgeo-mapsr, of the environment that it is installed in',
                'torchgeo-mapsr',
                valuetype=Setting.STRING,
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Take the setting back."""
        ProcessingConfig.removeSetting(SETTING)

    def loadAlgorithms(self) -> None:
        """Make the algorithms known."""
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())


class Plugin:
    """Adds the provider, with a desktop or without.

    Args:
        iface: QGIS's desktop, not needed.
    """

    def __init__(self, iface: Any) -> None:
        self.provider = None

    def initProcessing(self) -> None:
        """Called by qgis_process."""
        self.provider = Provider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Called by the desktop."""
        self.initProcessing()

    def unload(self) -> None:
        """Take the provider away."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
