# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The bands themselves as features."""

from torch import Tensor

from ..tokens.tokens import Tokens
from .backbone import Backbone


class Identity(Backbone):
    """Every pixel is its own token: for rasters of precomputed embeddings.

    Values that are not finite, as embeddings have where there was no data, become 0.

    Args:
        bands: Bands of the raster.
    """

    def __init__(self, bands: int) -> None:
        super().__init__(bands, channels=(bands,), strides=(1,))

    def forward(self, image: Tensor) -> Tokens:
        """Features of a batch; see :meth:`Backbone.forward`."""
        finite = image.nan_to_num(nan=0, posinf=0, neginf=0)
        return Tokens((finite,), self.strides, (image.shape[-2], image.shape[-1]))
