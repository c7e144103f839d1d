"""`python -m apf.research.train probe | universal | road | transfer | joint | all`, and `guide`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apf.errors import ApfError
from apf.guides.catalogue import OWN
from apf.research.export_probe import export as export_probe
from apf.research.export_transfer import export as export_transfer
from apf.research.train import together
from apf.research.train.attack import Ensemble
from apf.research.train.data import DataError, Faces, load_split
from apf.research.train.guide_command import learn as learn_guide
from apf.research.train.joint import Modules, tune
from apf.research.train.loop import Budget
from apf.research.train.probe import Targets, distil, follow, harden, unfused
from apf.research.train.teachers import check_device, embed, embeddings, load_teachers
from apf.research.train.transfer import learn
from apf.research.train.universal import UniversalPerturbation, optimise
from apf.research.train.verification import verification
from apf.stages.constants import CHANNELS
from apf.stages.probe import Probe, fused
from apf.stages.transfer_network import TransferNet
from apf.stages.universal import bounded
from apf.weight_files import write_sums

app = typer.Typer(help="Train the three modules.", no_args_is_help=True, add_completion=False)

FacesPath = Annotated[Path, typer.Option("--faces", help="Tar file or folder of PERSON/PICTURE.jpg, 112x112 aligned.")]
ModelsPath = Annotated[Path, typer.Option("--models", help="Folder of ONNX recognisers with models.json.")]
Out = Annotated[Path, typer.Option(help="Where the safetensors go.")]
Run = Annotated[Path, typer.Option(help="Checkpoints, logs and cached embeddings; a broken-off run goes on from here.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same run.")]
Steps = Annotated[int, typer.Option(help="Steps of the training.")]
Minutes = Annotated[float, typer.Option(help="Break off after so many minutes; the same command goes on.")]
Paced = Annotated[
    bool,
    typer.Option("--paced", help="Be done when the minutes, of all runs together, are up: fit the course to them."),
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
GoOn = Annotated[bool, typer.Option("--go-on", help="Go on from what `out` holds, at lower learning rates.")]

FACES, MODELS, OUT, RUN = (
    Path("../shared/faces/lfw112.tar"),
    Path("../shared/face_models"),
    Path("apf/weights"),
    Path("runs"),
)

P = ParamSpec("P")
Module = TypeVar("Module", bound=nn.Module)


def _errors_end_the_command(command: Callable[P, None]) -> Callable[P, None]:
    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ApfError, DataError) as error:
            typer.echo(f"apf.research.train: {error}", err=True)
            raise typer.Exit(2) from error

    return guarded


@dataclass
class Workshop:
    """What every training needs: faces to train on, teachers, and what they say of the clean faces."""

    faces: Faces
    held_out: Faces
    ensemble: Ensemble

    @classmethod
    def open(cls, faces: Path, models: Path, run: Path, device: str) -> Workshop:
        check_device(device)
        train, held_out = load_split(faces, held_out_people=2)
        teachers = load_teachers(models, device=device)
        clean = embeddings(teachers, train, run / "embeddings", device=device)
        return cls(train, held_out, Ensemble(teachers, clean))


@app.command()
@_errors_end_the_command
def probe(
    faces: FacesPath = FACES, models: ModelsPath = MODELS, out: Out = OUT, run: Run = RUN, seed: Seed = 0,
    steps: Steps = 1100,
    hard_steps: Annotated[int, typer.Option(help="Steps of the second course, on faces perturbed against it.")] = 1300,
    minutes: Minutes = float("inf"), device: Device = "cpu",
) -> None:  # fmt: skip
    """Distil the probe from the teachers, and tell its verification accuracy on people that it never saw."""
    shop = Workshop.open(faces, models, run, device)
    targets = Targets.of(shop.ensemble.teachers, shop.ensemble.clean)
    budget = Budget(steps=steps, minutes=minutes)
    found = distil(shop.faces, targets, budget=budget, seed=seed, run=run, device=device)
    budget = Budget(steps=hard_steps, minutes=minutes)
    found = harden(found, shop.faces, targets, budget=budget, seed=seed, run=run, device=device)
    _save(out / "probe.safetensors", found.state_dict())
    _tell_verification(found, shop, device)


@app.command("road")
@_errors_end_the_command
def road_command(
    faces: FacesPath = FACES, models: ModelsPath = MODELS, out: Out = OUT, run: Run = RUN, seed: Seed = 0,
    steps: Steps = 800, minutes: Minutes = float("inf"), device: Device = "cpu",
) -> None:  # fmt: skip
    """Third course of the probe that `out` holds: along the filter's steps from the universal perturbation there."""
    shop = Workshop.open(faces, models, run, device)
    targets = Targets.of(shop.ensemble.teachers, shop.ensemble.clean)
    known = _restored(Probe(), out, "probe").to(device)
    with torch.no_grad():
        start = bounded([_restored(UniversalPerturbation(), out, "universal")(1)])[0]
    budget = Budget(steps=steps, minutes=minutes)
    found = follow(known, start, shop.faces, targets, budget=budget, seed=seed, run=run, device=device)
    _save(out / "probe.safetensors", found.state_dict())
    _tell_verification(found, shop, device)


@app.command("universal")
@_errors_end_the_command
def universal_command(
    faces: FacesPath = FACES, models: ModelsPath = MODELS, out: Out = OUT, run: Run = RUN, seed: Seed = 0,
    steps: Steps = 360, minutes: Minutes = float("inf"), device: Device = "cpu", go_on: GoOn = False,
) -> None:  # fmt: skip
    """Optimise the universal perturbation."""
    shop = Workshop.open(faces, models, run, device)
    budget = Budget(steps=steps, minutes=minutes)
    begun = _restored(UniversalPerturbation(), out, "universal") if go_on else None
    found = optimise(shop.faces, shop.ensemble, budget=budget, seed=seed, run=run, device=device, begun=begun)
    _save(out / "universal.safetensors", found.state_dict())


