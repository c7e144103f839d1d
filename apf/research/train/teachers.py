"""The recognisers that training attacks and imitates, and what they say of the clean faces."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from apf.errors import WeightsError
from apf.guides.torch_recogniser import Recogniser
from apf.research.model_list import load_recognisers
from apf.research.train.data import DataError, Faces


def load_teachers(folder: Path, *, device: str = "cpu") -> dict[str, Recogniser]:
    """Return the recognisers of role `train`, sorted by name; no other role is ever trained against."""
    teachers = load_recognisers(folder, role="train")
    if not teachers:
        raise WeightsError(f"no recogniser of role 'train' in {folder}/models.json: name another folder with --models")
    return {name: teachers[name].to(device).to(memory_format=torch.channels_last) for name in sorted(teachers)}


@torch.no_grad()
def embed(recogniser: nn.Module, faces: Faces, *, name: str = "", device: str = "cpu", batch: int = 32) -> Tensor:
    """Return unit embeddings (N, D) of all faces, on the CPU."""
    steps = tqdm(torch.split(torch.arange(len(faces)), batch), desc=f"embed {name}", mininterval=5)
    return torch.cat([recogniser(channels_last(faces.batch(index).to(device))).float().cpu() for index in steps])


def half_precision(device: str | torch.device) -> torch.autocast:
    """Convolutions in bfloat16: half the time of a training step on GPUs and on recent server CPUs."""
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def embeddings(teachers: dict[str, Recogniser], faces: Faces, cache: Path, *, device: str = "cpu") -> dict[str, Tensor]:
    """Every teacher's embeddings of the faces, kept in the folder `cache` between runs; in bfloat16, as training has
    them.
    """
    with half_precision(device):
        return {
            name: kept_embeddings(teacher, faces, cache / f"{name}-{teacher.key[:12]}.pt", name=name, device=device)
            for name, teacher in teachers.items()
        }


def kept_embeddings(
    recogniser: Recogniser, faces: Faces, file: Path | None, *, name: str = "", device: str = "cpu"
) -> Tensor:
    """Return unit embeddings (N, D) of all faces: the file's if it holds those of these very faces."""
    pixels = faces.pixels.sum((1, 2, 3), dtype=torch.int64)  # (N,): tells one set of faces from another
    kept = torch.load(file) if file and file.exists() else None
    if kept is not None and kept["people"] == faces.people and torch.equal(kept["pixels"], pixels):
        embeddings: Tensor = kept["embeddings"]
        return embeddings
    embeddings = embed(recogniser, faces, name=name, device=device)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        torch.save({"people": faces.people, "pixels": pixels, "embeddings": embeddings}, partial)
        partial.replace(file)
    return embeddings


def check_device(device: str) -> None:
    """Raise DataError where torch has no such device."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise DataError(f"no device {device!r} here ({str(error).splitlines()[0]}): use --device cpu") from error


def channels_last(x: Tensor) -> Tensor:
    """Return the same tensor in the memory layout that convolutions on the CPU like (a third quicker)."""
    return x.contiguous(memory_format=torch.channels_last)
