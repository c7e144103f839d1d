"""Group clean faces by person: average linkage on what two recognisers say of each pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from apf.check.recognisers import Recogniser
from apf.faces.alignment import Float32

#: Of two families, with known marks: whether or not they are the jury.
GROUPING = ("dlib", "apf-mfn")
#: A group's faces are on average at least as alike as this, in units of the recognisers' usual marks.
ALIKE = 1.0


def groups(crops: Sequence[Float32], recognisers: Sequence[Recogniser]) -> list[int]:
    """Return a number for each face; equal ones are taken for one person. The largest group is 0.

    Args:
        crops: clean faces, (3, 112, 112) each.
        recognisers: those with known marks.
    """
    if len(crops) < 2:
        return [0] * len(crops)
    alike = np.mean([_likeness(one, crops) for one in recognisers if one.marks], axis=0)
    far = np.maximum(alike.max() - alike, 0)
    np.fill_diagonal(far, 0)
    tree = linkage(squareform((far + far.T) / 2, checks=False), "average")
    labels = fcluster(tree, alike.max() - ALIKE, "distance").tolist()
    order = [label for label, _ in Counter(labels).most_common()]
    return [order.index(label) for label in labels]


def _likeness(recogniser: Recogniser, crops: Sequence[Float32]) -> Float32:
    found = recogniser.identities(crops)
    assert recogniser.marks  # noqa: S101  only those with marks are asked
    likeness: Float32 = found @ found.T / np.float32(recogniser.marks.usual)
    return likeness
