# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Verbs of the command line, one a file: their options, and what they do.

The file of a verb is imported when the verb is asked for, and what it needs when it runs:
torch takes seconds, and ``--help`` and a mistyped option should not.
"""

#: What each verb does, in the order of ``--help``. Each has a file of its name, with what
#: its own ``--help`` says, ``DESCRIPTION`` and ``EXAMPLES``; ``add_options``, which adds its
#: options to a parser; and ``run``, which does what was parsed and returns the exit code.
VERBS = {
    'map': 'make a land-cover map from imagery and coarse labels',
    'export': 'polygons, styles and a STAC item of a map',
    'demo': 'make a small scene, map it and evaluate the map',
    'evaluate': 'compare maps with high-resolution labels, or with the coarse ones',
    'sample': 'draw reference points from a map, to be labelled in a GIS',
    'area': 'areas and accuracies with confidence intervals, from labelled points',
    'change': 'find change between two dates, from maps, their scores or imagery',
    'report': 'make one HTML page of a run: map, imagery, figures, class weights',
    'postprocess': 'weigh the classes of a map anew, dissolve patches below a mapping unit',
    'statistics': 'measure what coarse classes hold, for label super-resolution',
    'low2high': 'choose the chips of Low2High from Chesapeake tiles',
    'select': 'select patches of predicted maps that have minority classes',
}

__all__ = ('VERBS',)
