# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Rows of this package: one fit, and the maps that its parts make."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgeo_mapsr.datasets.geo.plan import Chip, Plan, default_overlap
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.extractor import Extractor
from torchgeo_mapsr.mapping.fitting import fit, make_backbone
from torchgeo_mapsr.mapping.inputs import Inputs
from torchgeo_mapsr.mapping.model import Model, ReadChip
from torchgeo_mapsr.mapping.sweep import ScoredChip, sweep
from torchgeo_mapsr.mapping.timing import Stopwatch
from torchgeo_mapsr.models.head.head import Classifier
from torchgeo_mapsr.models.head.probe import class_weights, fit_probe
from torchgeo_mapsr.models.propagation.propagation import Propagation
from torchgeo_mapsr.models.tokens.tokens import Tokens

from .regions import Region

# Pixels with HR labels that the bound's probe is fitted to, and its L2 strength: there
# are many more pixels than features, so that it hardly matters.
BOUND_PIXELS = 20_000
BOUND_STRENGTH = 1e-5

Maps = list[NDArray[np.int64]]


class Ours:
    """What ``torchgeo-mapsr map`` fits to a region, with tokens kept for many maps.

    Chips, tiles and blending are the command's, so that the default's map is the
    command's map, pixel by pixel.

    Args:
        region: Scenes and coarse labels.
        backbone: Spec of the backbone.
    """

    def __init__(self, region: Region, backbone: str = 'rcf') -> None:
        job = MapJob.from_flags(
            imagery=region.imagery_paths,
            labels=region.label_paths,
            legend=region.legend,
            output='nowhere.tif',
            backbone=backbone,
        )
        labels = LabelRaster.open(region.label_paths)
        target = region.crosswalk.target
        inputs = Inputs(region.images, labels, target, region.crosswalk)
        frozen = make_backbone(job, inputs, None)
        extractor = Extractor(frozen, torch.device('cpu'))
        overlap = default_overlap(job.chip_size, frozen.halo)
        self.plans = [
            Plan(
                image.geobox,
                job.chip_size,
                job.tile_size,
                overlap,
                frozen.halo,
                max(frozen.strides),
            )
            for image in region.images
        ]
        watch = Stopwatch()
        self.region = region
        self.classifier = fit(
            job, inputs, self.plans, extractor, watch, lambda total: lambda: None
        )
        self.extractor = extractor
        self._model = Model(extractor, self.classifier, inputs, watch)
        self._kept: dict[tuple[int, Chip], tuple[ReadChip, Tokens]] = {}

    @torch.inference_mode()
    def maps(
        self, classifier: Classifier, propagation: Propagation | None = None
    ) -> Maps:
        """Map every scene.

        Args:
            classifier: What scores pixels.
            propagation: What refines the scores of each chip.

        Returns:
            Class index of each scene's pixels, -1 where there is no imagery.
        """
        return self._sweep(
            lambda number: (_same, self._scorer(number, classifier, propagation))
        )

    def default(self) -> Maps:
        """Fusion of probe and prompts, with the coarse labels as a prior.

        As the command does it, which may need no tokens: the last bit counts where two
        classes are equally likely.
        """
        model, images = self._model, self.region.images
        return self._sweep(
            lambda n: (model.reader(images[n], self.plans[n]), model.score)
        )

    def _sweep(self, passes: Callable[[int], tuple[Any, Any]]) -> Maps:
        """Map every scene with what reads and what scores a chip of it."""
        maps = []
        for number, plan in enumerate(self.plans):
            read, score = passes(number)
            found = np.full(plan.geobox.shape, -1)
            tiles = list(plan.tiles())
            for tile, result in sweep(plan, tiles, self.region.classes, read, score):
                found[tile.rows, tile.cols] = result.classes
            maps.append(found)
        return maps

    def part(self, score: str) -> Maps:
        """One kind of score, without the prior."""
        return self.maps(replace(self.classifier, score=score, prior_weight=0.0))

    def propagated(self, nodes: str) -> Maps:
        """The default, propagated among tokens or superpixels."""
        return self.maps(self.classifier, Propagation(nodes=nodes))

    @torch.inference_mode()
    def bound(self) -> Maps:
        """What a linear probe on these features can do.

        It is fitted to HR labels of some pixels of the very scenes that it maps: a
        bound of the method, no competitor.
        """
        rng = np.random.default_rng(0)
        chips = [
            (n, chip) for n, plan in enumerate(self.plans) for chip in plan.lattice()
        ]
        features, labels = [], []
        for number, chip in chips:
            plan = self.plans[number]
            _, tokens = self._tokens(number, chip)
            own, window = plan.own(chip), plan.window(chip)
            truth = self.region.truth[number][own]
            some = np.flatnonzero(truth >= 0)
            some = rng.permutation(some)[: -(-BOUND_PIXELS // len(chips))]
            rows, cols = np.divmod(some, truth.shape[1])
            at = (
                torch.from_numpy(place + span.start - whole.start)
                for place, span, whole in zip((rows, cols), own, window, strict=True)
            )
            features.append(tokens.gather(torch.zeros(len(some)).long(), *at))
            labels.append(torch.from_numpy(truth.ravel()[some]))
        x, label = torch.cat(features), torch.cat(labels)
        scale, mean = torch.std_mean(x, 0)
        scale = torch.where(scale > 1e-6 * scale.max(), scale, 1.0)
        weight = class_weights(label, self.region.classes, 0.5)
        probe = fit_probe(
            (x - mean) / scale, label, self.region.classes, BOUND_STRENGTH, weight
        )
        told = replace(
            self.classifier,
            score='probe',
            probe=probe.unscale(mean, scale),
            prior_weight=0.0,
        )
        return self.maps(told)

    def _tokens(self, number: int, chip: Chip) -> tuple[ReadChip, Tokens]:
        """A chip and its tokens, which are computed once for all maps."""
        key = number, chip
        if key not in self._kept:
            read = self._model.reader(self.region.images[number], self.plans[number])
            seen = read(chip)
            self._kept[key] = seen, self._model.extractor(seen.image)
        return self._kept[key]

    def _scorer(
        self, number: int, classifier: Classifier, propagation: Propagation | None
    ) -> Callable[[Chip], ScoredChip]:
        def score(chip: Chip) -> ScoredChip:
            seen, tokens = self._tokens(number, chip)
            said = None if seen.evidence is None else seen.evidence[None]
            found: Tensor = classifier.probabilities(tokens, said, seen.core)
            if propagation is not None:
                image = torch.from_numpy(seen.image[:, *seen.core])[None]
                valid = torch.from_numpy(seen.valid[seen.core])[None]
                found = propagation(found, tokens, image, valid, seen.core)
            return ScoredChip(found[0], seen.valid[seen.core])

        return score


def _same(chip: Chip) -> Chip:
    return chip
