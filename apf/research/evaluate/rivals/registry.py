"""The rivals by name, each with a builder that is called when its row is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from apf.guides.torch_recogniser import Recogniser
from apf.research.evaluate.rivals.fawkes import fawkes
from apf.research.evaluate.rivals.lowkey import lowkey
from apf.research.evaluate.rivals.momentum import momentum_attack
from apf.research.evaluate.rivals.noise import noise, sign_noise
from apf.research.evaluate.rivals.released import released_apf
from apf.research.evaluate.rivals.released_training import train_released
from apf.research.evaluate.rivals.types import Perturb
from apf.research.train.data import Faces

Builder = Callable[[], Perturb]

#: People among whom Fawkes finds its targets.
CANDIDATES = 200


def rivals(
    surrogates: Mapping[str, Recogniser],
    *,
    probe: Callable[[], nn.Module],
    faces: Callable[[], Faces],
    run: Path,
    epsilon: float,
    seed: int,
    server: str | None = None,
    released_steps: int = 400,
) -> dict[str, Builder]:
    """Builders of the rivals' rows, by name. Nothing is loaded or trained before a builder is called.

    Args:
        surrogates: the recognisers that the ensembles attack, on one device.
        probe: gives the probe, on the same device; called at most once.
        faces: gives the faces to train on, none of a person who is measured; called at most once.
        run: folder that keeps the released APF between runs.
        server: the surrogate that the released APF is trained against, and that Fawkes takes its features from; the
            first one if not given.
        released_steps: how long the released APF trains.

    Raises:
        ValueError: there is no surrogate, or none with the server's name.
    """
    name = server or next(iter(surrogates), "")
    if name not in surrogates:
        raise ValueError(f"no surrogate named {name!r}: use one of {', '.join(surrogates) or '(there are none)'}")
    models, chosen = list(surrogates.values()), surrogates[name]
    the_probe, the_faces = cache(probe), cache(faces)

    def released() -> Perturb:
        model = train_released(the_probe(), chosen, the_faces(), steps=released_steps, seed=seed, run=run)
        return released_apf(model, the_probe(), epsilon, seed=seed)

    return {
        "noise": lambda: noise(epsilon, seed),
        "sign noise": lambda: sign_noise(epsilon, seed),
        "PGD-10 (probe)": lambda: momentum_attack(
            [the_probe()], epsilon, 10, momentum=0.0, diversity=0.0, step=epsilon / 4, seed=seed
        ),
        "released APF": released,
        "MI-DI-10": lambda: momentum_attack(models, epsilon, 10, seed=seed),
        "MI-DI-40": lambda: momentum_attack(models, epsilon, 40, seed=seed),
        "LowKey-like": lambda: lowkey(models, epsilon),
        "Fawkes-like": lambda: fawkes(chosen, one_each(the_faces(), CANDIDATES), epsilon, seed=seed),
    }


def one_each(faces: Faces, people: int) -> Tensor:
    """One photo each (N, 3, 112, 112), in [0, 1], of so many people spread evenly over the list."""
    first = [photos[0] for photos in faces.by_person().values()]
    spread = torch.linspace(0, len(first) - 1, min(people, len(first))).round().long()
    return faces.batch(torch.tensor(sorted(first))[spread])
