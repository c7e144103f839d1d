"""Names of the stages, and hyperparameters of the gradient stage. Without torch."""

from __future__ import annotations

from typing import Literal

#: Steps on the probe; each costs a forward and a backward pass of it.
STEPS = 8
#: Values of the mean size take tanh(2) = 0.96 of a whole step.
SOFTNESS = 2.0
#: All steps together could reach this many times the bound.
REACH = 4.0
#: Spread of each step's affine map: a perturbation must not hang on one exact alignment.
AFFINE_STD = 0.04
#: The perturbation reached, and the momentum that it would go on with: three colour channels each.
CHANNELS = 6
#: Size of the start where no universal perturbation is given, in units of epsilon, and the side of its cells.
START, CELL = 0.5, 8
#: The least mean size that is divided by.
TINY = 1e-20

Stage = Literal["gradient", "transfer", "universal"]
