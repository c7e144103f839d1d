"""Train the released APF's model as its authors did: against one server model, without augmentation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from apf.research.evaluate.rivals.loop import BATCH, embed, generators, gradient_of, ready, squared_distance
from apf.research.evaluate.rivals.released import ReleasedApf, probe_noise
from apf.research.evaluate.targets import device_of
from apf.research.train.data import DataError, Faces
from apf.research.train.loop import Budget, draw, train
from apf.research.train.teachers import channels_last
from apf.stages.gradient import at_unit_size

#: The largest squared L2 distance of unit embeddings. The released code subtracts from 10, for its longer ones.
FARTHEST = 4.0
EPSILON = 8 / 255


@dataclass(frozen=True)
class _Prepared:
    """What does not change while the model trains."""

    #: (N, 3, 112, 112) float16 in units of epsilon.
    noise: Tensor
    #: (3, 112, 112) of -1 and 1.
    uap: Tensor
    #: (N, D): what the server says of the second photos.
    goals: Tensor


def train_released(
    probe: nn.Module,
    server: nn.Module,
    faces: Faces,
    *,
    steps: int,
    seed: int,
    run: Path,
    epsilon: float = EPSILON,
    learning_rate: float = 3e-4,
    batch: int = BATCH,
    photos: int = 800,
) -> ReleasedApf:
    """Return a model that turns the probe's noise into a perturbation that the server does not recognise the person in.

    The loss is relu(4 - squared L2) between the server's embeddings of the perturbed photo and of a second photo of the
    person; the released one is relu(10 - squared L2) on longer embeddings. The UAP is the sign of the mean gradient of
    that distance over the training photos. The learning rate is higher than the released 1e-4, as the steps are fewer.

    Args:
        probe: recogniser that the noise comes from, and
        server: recogniser to fool, both (B, 3, 112, 112) in [0, 1] to unit embeddings, on one device.
        faces: people with two photos or more, none of whom is measured later.
        steps: of Adam, in all; a run in `run` is resumed, and one that is done already costs nothing.
        run: folder for the noise, checkpoint and log; each set of models, faces and settings has files of its own.
        photos: how many photos the noise is made for.

    Raises:
        DataError: nobody has two photos.
    """
    ready([probe, server])
    first, second = _two_photos(faces, photos)
    kind = _digest(probe, server, faces.pixels[first], faces.pixels[second], (seed, epsilon, learning_rate, batch))
    name = f"released-{kind}"
    prepared = _prepared(probe, server, faces, first, second, epsilon=epsilon, seed=seed, file=run / f"{name}-noise.pt")
    device = device_of(server)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ReleasedApf(prepared.uap).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def step(_: int, generator: torch.Generator) -> dict[str, float]:
        index = draw(len(first), batch, generator)
        clean, noise = faces.batch(first[index]).to(device), prepared.noise[index].to(device).float()
        protected = (clean + epsilon * model(channels_last(noise))).clamp(0, 1)
        distance = squared_distance(server(channels_last(protected)), prepared.goals[index].to(device))
        loss = F.relu(FARTHEST - distance).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        return {"loss": loss.item()}

    budget = Budget(steps=steps)
    train(step, {"model": model, "optimiser": optimiser}, budget=budget, seed=seed, run=run, name=name)
    return model.eval().requires_grad_(False)


def _two_photos(faces: Faces, limit: int) -> tuple[Tensor, Tensor]:
    """Positions of photos and of a second one of the same person: all people first, then all the other way round."""
    pairs = [(photos[0], photos[1]) for photos in faces.by_person().values() if len(photos) > 1]
    if not pairs:
        raise DataError("nobody has two photos: give a folder with at least two photos of some people")
    both = (pairs + [(b, a) for a, b in pairs])[:limit]
    first, second = torch.tensor(both).T
    return first, second


def _prepared(
    probe: nn.Module,
    server: nn.Module,
    faces: Faces,
    first: Tensor,
    second: Tensor,
    *,
    epsilon: float,
    seed: int,
    file: Path,
) -> _Prepared:
    """Return the noise, UAP and goals, from the file if it is there: the probe's steps are the dear part."""
    if file.exists():
        return _Prepared(**torch.load(file))
    device = device_of(server)
    noise, goals, total = [], [], torch.zeros(3, *faces.pixels.shape[2:])
    chunks = list(zip(torch.split(first, BATCH), torch.split(second, BATCH), strict=True))
    for mine, other in tqdm(chunks, desc="released APF: noise", mininterval=5):
        x, y = faces.batch(mine).to(device), faces.batch(other).to(device)
        noise.append(probe_noise(probe, x, y, generators(x, seed), epsilon=epsilon).cpu().half())
        goals.append(embed(server, y).cpu())
        total += _away(server, x, goals[-1].to(device)).sum(0).cpu()
    kept = {"noise": torch.cat(noise), "uap": total.sign(), "goals": torch.cat(goals)}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(kept, partial)
    partial.replace(file)
    return _Prepared(**kept)


def _away(server: nn.Module, faces: Tensor, goals: Tensor) -> Tensor:
    """Each face's gradient of the distance to its second photo, at unit mean absolute value."""
    return at_unit_size(gradient_of(lambda x: squared_distance(server(channels_last(x)), goals))(faces))


def _digest(probe: nn.Module, server: nn.Module, first: Tensor, second: Tensor, settings: tuple[float, ...]) -> str:
    """12 hex digits over all that the result depends on but the number of steps."""
    digest = hashlib.sha256(repr(settings).encode())
    states = [value for model in (probe, server) for value in model.state_dict().values()]
    for tensor in (*states, first, second):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
