# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fitted part of MapSR: what comes after the frozen backbone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ...datasets.geo.grid import Window
from ...datasets.legends.legend import Legend
from ...errors import InputError
from ..tokens.tokens import Tokens
from .label_prior import LabelPrior
from .probe import ABSENT, LinearProbe
from .prompts import CosinePrompts

SCORES = ('fusion', 'probe', 'lda', 'cosine')

# Of the saved file: the key of its one metadata entry, since several would be written
# in random order, and the same fit is to be the same bytes.
FORMAT = 'torchgeo-mapsr fit 1'


@dataclass(frozen=True, eq=False)
class Head:
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
        prior: What the LR labels add at prediction, where there are any.
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
    prior: LabelPrior
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
        return self.prior.frequency > 0

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
        if evidence is None or self.prior.weight <= 0:
            return probabilities
        # As logarithms, since any weight may be asked for: powers would overflow.
        said = evidence.to(probabilities)
        scores = torch.add(probabilities.log(), said, alpha=self.prior.weight)
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
        return replace(self, probe=move(self.probe), lda=move(self.lda), cosine=cosine)

    @property
    def device(self) -> torch.device:
        """Where the tokens are to be."""
        return self.probe.weight.device

    @property
    def parameters(self) -> int:
        """Numbers that a map is made with."""
        if self.score == 'cosine':
            return self.cosine.prompts.numel()
        return sum(p.weight.numel() + p.bias.numel() for p in self._used)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides a map.

        Returns:
            Tensors, and JSON types.
        """
        tensors = {
            'probe.weight': self.probe.weight,
            'probe.bias': self.probe.bias,
            'lda.weight': self.lda.weight,
            'lda.bias': self.lda.bias,
            'cosine.prompts': self.cosine.prompts,
            'cosine.centre': self.cosine.centre,
            'prior.codes': self.prior.codes,
            'prior.composition': self.prior.composition,
            'prior.frequency': self.prior.frequency,
        }
        fields = {
            'target': self.target.to_dict(),
            'score': self.score,
            'temperature': self.temperature,
            'prior_weight': self.prior.weight,
            'prior_sigma': self.prior.sigma,
            'provenance': dict(self.provenance),
        }
        return tensors, fields

    @classmethod
    def from_state(
        cls, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
    ) -> Self:
        """The way back from :meth:`state`.

        Args:
            tensors: The tensors.
            fields: The JSON types.
        """
        return cls(
            Legend.load(fields['target']),
            fields['score'],
            LinearProbe(tensors['probe.weight'], tensors['probe.bias']),
            LinearProbe(tensors['lda.weight'], tensors['lda.bias']),
            CosinePrompts(tensors['cosine.prompts'], tensors['cosine.centre']),
            fields['temperature'],
            LabelPrior(
                tensors['prior.codes'],
                tensors['prior.composition'],
                tensors['prior.frequency'],
                fields['prior_weight'],
                fields['prior_sigma'],
            ),
            fields['provenance'],
        )
