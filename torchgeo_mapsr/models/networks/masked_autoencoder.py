# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A masked autoencoder whose patch embedding is the encoder of a segmentation network."""

from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from lightly.models import utils
from lightly.models.modules import (
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
)
from timm.layers.hybrid_embed import HybridEmbed
from timm.models import VisionTransformer
from torch import Tensor, nn

from ...arguments import check_choice, check_range
from ...errors import InputError

#: Stride of an encoder's last stage, and side of a token after the upsampling, in pixels.
STRIDE, PATCH = 32, 16

Hidden = Literal['pixels', 'tokens']


class MaskedAutoencoder(nn.Module):
    """Reconstructs images from a quarter of their patches.

    Workman et al. 2023, section 4.5: a vision transformer whose patch embedding is a
    ResNet-18 followed by an upsampling by two, so that a token is 16 × 16 pixels; 75 % of
    the tokens are masked. A small transformer fills in the rest (He et al. 2022), and the
    loss is the squared error of the masked patches' pixels, each patch standardised by
    its own mean and standard deviation.

    A convolutional embedding sees beyond its patch: a token that is kept knows its masked
    neighbours. So by default the pixels of masked patches are zero when they enter the
    embedding, and nothing of them is left to copy. The paper does not say that it does
    so; ``hidden='tokens'`` does what it says and no more.

    Args:
        encoder: What is pretrained: (B, C, S, S) to a list of feature maps, the last of
            stride 32.
        bands: Bands of the images, C.
        size: Height and width of the images, S, a multiple of 32.
        dim: Width of the transformer's tokens.
        depth: Blocks of the transformer.
        heads: Attention heads of the transformer.
        decoder_dim: Width of the decoder's tokens.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        ratio: Share of patches that is masked.
        hidden: What is masked, *pixels* and tokens, or *tokens* alone.

    Raises:
        InputError: *size* is no multiple of 32, *ratio* masks nothing or everything, or
            another argument is out of its range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        bands: int,
        size: int = 224,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        decoder_dim: int = 192,
        decoder_depth: int = 2,
        decoder_heads: int = 6,
        ratio: float = 0.75,
        hidden: Hidden = 'pixels',
    ) -> None:
        super().__init__()
        check_choice('hidden', hidden, get_args(Hidden))
        for name, count in (
            ('dim', dim),
            ('depth', depth),
            ('heads', heads),
            ('decoder_dim', decoder_dim),
            ('decoder_depth', decoder_depth),
            ('decoder_heads', decoder_heads),
            ('size', size),
        ):
            check_range(name, count, 1, whole=True)
        if dim % heads or decoder_dim % decoder_heads:
            raise InputError(
                f'dim and decoder_dim are multiples of their heads, not {dim} and '
                f'{decoder_dim} of {heads} and {decoder_heads}'
            )
        if size < STRIDE or size % STRIDE:
            raise InputError(f'size is a multiple of {STRIDE} pixels, not {size}')
        check_range('ratio', ratio)
        if not 0 < ratio < 1:
            raise InputError(f'ratio is between 0 and 1, not {ratio}')
        self.size, self.ratio, self.hidden = size, ratio, hidden
        self.side = size // PATCH
        if int(self.side**2 * (1 - ratio)) < 1:
            raise InputError(
                f'a ratio of {ratio} leaves none of the {self.side**2} patches of an image '
                f'of {size} pixels to be seen: give a lower one, or a larger size'
            )
        vit = VisionTransformer(
            img_size=size,
            patch_size=1,
            in_chans=bands,
            num_classes=0,
            global_pool='',
            class_token=False,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            embed_layer=partial(HybridEmbed, backbone=_Embedding(encoder)),
        )
        self.transformer = MaskedVisionTransformerTIMM(vit)
        # tokens that are masked are left out, so this one is never put in their place
        self.transformer.mask_token.requires_grad_(False)
        self.bridge = nn.Linear(dim, decoder_dim)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=self.side**2,
            embed_dim=decoder_dim,
            depth=decoder_depth,
            num_heads=decoder_heads,
            num_prefix_tokens=0,
        )
        self.head = nn.Linear(decoder_dim, bands * PATCH**2)

    @property
    def encoder(self) -> nn.Module:
        """What is pretrained."""
        embedding: _Embedding = self.transformer.vit.patch_embed.backbone
        return embedding.encoder

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw masks.

        Args:
            count: Number of images, B.
            device: Where to.

        Returns:
            Numbers of the patches that are kept (B, K) and masked (B, M), row by row.
        """
        visible, masked = utils.random_token_mask(
            (count, self.side**2), self.ratio, mask_class_token=True, device=device
        )
        return visible, masked

    def forward(self, image: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Reconstruct masked patches.

        Args:
            image: Standardised images, (B, C, S, S).
            visible: Numbers of the patches that are seen, (B, K).
            masked: Numbers of the others, (B, M).

        Returns:
            (B, M, C · 16²), as :meth:`target` has them.
        """
        if self.hidden == 'pixels':
            image = image * self._visible(visible, image)
        encoded = self.bridge(self.transformer.encode(image, idx_keep=visible))
        tokens = utils.repeat_token(
            self.decoder.mask_token, (len(image), self.side**2)
        ).to(encoded.dtype)
        tokens = utils.set_at_index(tokens, visible, encoded)
        decoded: Tensor = self.decoder(tokens)
        patches: Tensor = self.head(utils.get_at_index(decoded, masked))
        return patches

    def loss(self, image: Tensor) -> Tensor:
        """Mean squared error of the masked patches, each in its own units.

        Args:
            image: Standardised images, (B, C, S, S).

        Raises:
            InputError: The images have another size.
        """
        if image.shape[-2:] != (self.size, self.size):
            height, width = image.shape[-2:]
            raise InputError(
                f'The images have {height} × {width} pixels and the autoencoder was made '
                f'for {self.size}²: give patch_size={self.size} to the data, or size to '
                'the task'
            )
        kept, masked = self.draw(len(image), image.device)
        return F.mse_loss(self(image, kept, masked).float(), self.target(image, masked))

    def target(self, image: Tensor, masked: Tensor) -> Tensor:
        """Pixels of masked patches, in the units of each patch.

        Args:
            image: Standardised images, (B, C, S, S).
            masked: Numbers of patches, (B, M).

        Returns:
            (B, M, C · 16²): mean 0 and variance 1.
        """
        patches = utils.get_at_index(utils.patchify(image.float(), PATCH), masked)
        return utils.normalize_mean_var(patches)

    def _visible(self, index: Tensor, image: Tensor) -> Tensor:
        """1 at pixels of patches that are seen, (B, 1, S, S)."""
        visible = image.new_zeros(len(image), self.side**2).scatter(1, index, 1.0)
        visible = visible.view(-1, 1, self.side, self.side)
        return F.interpolate(visible, scale_factor=PATCH, mode='nearest')


class _Embedding(nn.Module):
    """The last features of an encoder, of stride 32, at stride 16."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        features = self.encoder(image)[-1]
        return F.interpolate(
            features, scale_factor=STRIDE // PATCH, mode='bilinear', align_corners=False
        )
