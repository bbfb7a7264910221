# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Backbone and classifier on a device: from a chip's pixels to its scores."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..datasets.geo.plan import Chip, Plan
from ..datasets.imagery import Imagery
from ..models.head.head import Classifier
from ..models.head.prior import evidence, label_shares
from .extractor import Extractor, Recipe, chips_at_once
from .inputs import Inputs, file_digest
from .sweep import ReadChip, ScoredChip
from .timing import Stopwatch

if TYPE_CHECKING:
    from ..models.propagation.propagation import Propagation


@dataclass(frozen=True)
class Fitted:
    """A saved fit, and how it is to be used.

    Args:
        path: Its file.
        digest: SHA-256 of the file.
        score: What scores a pixel; ``auto`` as the fit says.
        prior: Weight of the LR labels; None as the fit says.
        propagate: Nodes of the propagation, or ``none``.
    """

    path: Path
    digest: str
    score: str = 'auto'
    prior: float | None = None
    propagate: str = 'none'

    def load(self) -> Classifier:
        """Read the file.

        Raises:
            InputError: If it is no fit.
            OSError: If it is not the one that is meant, or not there.
        """
        if file_digest(self.path) != self.digest:
            raise OSError(None, 'The fit is another one', str(self.path))
        return Classifier.load(self.path)

    def use(
        self,
        extractor: Extractor,
        classifier: Classifier,
        inputs: Inputs,
        watch: Stopwatch,
    ) -> 'Model':
        """The model.

        Args:
            extractor: The backbone, calibrated.
            classifier: What :meth:`load` gives.
            inputs: The job's inputs.
            watch: Counts the time.
        """
        if self.score != 'auto':
            classifier = replace(classifier, score=self.score)
        if self.prior is not None:
            classifier = replace(classifier, prior_weight=self.prior)
        propagation = None
        if self.propagate != 'none':
            # scikit-image takes a while to import
            from ..models.propagation.propagation import Propagation

            propagation = Propagation(nodes=self.propagate)
        classifier = classifier.to(extractor.device)
        return Model(extractor, classifier, inputs, watch, propagation, self)


@dataclass(frozen=True)
class Model:
    """Everything that turns a chip into class probabilities.

    Sent to another process, it is made there again from the fit's file.

    Args:
        extractor: The backbone.
        classifier: What was fitted, on the same device.
        inputs: The job's inputs: imagery, and the LR labels that act as a prior.
        watch: Counts the time.
        propagation: Spatial refinement of the scores, or None.
        fitted: Where it comes from; None if it stays in this process.
    """

    extractor: Extractor
    classifier: Classifier
    inputs: Inputs
    watch: Stopwatch
    propagation: 'Propagation | None' = None
    fitted: Fitted | None = None

    def __reduce__(self) -> tuple[Callable[..., 'Model'], tuple[Any, ...]]:
        # Chips are read from imagery that comes with the work.
        inputs = replace(self.inputs, images=())
        return _model, (self.fitted, self.extractor.recipe, inputs)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the classifier was made, and how it is used."""
        used = {
            'score': self.classifier.score,
            'prior_weight': self.classifier.prior_weight,
        }
        return {**self.classifier.provenance, **used}

    @property
    def _fused(self) -> bool:
        """Whether scores are found without features."""
        linear = self.classifier.projection is not None
        return linear and self.extractor.fused and self.propagation is None

    @property
    def threads(self) -> int:
        """Chips that are best scored at once."""
        return chips_at_once(self.extractor.device)

    def reader(self, imagery: Imagery, plan: Plan) -> Callable[[Chip], ReadChip]:
        """A function that reads chips of a raster.

        Args:
            imagery: The raster.
            plan: Its plan.
        """
        crosswalk, labels = self.inputs.crosswalk, self.inputs.labels
        frequency = self.classifier.frequency.cpu()
        sigma = self.classifier.prior_sigma
        weighs = bool(labels) and self.classifier.prior_weight > 0

        def read(chip: Chip) -> ReadChip:
            with self.watch('read'):
                grid, core = plan.crop(chip), plan.core(chip)
                image, valid = imagery.read(grid)
                said = None
                if weighs and crosswalk is not None and valid.any():
                    shares, support = label_shares(grid[core], labels, crosswalk, sigma)
                    said = evidence(shares, support, frequency)
                return ReadChip(image, valid, core, said)

        return read

    @torch.inference_mode()
    def score(self, chip: ReadChip) -> ScoredChip:
        """Class probabilities of the pixels of a chip's core."""
        core, valid = chip.core, chip.valid[chip.core]
        if not chip.valid.any():
            return ScoredChip(None, valid)
        said = None if chip.evidence is None else chip.evidence[None]
        projection = self.classifier.projection
        if self._fused and projection:
            with self.watch('backbone'):
                logits = self.extractor.project(chip.image, projection, core)
            with self.watch('match'):
                return ScoredChip(self.classifier.decide(logits, said)[0], valid)
        with self.watch('backbone'):
            tokens = self.extractor(chip.image)
        with self.watch('match'):
            found = self.classifier.probabilities(tokens, said, core)
        if self.propagation is not None:
            with self.watch('propagate'):
                image, inside = (
                    torch.from_numpy(part)[None].to(found.device)
                    for part in (chip.image[:, *core], valid)
                )
                found = self.propagation(found, tokens, image, inside, core)
        return ScoredChip(found[0], valid)


def _model(fitted: Fitted, recipe: Recipe, inputs: Inputs) -> Model:
    """The model, in the process that it was sent to."""
    return replace(_made(fitted, recipe), inputs=inputs, watch=Stopwatch())


@lru_cache(maxsize=1)
def _made(fitted: Fitted, recipe: Recipe) -> Model:
    """Made once for all work that is sent to this process; without inputs."""
    classifier = fitted.load()
    nothing = Inputs((), (), classifier.target, None)
    extractor = recipe.make(classifier.calibration)
    return fitted.use(extractor, classifier, nothing, Stopwatch())
