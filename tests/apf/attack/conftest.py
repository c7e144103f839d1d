"""A real face with real recognisers: scikit-image's astronaut, dlib's network and the project's probe."""

from __future__ import annotations

import numpy as np
import pytest

from apf.faces.alignment import alignment
from apf.guides import Guide, load_guide

#: As the detector finds them in the astronaut.
LANDMARKS = ((203.15, 101.68), (247.01, 104.51), (223.26, 125.08), (203.38, 142.33), (241.33, 144.42))


@pytest.fixture(scope="session")
def dlib() -> Guide:
    return load_guide("dlib")


@pytest.fixture(scope="session")
def probe() -> Guide:
    return load_guide("probe")


@pytest.fixture(scope="session")
def matrix() -> np.ndarray:
    """Where the astronaut's face is."""
    return alignment(LANDMARKS)
