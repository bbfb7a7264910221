# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fitted part of MapSR: what comes after the frozen backbone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...datasets.legends.legend import Legend
from ...errors import InputError
from ..tokens.tokens import Tokens
from ..tokens.upsample import Window
from .probe import ABSENT, LinearProbe
from .prompts import CosinePrompts

SCORES = ('fusion', 'probe', 'lda', 'cosine')

# Of the saved file: the key of its one metadata entry, since several would be written
# in random order, and the same fit is to be the same bytes.
FORMAT = 'torchgeo-mapsr fit 1'


@dataclass(frozen=True, eq=False)
class Classifier:
    """Class probabilities of every pixel from tokens, without any training.

    Everything is linear in the features, or needs their norms only, so that C or C k
    channels are upsampled and never D (see :class:`Tokens`).

    Args:
        target: Legend of the classes, C.
        score: What scores a pixel: ``probe``, ``lda`` (prompts under a within-class
            covariance), ``fusion`` (the mean of these two's probabilities) or
            ``cosine`` (the published form).
        probe: The linear probe, on features as the backbone gives them.
        lda: Scores of C k prompts, on the same; its temperature is part of it.
        cosine: Prompts of the published form.
        temperature: By which cosines are divided before the softmax.
        prior_weight: Weight of the LR labels at prediction, where there are any.
        prior_sigma: Standard deviation of their smoothing, in LR cells.
        frequency: Frequency of each class among the LR cells of the fit, (C,).
        calibration: What the backbone learned from the imagery.
        provenance: How this was made: backbone, legends, crosswalk, counts, settings,
            versions. JSON types.

    Raises:
        InputError: If there is no such score.
    """

    target: Legend
    score: str
    probe: LinearProbe
    lda: LinearProbe
    cosine: CosinePrompts
    temperature: float
    prior_weight: float
    prior_sigma: float
    frequency: Tensor
    calibration: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise InputError(
                f'The score must be one of {", ".join(SCORES)}, got {self.score!r}'
            )

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return len(self.target)

    @property
    def present(self) -> Tensor:
        """Classes that the fit saw, (C,) bool. Others are never predicted."""
        return self.frequency > 0

    def probabilities(
        self,
        tokens: Tokens,
        evidence: Tensor | None = None,
        window: Window | None = None,
    ) -> Tensor:
        """Probabilities of the classes of every pixel.

        Args:
            tokens: Tokens of a batch.
            evidence: What the LR labels say, (B, C, H, W), from
                :func:`~torchgeo_mapsr.models.head.prior.evidence`; None if there are none.
            window: Rows and columns of the pixels that are wanted, which the evidence
                is about; all by default.

        Returns:
            (B, C, H, W) float32.
        """
        projection = self.projection
        if projection is not None:
            logits = tokens.project(projection.weight, projection.bias, window)
            return self.decide(logits, evidence)
        cosine = self.cosine.match_tokens(tokens)
        if window is not None:
            cosine = cosine[..., window[0], window[1]]
        cosine = cosine.float()
        absent = ~self.present.to(cosine.device)
        cosine = cosine.div(self.temperature).masked_fill(absent[:, None, None], ABSENT)
        return self._weighed(cosine.softmax(1), evidence)

    @property
    def projection(self) -> LinearProbe | None:
        """Everything that the score asks of features, if that is linear in them.

        The probe, the discriminant, or the rows of both; None for cosines.
        """
        if self.score == 'cosine':
            return None
        used = self._used
        weight = torch.cat([part.weight for part in used])
        return LinearProbe(weight, torch.cat([part.bias for part in used]))

    def decide(self, logits: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Probabilities from the scores of :attr:`projection`.

        Args:
            logits: Its scores of every pixel, (B, K, H, W).
            evidence: See :meth:`probabilities`.

        Returns:
            (B, C, H, W) float32.
        """
        # Bfloat16 would lose the difference of large logits: only tokens may be half.
        c, logits = self.classes, logits.float()
        parts = []
        for part in self._used:
            own, logits = logits[:, : len(part.bias)], logits[:, len(part.bias) :]
            if len(part.bias) > c:
                own = own.unflatten(1, (c, -1)).amax(2)
            parts.append(own.softmax(1))
        return self._weighed(sum(parts[1:], parts[0]) / len(parts), evidence)

    @property
    def _used(self) -> list[LinearProbe]:
        """What a linear score is made of."""
        both = {'probe': self.probe, 'lda': self.lda}
        return [both[self.score]] if self.score in both else list(both.values())

    def _weighed(self, probabilities: Tensor, evidence: Tensor | None) -> Tensor:
        """With what the LR labels say."""
        if evidence is None or self.prior_weight <= 0:
            return probabilities
        # As logarithms, since any weight may be asked for: powers would overflow.
        said = evidence.to(probabilities)
        scores = torch.add(probabilities.log(), said, alpha=self.prior_weight)
        return scores.softmax(1)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device.

        Args:
            device: Where the tokens are.

        Returns:
            A new classifier.
        """

        def move(probe: LinearProbe) -> LinearProbe:
            return LinearProbe(probe.weight.to(device), probe.bias.to(device))

        cosine = CosinePrompts(
            self.cosine.prompts.to(device), self.cosine.centre.to(device)
        )
        return replace(
            self,
            probe=move(self.probe),
            lda=move(self.lda),
            cosine=cosine,
            frequency=self.frequency.to(device),
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: a few hundred kilobytes.

        Args:
            path: The file; a parent folder must exist.
        """
        tensors = {
            'probe.weight': self.probe.weight,
            'probe.bias': self.probe.bias,
            'lda.weight': self.lda.weight,
            'lda.bias': self.lda.bias,
            'cosine.prompts': self.cosine.prompts,
            'cosine.centre': self.cosine.centre,
            'frequency': self.frequency,
            **{f'backbone.{name}': t for name, t in self.calibration.items()},
        }
        fields = {
            'target': self.target.to_dict(),
            'score': self.score,
            'temperature': self.temperature,
            'prior_weight': self.prior_weight,
            'prior_sigma': self.prior_sigma,
            'provenance': dict(self.provenance),
        }
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            path,
            {FORMAT: json.dumps(fields, sort_keys=True)},
        )

    @classmethod
    def load(cls, path: str | Path) -> 'Classifier':
        """Read what :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The classifier, on the CPU.

        Raises:
            InputError: If the file is not one of ours, or is damaged.
        """
        try:
            with safe_open(str(path), framework='pt') as file:
                fit = (file.metadata() or {}).get(FORMAT)
                if fit is None:
                    raise InputError(
                        f'{path} is not a fit of this torchgeo-mapsr: --save-model '
                        'writes one'
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            fields = json.loads(fit)
            return cls(
                Legend.load(fields['target']),
                fields['score'],
                LinearProbe(tensors['probe.weight'], tensors['probe.bias']),
                LinearProbe(tensors['lda.weight'], tensors['lda.bias']),
                CosinePrompts(tensors['cosine.prompts'], tensors['cosine.centre']),
                fields['temperature'],
                fields['prior_weight'],
                fields['prior_sigma'],
                tensors['frequency'],
                {
                    name.removeprefix('backbone.'): tensor
                    for name, tensor in tensors.items()
                    if name.startswith('backbone.')
                },
                fields['provenance'],
            )
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f'Cannot read the fit {path}: {error}') from error
