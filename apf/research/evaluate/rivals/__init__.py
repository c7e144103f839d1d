"""Other people's ways to protect a face, for comparison. `rivals` lists them by name."""

from apf.research.evaluate.rivals.fawkes import fawkes
from apf.research.evaluate.rivals.lowkey import lowkey
from apf.research.evaluate.rivals.momentum import momentum_attack
from apf.research.evaluate.rivals.noise import noise, sign_noise
from apf.research.evaluate.rivals.registry import Builder, rivals
from apf.research.evaluate.rivals.released import ReleasedApf, released_apf
from apf.research.evaluate.rivals.released_training import train_released
from apf.research.evaluate.rivals.types import Perturb

__all__ = [
    "Builder",
    "Perturb",
    "ReleasedApf",
    "fawkes",
    "lowkey",
    "momentum_attack",
    "noise",
    "released_apf",
    "rivals",
    "sign_noise",
    "train_released",
]
