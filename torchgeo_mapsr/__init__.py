# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Land-cover map super-resolution for torchgeo."""

from lazy_loader import attach_stub

from .offline import heed_variable

__version__ = '0.2.0.dev0'

heed_variable()

# `__init__.pyi` says where each public name lives. torch and torchgeo take seconds to
# import, so that it happens when a name is asked for: `torchgeo-mapsr --help` asks for
# none.
__getattr__, _, __all__ = attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    """Public names, whether they are imported yet or not, and what else is here."""
    return sorted({*globals(), *__all__})
