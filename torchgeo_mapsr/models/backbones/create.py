# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The one place that makes frozen backbones from a spec."""

from ...arguments import check_range
from ...errors import InputError
from .backbone import Backbone
from .spec import Member, parse_spec, suggest

KINDS = ('rcf', 'identity', 'timm:NAME', 'torchgeo:WEIGHTS')


def create_backbone(
    spec: str,
    bands: int,
    weights: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
) -> Backbone:
    """Make a backbone.

    A spec is one member or several joined by ``+`` (their features are then
    concatenated). Each is ``kind[:name][?option=value&option=value…]``:

    * ``rcf``: random convolutional features, which need no weights
      (:class:`~torchgeo_mapsr.models.backbones.rcf.RCF`);
    * ``identity``: the bands themselves, for a raster of embeddings
      (:class:`~torchgeo_mapsr.models.backbones.identity.Identity`);
    * ``timm:NAME``: a model of timm
      (:func:`~torchgeo_mapsr.models.backbones.timm.timm_backbone`);
    * ``torchgeo:WEIGHTS``: weights of torchgeo
      (:func:`~torchgeo_mapsr.models.backbones.torchgeo.torchgeo_backbone`).

    The options of each are the keyword arguments of what is named in brackets.

    Args:
        spec: The text.
        bands: Bands of the imagery.
        weights: Local weight file for the first member that takes weights.
        dtype: Data type of the imagery's file, e.g. ``uint8``: it tells how values
            scale to 0..1 where the weights expect that. None for floating point.
        seed: Seed of members that draw something and have none in their options.

    Returns:
        The backbone, frozen. Its ``spec`` includes the weight file.

    Raises:
        InputError: If the spec does not name a backbone, an option is wrong, or
            weights are missing or do not fit.
    """
    check_range('bands', bands, 1, whole=True)
    members = [
        member.with_option('seed', str(seed))
        if seed is not None and member.kind == 'rcf' and 'seed' not in member.options
        else member
        for member in parse_spec(spec)
    ]
    if weights is not None:
        takers = [i for i, m in enumerate(members) if m.kind in ('timm', 'torchgeo')]
        if not takers:
            raise InputError(f'Backbone {spec!r} takes no weight file, got {weights!r}')
        members[takers[0]] = members[takers[0]].with_option('weights', str(weights))
    backbones = [_create(member, bands, dtype) for member in members]
    if len(backbones) == 1:
        return backbones[0]
    from .concat import Concat

    return Concat(backbones)


def _create(member: Member, bands: int, dtype: str | None) -> Backbone:
    """One member; each kind is imported when it is asked for (timm takes seconds)."""
    backbone: Backbone
    if member.kind in ('rcf', 'identity') and member.name:
        raise InputError(
            f'Backbone {member.kind!r} has no name after a colon, got {str(member)!r}'
        )
    match member.kind:
        case 'rcf':
            from .rcf import RCF

            backbone = member.build(RCF, bands)
        case 'identity':
            from .identity import Identity

            backbone = member.build(Identity, bands)
        case 'timm':
            from .timm import timm_backbone

            backbone = member.build(timm_backbone, member.name, bands, dtype)
        case 'torchgeo':
            from .torchgeo import torchgeo_backbone

            backbone = member.build(torchgeo_backbone, member.name, bands)
        case _:
            raise InputError(
                f'Unknown backbone {member.kind!r}{suggest(member.kind, _names())} '
                f'(kinds: {", ".join(KINDS)}; several are joined by +)'
            )
    backbone.spec = str(member)
    return backbone.eval().requires_grad_(False)


def _names() -> list[str]:
    """Everything that a bare word may have been meant for."""
    import timm

    return ['rcf', 'identity', *(f'timm:{name}' for name in timm.list_models())]
