# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The bands themselves as features."""

import torch
from torch import Tensor

from ...errors import InputError
from ..tokens.tokens import Tokens
from .backbone import Backbone

DEQUANTISATIONS = ('none', 'alphaearth', 'tessera')


class Identity(Backbone):
    """Every pixel is its own token: for rasters of precomputed embeddings.

    Embeddings are published as bytes. ``dequantise`` says how they become numbers:

    * ``alphaearth``, AlphaEarth Foundations' annual embeddings: 64 bands of int8,
      sign(v) · (v / 127.5)²; −128 has no value.
    * ``tessera``, Tessera's: int8 with a scale for each pixel, which is the last band
      of the raster: v · scale.

    Values that are not finite, as embeddings have where there was no data, become 0.

    Args:
        bands: Bands of the raster.
        dequantise: How its values become features.

    Raises:
        InputError: If there is no such way, or no band is left for the scale.

    >>> image = torch.tensor([127.0, -64.0, 0.0, -128.0]).reshape(1, 4, 1, 1)
    >>> features = Identity(4, dequantise='alphaearth')(image).levels[0].flatten()
    >>> [round(value, 4) for value in features.tolist()]
    [0.9922, -0.252, 0.0, 0.0]
    """

    def __init__(self, bands: int, *, dequantise: str = 'none') -> None:
        if dequantise not in DEQUANTISATIONS:
            raise InputError(
                f'Backbone identity: dequantise is one of {", ".join(DEQUANTISATIONS)}, '
                f'not {dequantise!r}'
            )
        scales = int(dequantise == 'tessera')
        if bands <= scales:
            raise InputError(
                'Backbone identity: dequantise=tessera takes the last band for the '
                "pixels' scale, and the raster has one band"
            )
        super().__init__(bands, channels=(bands - scales,), strides=(1,))
        self.dequantise = dequantise

    def forward(self, image: Tensor) -> Tokens:
        """Features of a batch; see :meth:`Backbone.forward`."""
        values = image
        if self.dequantise == 'alphaearth':
            values = torch.sign(image) * (image / 127.5).square()
            values = torch.where(image == -128, 0, values)
        elif self.dequantise == 'tessera':
            values = image[:, :-1] * image[:, -1:]
        finite = values.nan_to_num(nan=0, posinf=0, neginf=0)
        return Tokens((finite,), self.strides, (image.shape[-2], image.shape[-1]))
