# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Backbone and classifier on a device: from a chip's pixels to its scores."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.imagery import Imagery
from ..models.classifier import Classifier
from ..models.prior import evidence, label_shares
from .extractor import Extractor, Recipe
from .inputs import Inputs, file_digest
from .plan import Chip, Plan
from .stopwatch import Stopwatch
from .sweep import ScoredChip

if TYPE_CHECKING:
    from ..models.propagation import Propagation

# Chips that are scored at once, at most; each takes some tens of megabytes.
MOST = 8


class ReadChip(NamedTuple):
    """What there is to know of a chip before the backbone sees it.

    Args:
        image: Raw values, (C, H, W).
        valid: Pixels with data, (H, W).
        evidence: What the LR labels say, (C, H, W), or None.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    evidence: Tensor | None


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
            from ..models.propagation import Propagation

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
        """Chips that are best scored at once.

        Fused, a chip is many small steps that one core does in its cache, and more
        cores hardly speed up. A network is better off with all cores on one chip.
        """
        if not self._fused or self.extractor.device.type != 'cpu':
            return 1
        return min(torch.get_num_threads(), MOST)

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
                grid = plan.crop(chip)
                image, valid = imagery.read(grid)
                said = None
                if weighs and crosswalk is not None and valid.any():
                    shares, support = label_shares(grid, labels, crosswalk, sigma)
                    said = evidence(shares, support, frequency)
                return ReadChip(image, valid, said)

        return read

    @torch.inference_mode()
    def score(self, chip: ReadChip) -> ScoredChip:
        """Class probabilities of a chip's pixels."""
        if not chip.valid.any():
            return ScoredChip(None, chip.valid)
        said = None if chip.evidence is None else chip.evidence[None]
        projection = self.classifier.projection
        if self._fused and projection:
            with self.watch('backbone'):
                logits = self.extractor.project(chip.image, projection)
            with self.watch('match'):
                log_p = self.classifier.decide(logits, said)
                return ScoredChip(log_p[0].exp(), chip.valid)
        with self.watch('backbone'):
            tokens = self.extractor(chip.image)
        with self.watch('match'):
            log_p = self.classifier.log_probabilities(tokens, said)
        if self.propagation is not None:
            with self.watch('propagate'):
                image, valid = (
                    torch.from_numpy(part)[None].to(log_p.device)
                    for part in (chip.image, chip.valid)
                )
                log_p = self.propagation(log_p, tokens, image, valid)
        return ScoredChip(log_p[0].exp(), chip.valid)


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
