"""What every rival is: a function from faces to perturbations."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

#: Aligned faces (B, 3, 112, 112) float32 RGB in [0, 1] to perturbations of the same shape, on the same device. No value
#: is larger than the rival's epsilon, and a face's perturbation depends on the face and the seed, not on its batch.
Perturb = Callable[[Tensor], Tensor]
