# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fitted part of MapSR: what comes after the frozen backbone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ...arguments import check_choice
from ...datasets.geo.grid import Window
from ...datasets.legends.legend import Legend
from ...errors import InputError
from ..tokens.tokens import Tokens
from .options import SCORES
from .prior import LabelPrior
from .probe import ABSENT, LinearProbe
from .prompts import CosinePrompts


@dataclass(frozen=True, eq=False)
class Head:
    r"""Class probabilities of every pixel from tokens.

    The probe scores the K codes of the coarse labels, and a row-stochastic matrix
    translates: with Q[k, c] the share of class c in what code k stands for,

    .. math:: p_1(c | x) \propto \sum_k \mathrm{softmax}_k(W x + b)\, Q_{kc}\, t_c

    Where every code is one class, Q is the identity and this is a plain probe.
    Everything is linear in the features, or needs their norms only, so that K + C
    channels are upsampled and never D (see
    :class:`~torchgeo_mapsr.models.tokens.tokens.Tokens`).

    Args:
        target: Legend of the classes, C.
        score: What scores a pixel: ``probe``, ``lda`` (prompts under a within-class
            covariance), ``fusion`` (the mean of these two's probabilities) or
            ``cosine`` (the published form).
        probe: Scores of K codes, on features as the backbone gives them.
        translation: Q[k, c] t_c, (K, C) float32; None where codes are the classes.
        lda: Scores of C k prompts, on the same; its temperature is part of it.
        cosine: Prompts of the published form; None where the score is another.
        temperature: By which cosines are divided before the softmax.
        prior: What the LR labels add at prediction, where there are any.
        unprompted: Classes without a prompt: in a fusion they keep the probability
            that the probe gives them.
        provenance: How this was made: counts, settings, what was chosen. JSON types.

    Raises:
        InputError: If there is no such score.
    """

    target: Legend
    score: str
    probe: LinearProbe
    translation: Tensor | None
    lda: LinearProbe
    cosine: CosinePrompts | None
    temperature: float
    prior: LabelPrior
    unprompted: tuple[int, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the score."""
        check_choice('score', self.score, SCORES)
        if self.score == 'cosine' and self.cosine is None:
            raise InputError("This was not fitted with score='cosine'; fit it again.")

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return len(self.target)

    @property
    def present(self) -> Tensor:
        """Classes that can be predicted, (C,) bool."""
        if self.score == 'cosine' and self.cosine is not None:
            return ~self.cosine.prompts[:, 0, 0].isnan()
        if self.translation is None:
            return self.probe.bias > ABSENT
        return (self.translation > 0).any(0)

    @property
    def device(self) -> torch.device:
        """Where the tokens are to be."""
        return self.probe.weight.device

    @property
    def parameters(self) -> int:
        """Numbers that a map is made with."""
        projection = self.projection
        if projection is None:
            assert self.cosine is not None
            return self.cosine.prompts.numel()
        translated = 0 if self.translation is None else self.translation.numel()
        return projection.weight.numel() + projection.bias.numel() + translated

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
                :meth:`~torchgeo_mapsr.models.head.prior.LabelPrior.evidence`;
                None if there are none.
            window: Rows and columns of the pixels that are wanted, which the evidence
                is about; all by default.

        Returns:
            (B, C, H, W) float32.
        """
        projection = self.projection
        if projection is not None:
            logits = tokens.project(projection.weight, projection.bias, window)
            return self.decide(logits, evidence)
        assert self.cosine is not None
        cosine = self.cosine.match_tokens(tokens)
        if window is not None:
            cosine = cosine[..., window[0], window[1]]
        return self._with_evidence(self._softened(cosine), evidence)

    def classify(self, features: Tensor) -> Tensor:
        """Probabilities of the classes of feature vectors, without any label.

        Args:
            features: (n, D), as the backbone gives them.

        Returns:
            (n, C) float32.
        """
        projection = self.projection
        if projection is None:
            assert self.cosine is not None
            return self._softened(self.cosine.match(features))
        return self.decide(projection(features)[..., None, None])[..., 0, 0]

    def by_score(self) -> 'dict[str, Head]':
        """The same with each score that was fitted."""
        return {
            score: replace(self, score=score)
            for score in SCORES
            if score != 'cosine' or self.cosine is not None
        }

    def _softened(self, cosine: Tensor) -> Tensor:
        """Probabilities of cosines, (B, C, …)."""
        absent = ~self.present.to(cosine.device)
        logits = cosine.float().div(self.temperature)
        shape = (-1, *(1,) * (cosine.dim() - 2))
        return logits.masked_fill(absent.view(shape), ABSENT).softmax(1)

    @cached_property
    def projection(self) -> LinearProbe | None:
        """Everything that the score asks of features, if that is linear in them.

        The probe, the discriminant, or the rows of both; None for cosines.
        """
        if self.score == 'cosine':
            return None
        parts = {'probe': [self.probe], 'lda': [self.lda]}
        used = parts.get(self.score, [self.probe, self.lda])
        weight = torch.cat([part.weight for part in used])
        return LinearProbe(weight, torch.cat([part.bias for part in used]))

    def decide(self, logits: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Probabilities from the scores of :attr:`projection`.

        Args:
            logits: Its scores of every pixel, (B, rows, H, W).
            evidence: See :meth:`probabilities`.

        Returns:
            (B, C, H, W) float32.
        """
        # Bfloat16 would lose the difference of large logits: only tokens may be half.
        logits = logits.float()
        codes = len(self.probe.bias)
        if self.score == 'lda':
            return self._with_evidence(self._discriminated(logits), evidence)
        p = self._translated(logits[:, :codes].softmax(1))
        if self.score == 'fusion':
            p = self._fused(p, self._discriminated(logits[:, codes:]))
        return self._with_evidence(p, evidence)

    def _translated(self, p: Tensor) -> Tensor:
        """From probabilities of codes (B, K, …) to those of classes (B, C, …)."""
        if self.translation is None:
            return p
        # Code by code, and no matrix product: that rounds differently for tiles of
        # other sizes.
        shape = (1, -1, *(1,) * (p.dim() - 2))
        total = p[:, :1] * self.translation[0].view(shape)
        for k in range(1, len(self.translation)):
            total.addcmul_(p[:, k : k + 1], self.translation[k].view(shape))
        return total / total.sum(1, keepdim=True)

    def _discriminated(self, logits: Tensor) -> Tensor:
        """Probabilities from the scores of the prompts, (B, C, …)."""
        if logits.shape[1] > self.classes:
            logits = logits.unflatten(1, (self.classes, -1)).amax(2)
        return logits.softmax(1)

    def _fused(self, p: Tensor, lda: Tensor) -> Tensor:
        """The mean of both; what has no prompt keeps the probe's probability."""
        if self.unprompted:
            only = torch.zeros_like(p)
            for c in self.unprompted:
                only[:, c] = p[:, c]
            lda = lda * (1 - only.sum(1, keepdim=True)) + only
        return (p + lda) / 2

    def _with_evidence(self, p: Tensor, evidence: Tensor | None) -> Tensor:
        """With what the LR labels say."""
        if evidence is None or self.prior.weight <= 0:
            return p
        # As logarithms, since any weight may be asked for: powers would overflow.
        scores = torch.add(p.log(), evidence.to(p), alpha=self.prior.weight)
        return scores.softmax(1)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device.

        Args:
            device: Where the tokens are.

        Returns:
            A new head.
        """
        cosine, translation = self.cosine, self.translation
        if cosine is not None:
            prompts, centre = cosine.prompts.to(device), cosine.centre.to(device)
            cosine = replace(cosine, prompts=prompts, centre=centre)
        return replace(
            self,
            probe=self.probe.to(device),
            translation=None if translation is None else translation.to(device),
            lda=self.lda.to(device),
            cosine=cosine,
        )

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
            'prior.codes': self.prior.codes,
            'prior.composition': self.prior.composition,
            'prior.frequency': self.prior.frequency,
        }
        if self.translation is not None:
            tensors['translation'] = self.translation
        if self.cosine is not None:
            tensors['cosine.prompts'] = self.cosine.prompts
            tensors['cosine.centre'] = self.cosine.centre
        fields = {
            'target': self.target.to_dict(),
            'score': self.score,
            'temperature': self.temperature,
            'prior_weight': self.prior.weight,
            'prior_sigma': self.prior.sigma,
            'unprompted': list(self.unprompted),
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

        Returns:
            The head, where the tensors are.
        """
        cosine = None
        if 'cosine.prompts' in tensors:
            cosine = CosinePrompts(tensors['cosine.prompts'], tensors['cosine.centre'])
        return cls(
            Legend.load(fields['target']),
            fields['score'],
            LinearProbe(tensors['probe.weight'], tensors['probe.bias']),
            tensors.get('translation'),
            LinearProbe(tensors['lda.weight'], tensors['lda.bias']),
            cosine,
            fields['temperature'],
            LabelPrior(
                tensors['prior.codes'],
                tensors['prior.composition'],
                tensors['prior.frequency'],
                fields['prior_weight'],
                fields['prior_sigma'],
            ),
            tuple(fields['unprompted']),
            fields['provenance'],
        )