@app.command("transfer")
@_errors_end_the_command
def transfer_command(
    faces: FacesPath = FACES, models: ModelsPath = MODELS, out: Out = OUT, run: Run = RUN, seed: Seed = 0,
    steps: Steps = 1650, minutes: Minutes = float("inf"), device: Device = "cpu", go_on: GoOn = False,
) -> None:  # fmt: skip
    """Train the transfer network, and the universal perturbation along with it, from the probe that `out` holds."""
    shop = Workshop.open(faces, models, run, device)
    known = fused(_restored(Probe(), out, "probe").to(device).eval()).requires_grad_(False)
    uap = _restored(UniversalPerturbation(), out, "universal").to(device)
    begun = _restored(TransferNet(CHANNELS), out, "transfer") if go_on else None
    budget = Budget(steps=steps, minutes=minutes)
    network = learn(
        shop.faces, shop.ensemble, known, uap, budget=budget, seed=seed, run=run, device=device, begun=begun
    )
    _save(out / "transfer.safetensors", network.state_dict())
    _save(out / "universal.safetensors", uap.state_dict())


@app.command("joint")
@_errors_end_the_command
def joint_command(
    faces: FacesPath = FACES, models: ModelsPath = MODELS, out: Out = OUT, run: Run = RUN, seed: Seed = 0,
    steps: Steps = 3000, minutes: Minutes = float("inf"), paced: Paced = False, device: Device = "cpu",
) -> None:  # fmt: skip
    """Train the three modules that `out` holds on together, through the steps on the probe.

    `torchrun --nproc-per-node 2 -m apf.research.train joint` trains by two processes.
    """
    together.begin()
    shop = Workshop.open(faces, models, run, device)
    wanted = Targets.of(shop.ensemble.teachers, shop.ensemble.clean).clean
    modules = Modules(
        fused(_restored(Probe(), out, "probe").eval()),
        _restored(TransferNet(CHANNELS), out, "transfer"),
        _restored(UniversalPerturbation(), out, "universal"),
    )
    budget = Budget(steps=steps, minutes=minutes, paced=paced)
    tune(shop.faces, shop.ensemble, wanted, modules, budget=budget, seed=seed, run=run, device=device)
    if together.rank():
        return
    known = unfused(modules.probe)
    for name, module in (("probe", known), ("transfer", modules.network), ("universal", modules.uap)):
        _save(out / f"{name}.safetensors", module.state_dict())
    _tell_verification(known, shop, device)


@app.command("guide")
@_errors_end_the_command
def guide_command(
    teacher: Annotated[str, typer.Option(help="The recogniser to imitate, a name of models.json.")],
    name: Annotated[str, typer.Option(help="Ship it in `out` under this name, apf-...; nothing ships without.")] = "",
    faces: FacesPath = FACES, models: ModelsPath = MODELS, out: Out = OUT, run: Run = RUN, seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Steps in which every stage learns alone.")] = 350,
    joined_steps: Annotated[int, typer.Option(help="Steps of the stages together.")] = 500,
    slope_steps: Annotated[int, typer.Option(help="Steps on the teacher's gradients.")] = 300,
    minutes: Minutes = float("inf"),
) -> None:  # fmt: skip
    """Distil a guide of our own from one recogniser, stage by stage; judge it by `python -m
    apf.research.evaluate.guide`.
    """
    if name and not name.startswith(OWN):
        raise DataError(f"guides that ship are called {OWN}..., not {name!r}")
    courses = (steps, joined_steps, slope_steps)
    path = learn_guide(faces, models / f"{teacher}.onnx", run / teacher, seed=seed, steps=courses, minutes=minutes)
    if name:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.onnx").write_bytes(path.read_bytes())
        write_sums(out)
        path = out / f"{name}.onnx"
    typer.echo(f"wrote {path}", err=True)


@app.command("all")
@_errors_end_the_command
def all_three(
    faces: FacesPath = FACES, models: ModelsPath = MODELS, out: Out = OUT, run: Run = RUN, seed: Seed = 0,
    device: Device = "cpu",
) -> None:  # fmt: skip
    """Probe, universal, road, transfer and joint, one after the other. Give it a --run and an --out of its own."""
    for command in (probe, universal_command, road_command, transfer_command, joint_command):
        command(faces=faces, models=models, out=out, run=run, seed=seed, device=device)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    # Each network's ONNX names the digest of all weights, whichever of them is new.
    for name, export in (("probe", export_probe), ("transfer", export_transfer)):
        if (path.parent / f"{name}.safetensors").exists():
            export(path.parent)
    write_sums(path.parent)
    typer.echo(f"wrote {path}", err=True)


def _tell_verification(probe: Probe, shop: Workshop, device: str) -> None:
    rates = verification(embed(probe, shop.held_out, name="held out", device=device), shop.held_out.people)
    typer.echo(json.dumps({"probe": {name: round(rate, 4) for name, rate in rates.items()}}))


def _restored(module: Module, folder: Path, stem: str) -> Module:
    """Return the module with the weights of `folder/stem.safetensors`, which the command of that name makes."""
    path, cure = folder / f"{stem}.safetensors", f"run `python -m apf.research.train {stem}`"
    if not path.exists():
        raise DataError(f"{path} is missing: {cure} first")
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} does not fit ({error}): {cure} again") from error
    return module


if __name__ == "__main__":
    torch.manual_seed(0)
    app()
