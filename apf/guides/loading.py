"""Guides by name: those that are known, ONNX files, and InsightFace packs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from pydantic import ValidationError

from apf.errors import GuideError, WeightsError
from apf.extras import extra_for, need
from apf.guides.catalogue import DLIB, FETCHED, PACKS, Known, fetched_path, own_names, own_path, pack_folder
from apf.guides.dlib_file import read_dlib
from apf.guides.guide import Guide, ProbeGuide, RuntimeGuide, Source
from apf.guides.input_spec import InputSpec
from apf.runtime.onnx_check import checked, read_onnx
from apf.weight_files import check_file

#: Cosine, from the centre, at a false accept rate of 1e-2 among 1,200 people of LFW (0.64 at 1e-3).
DLIB_THRESHOLD = 0.48
#: A pack's recogniser is the one whose input has this many rows and columns; its detector's and others' differ.
PACK_SIDE = 112


def load_guide(name: str, device: str = "cpu") -> Guide:
    """Return a guide that is ready to climb on.

    Args:
        name: "dlib", "probe", one that ships ("apf-..."), "sface" (once it was pulled), an ONNX file, or an
            InsightFace pack by name or folder. An ONNX file is fed as NAME.json beside it says, or its entry in
            models.json beside it; without these as InsightFace's ArcFace models are.
        device: as torch names them; a CPU needs no torch.

    Raises:
        GuideError: it is unknown, missing, damaged, or (UnsupportedGuide) holds operations that are not known.
    """
    need(extra_for(device), f"guide {name!r} on device {device!r}")
    if device == "cpu":
        return ProbeGuide() if name == "probe" else RuntimeGuide(find_source(name))
    from apf.guides.torch_guide import torch_guide, torch_probe  # noqa: PLC0415  a CPU does without torch

    return torch_probe(device) if name == "probe" else torch_guide(find_source(name), device)


def find_source(name: str) -> Source:
    """Return the network of a guide by its name, all but the probe's."""
    if name == DLIB.name:
        centre = np.load(Path(__file__).with_name("dlib_centre.npy"))
        spec = InputSpec.model_validate(DLIB.spec)
        return Source(name, DLIB.sha256, read_dlib(), spec, centre, DLIB_THRESHOLD)
    if path := own_path(name):
        return _own(name, path)
    if name in FETCHED:
        return _fetched(FETCHED[name])
    if name.endswith(".onnx"):
        return _file(Path(name).expanduser())
    if folder := pack_folder(name):
        return _pack(folder)
    raise GuideError(
        f"no guide named {name!r}: use one of {', '.join(['dlib', 'probe', *own_names(), *FETCHED])}, an ONNX file "
        f"(a path that ends in .onnx), or an InsightFace pack (its folder, or its name in {PACKS})"
    )


def _own(name: str, path: Path) -> Source:
    try:
        check_file(path.parent, path.name)
    except WeightsError as error:
        raise GuideError(f"guide {name!r}: {error}") from error
    data = path.read_bytes()
    model = _parsed(path, data)
    said = {entry.key: entry.value for entry in model.metadata_props}
    return Source(name, hashlib.sha256(data).hexdigest(), model, InputSpec.model_validate_json(said["spec"]))


def _fetched(known: Known) -> Source:
    path = fetched_path(known)
    if not path.exists():
        raise GuideError(f"guide {known.name!r} is not here yet: fetch it with `apf guides pull {known.name}`")
    data = _read(path)
    if (digest := hashlib.sha256(data).hexdigest()) != known.sha256:
        raise GuideError(
            f"{path} has SHA-256 {digest}, not {known.sha256}: delete it, and `apf guides pull {known.name}` again"
        )
    return Source(known.name, digest, _parsed(path, data), InputSpec.model_validate(known.spec))


def _file(path: Path) -> Source:
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    return Source(path.stem, digest, _parsed(path, data), _spec(path, digest))


def _read(path: Path) -> bytes:
    try:
        return read_onnx(path)
    except OSError as error:
        raise GuideError(f"guide {path} cannot be read ({error.strerror}): name an ONNX file that is there") from error
    except ValueError as error:
        raise GuideError(f"guide {path} is not taken: {error}") from error


def _parsed(path: Path, data: bytes) -> onnx.ModelProto:
    try:
        model = checked(data)
    except Exception as error:  # onnx raises anything on what is none
        raise GuideError(f"guide {path} is no whole ONNX file, or one that is not taken: {error}") from error
    return _widened(model)


def _widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same network with weights that it keeps in half precision as it computes with them."""
    narrow = {one.name: one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT16}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in narrow]
    for node in casts:
        wide = numpy_helper.to_array(narrow[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(wide, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    kept = [one for one in model.graph.initializer if one.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _spec(path: Path, digest: str) -> InputSpec:
    """Return what lies beside the file about it: NAME.json, or an entry of models.json."""
    own, listed = path.with_suffix(".json"), path.with_name("models.json")
    try:
        if own.exists():
            found = json.loads(own.read_bytes())
            return InputSpec.model_validate(found.get("input", found))
        entry = json.loads(listed.read_bytes()).get(path.stem) if listed.exists() else None
        if entry is None:
            return InputSpec()
        if entry.get("sha256", digest) != digest:
            raise GuideError(f"guide {path} has SHA-256 {digest}, and {listed} says {entry['sha256']}: fetch it again")
        return InputSpec.model_validate(entry["input"])
    except (OSError, ValueError, ValidationError, LookupError, AttributeError) as error:
        which = own if own.exists() else listed
        raise GuideError(f"{which} does not say how guide {path.stem!r} is fed: {error}") from error


def _pack(folder: Path) -> Source:
    """Return the recogniser of an InsightFace pack: the file with a face of 112 pixels to a side, and one vector."""
    found = []
    for path in sorted(folder.glob("*.onnx")):
        data = _read(path)
        model = _parsed(path, data)
        weights = {tensor.name for tensor in model.graph.initializer}
        given = [value for value in model.graph.input if value.name not in weights]
        sides = [side.dim_value for side in given[0].type.tensor_type.shape.dim][1:] if len(given) == 1 else []
        if sides == [3, PACK_SIDE, PACK_SIDE] and len(model.graph.output) == 1:
            found.append(Source(path.stem, hashlib.sha256(data).hexdigest(), model, _pack_spec(model)))
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise GuideError(f"{folder} holds not one recogniser of {PACK_SIDE} pixels, but {names}: name an ONNX file")
    return found[0]


def _pack_spec(model: onnx.ModelProto) -> InputSpec:
    """As InsightFace feeds its own: networks that begin by a shift and a scale take 0..255, others -1..1."""
    first = {node.op_type for node in list(model.graph.node)[:8]}
    return InputSpec(mean=(0.0,), std=(1.0,)) if {"Sub", "Mul"} <= first else InputSpec()
