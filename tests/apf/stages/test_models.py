"""Recognisers from ONNX files: fed as their spec says, differentiable, and refused where they are unfit."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from apf.errors import WeightsError
from apf.faces.alignment import ARCFACE_TEMPLATE, CROP, alignment
from apf.guides.torch_recogniser import InputSpec, Recogniser, load_recogniser
from apf.research.model_list import load_recognisers
from apf.research.train.probe import unfused
from apf.stages.constants import CHANNELS
from apf.stages.probe import BLOCK_DIM, BLOCKS, Probe, fused
from apf.stages.transfer_network import TransferNet

#: The ArcFace points in a larger crop with more around the face.
WIDE = tuple((float(x) * 0.8 + 40, float(y) * 0.8 + 30) for x, y in ARCFACE_TEMPLATE)


def flat_network(height: int = 8, width: int = 8) -> bytes:
    """An ONNX file whose embedding is its input, flattened: it shows what the network was fed."""
    nodes = [helper.make_node("Flatten", ["input"], ["embedding"], axis=1)]
    return _model(nodes, [], (3, height, width))


def linear_network(size: int, dim: int = 6, seed: int = 0) -> bytes:
    """An ONNX file with one matrix of random weights behind an average over 8 x 8 pixels."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(3 * (size // 8) ** 2, dim)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "weights"], ["embedding"]),
    ]
    return _model(nodes, [numpy_helper.from_array(weights, "weights")], (3, size, size))


def _model(nodes: list[Any], weights: list[Any], shape: tuple[int, int, int]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", "D"])],
        initializer=weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def written(folder: Path, data: bytes, name: str = "tiny") -> Path:
    file = folder / f"{name}.onnx"
    file.write_bytes(data)
    return file


def fed(recogniser: Recogniser, faces: Tensor) -> np.ndarray:
    """What the network of `flat_network` was given, (B, 3 * H * W), at unit length."""
    with torch.no_grad():
        return recogniser(faces).numpy()


def unit(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def photos(crops: Tensor) -> Tensor:
    return crops[:3]


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_channels_mean_and_std(tmp_path: Path, photos: Tensor, order: Any) -> None:
    """Pixels come in the model's channel order, scaled to 0..255, minus the mean, over the std, channel by channel."""
    spec = InputSpec(channel_order=order, mean=(1, 20, 300), std=(2, 50, 9))
    recogniser = load_recogniser(written(tmp_path, flat_network(CROP, CROP)), spec)
    pixels = photos.numpy().astype(np.float64)
    pixels = pixels if order == "RGB" else pixels[:, ::-1]
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
    expected = unit((pixels * 255 - mean) / std)
    np.testing.assert_allclose(fed(recogniser, photos), expected, atol=1e-6)


def test_default_is_arcface(tmp_path: Path, photos: Tensor) -> None:
    """Without a spec a model is fed as InsightFace's are: RGB from -1 to 1, no warp."""
    recogniser = load_recogniser(written(tmp_path, flat_network(CROP, CROP)))
    assert recogniser.grid is None
    np.testing.assert_allclose(fed(recogniser, photos), unit(photos.numpy() * 2 - 1), atol=1e-6)


@pytest.mark.parametrize("size", [(112, 112), (128, 128), (150, 170)])
def test_other_templates_are_warped_to(tmp_path: Path, photos: Tensor, size: tuple[int, int]) -> None:
    """A model with another template gets the face there: the same crop that OpenCV warps, to a level of 255."""
    height, width = size
    spec = InputSpec(height=height, width=width, mean=(0,), std=(255,), landmarks_xy=WIDE)
    recogniser = load_recogniser(written(tmp_path, flat_network(height, width)), spec)
    matrix = alignment(WIDE)  # the model's crop to the ArcFace crop
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pictures = photos.numpy().transpose(0, 2, 3, 1)
    warped = np.stack([cv2.warpAffine(picture, matrix, (width, height), flags=flags) for picture in pictures])
    expected = unit(warped.transpose(0, 3, 1, 2))
    # Unit vectors of 3 * H * W values of about 0.5: a level of 255 is about this much.
    level = 1 / 255 / np.sqrt(3 * CROP * CROP * 0.64 * 0.25)
    assert np.abs(fed(recogniser, photos) - expected).mean() < level
    assert np.abs(fed(recogniser, photos) - expected).max() < 8 * level


def test_landmarks_land_on_the_template(tmp_path: Path) -> None:
    """A bright spot on the left eye of the ArcFace crop is found on the left eye of the model's own template."""
    face = torch.zeros(1, 3, CROP, CROP)
    x, y = ARCFACE_TEMPLATE[0]
    rows, columns = torch.meshgrid(torch.arange(CROP), torch.arange(CROP), indexing="ij")
    face[:] = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18).float()
    spec = InputSpec(height=160, width=160, mean=(0,), std=(1,), landmarks_xy=WIDE)
    seen = fed(load_recogniser(written(tmp_path, flat_network(160, 160)), spec), face).reshape(3, 160, 160)[0]
    weights = seen / seen.sum()
    centre = (weights.sum(0) @ np.arange(160), weights.sum(1) @ np.arange(160))
    assert centre == pytest.approx(WIDE[0], abs=0.05)


def test_embeddings_are_unit_vectors(tmp_path: Path, photos: Tensor) -> None:
    """Embeddings have unit length and do not depend on the batch; no face gives no embedding."""
    recogniser = load_recogniser(written(tmp_path, linear_network(CROP)))
    with torch.no_grad():
        together = recogniser(photos)
        assert together.shape == (3, 6)
        assert torch.allclose(together.norm(dim=1), torch.ones(3))
        assert torch.allclose(together[1:2], recogniser(photos[1:2]), atol=1e-6)


def test_gradient_reaches_the_input(tmp_path: Path) -> None:
    """Autograd through warp, channel flip and network agrees with finite differences, and no weight collects any."""
    spec = InputSpec(height=48, width=48, channel_order="BGR", landmarks_xy=tuple((x / 3, y / 3) for x, y in WIDE))
    recogniser = load_recogniser(written(tmp_path, linear_network(48)), spec).double()
    torch.manual_seed(0)
    face = torch.rand(1, 3, CROP, CROP, dtype=torch.float64)
    direction = torch.randn_like(face)
    x = face.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(recogniser(x)[0, 0], x)
    with torch.no_grad():
        slope = (recogniser(face + 1e-5 * direction) - recogniser(face - 1e-5 * direction))[0, 0].item() / 2e-5
    assert float((found * direction).sum()) == pytest.approx(slope, rel=1e-4)
    assert not any(parameter.requires_grad for parameter in recogniser.parameters())


def test_slices(tmp_path: Path, photos: Tensor) -> None:
    """A network with a Slice node runs without a warning, and cuts what the node says."""
    bounds = {"starts": [-50, 3], "ends": [-10, 60], "axes": [2, 3]}
    weights = [numpy_helper.from_array(np.array(values), name) for name, values in bounds.items()]
    nodes = [
        helper.make_node("Slice", ["input", *bounds], ["part"]),
        helper.make_node("Flatten", ["part"], ["embedding"], axis=1),
    ]
    recogniser = load_recogniser(written(tmp_path, _model(nodes, weights, (3, CROP, CROP))))
    expected = unit(photos.numpy()[:, :, -50:-10, 3:60] * 2 - 1)
    np.testing.assert_allclose(fed(recogniser, photos), expected, atol=1e-6)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is a WeightsError that names it."""
    with pytest.raises(WeightsError, match=r"nowhere\.onnx cannot be read"):
        load_recogniser(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("damage", ["empty", "no protobuf", "cut"])
def test_damaged_file(tmp_path: Path, damage: str) -> None:
    """Bytes that are no whole ONNX model are a WeightsError."""
    whole = linear_network(CROP)
    data = {"empty": b"", "no protobuf": b"\xff" * 100, "cut": whole[: len(whole) // 2]}[damage]
    with pytest.raises(WeightsError, match="does not convert"):
        load_recogniser(written(tmp_path, data))


def test_sha256_is_checked(tmp_path: Path) -> None:
    """A file that is not the one meant is refused; the right one loads."""
    data = flat_network(CROP, CROP)
    file = written(tmp_path, data)
    load_recogniser(file, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(WeightsError, match="fetch it again"):
        load_recogniser(file, sha256="0" * 64)


def test_another_input_than_the_spec_s(tmp_path: Path) -> None:
    """A network of another input size is refused when it is loaded, with what to change, not in the midst of a run."""
    file = written(tmp_path, linear_network(CROP - 16))
    with pytest.raises(WeightsError, match=r"does not take faces as its spec says.*models\.json"):
        load_recogniser(file)
    load_recogniser(file, InputSpec(height=CROP - 16, width=CROP - 16))


def test_embeddings_that_are_no_numbers(tmp_path: Path) -> None:
    """A network, or a spec, that makes no finite embedding of a grey face is refused by value."""
    with pytest.raises(WeightsError, match="embeds a grey face as nan"):
        load_recogniser(written(tmp_path, flat_network(CROP, CROP)), InputSpec(std=(0.0,)))


def listed(folder: Path, **roles: str) -> None:
    """A folder of recognisers by name and role, with its models.json."""
    index = {}
    for seed, (name, role) in enumerate(roles.items()):
        data = linear_network(CROP, seed=seed)
        written(folder, data, name)
        index[name] = {"role": role, "input": {}, "sha256": hashlib.sha256(data).hexdigest(), "licence": "CC0"}
    (folder / "models.json").write_text(json.dumps(index))


def test_folder_by_role(tmp_path: Path) -> None:
    """A folder gives all its recognisers, or those of one role without opening the files of another."""
    listed(tmp_path, a="train", b="validate", c="train")
    assert sorted(load_recognisers(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "b.onnx").unlink()
    assert sorted(load_recognisers(tmp_path, role="train")) == ["a", "c"]


@pytest.mark.parametrize(
    "index",
    [None, "{", "[]", '{"a": 1}', '{"a": {"role": "test", "input": {}, "sha256": ""}}'],
    ids=["missing", "no JSON", "no object", "no entry", "unknown role"],
)
def test_unfit_lists(tmp_path: Path, index: str | None) -> None:
    """A missing or malformed models.json is a WeightsError that names it."""
    if index is not None:
        (tmp_path / "models.json").write_text(index)
    with pytest.raises(WeightsError, match=r"models\.json"):
        load_recognisers(tmp_path)


def test_real_recognisers(shared_models: Path, photos: Tensor) -> None:
    """The real recognisers load as listed, tell a face from another, and pass a gradient to it."""
    known = load_recognisers(shared_models, role="train")
    assert len(known) >= 5
    for name, recogniser in known.items():
        x = photos[:2].clone().requires_grad_(True)
        embeddings = recogniser(x)
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(2), atol=1e-5), name
        (found,) = torch.autograd.grad(embeddings[0].sum(), x)
        assert found[0].abs().max() > 0, name
        assert found[1].abs().max() == 0, f"{name} mixes the faces of a batch"


def test_probe_is_small_and_made_of_unit_blocks(photos: Tensor) -> None:
    """The probe has about a million parameters; its embedding and each of its blocks have unit length."""
    probe = Probe().eval()
    with torch.no_grad():
        blocks, embeddings = probe.blocks(photos), probe(photos)
    assert blocks.shape == (3, BLOCKS, BLOCK_DIM) and embeddings.shape == (3, BLOCKS * BLOCK_DIM)
    assert torch.allclose(blocks.norm(dim=2), torch.ones(3, BLOCKS))
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3))
    assert 0.9e6 < sum(parameter.numel() for parameter in probe.parameters()) < 1.1e6


def test_probe_s_cosine_is_the_mean_of_its_blocks(photos: Tensor) -> None:
    """Two faces are as alike as the probe's imitated recognisers say on average, none with more say than another."""
    probe = Probe().eval()
    with torch.no_grad():
        blocks, embeddings = probe.blocks(photos), probe(photos)
    each = (blocks[0] * blocks[1]).sum(-1)
    assert (embeddings[0] @ embeddings[1]).item() == pytest.approx(each.mean().item(), abs=1e-6)


def test_probe_passes_a_gradient_to_each_face_alone(photos: Tensor) -> None:
    """In eval mode a face's embedding says nothing of its batch mates, and its gradient reaches nearly every pixel."""
    x = photos.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(Probe().eval()(x)[0].square().mul(torch.arange(BLOCKS * BLOCK_DIM)).sum(), x)
    assert (found[0] != 0).float().mean() > 0.99
    assert not found[1:].any()


def test_probe_answers_in_float32_under_half_precision(photos: Tensor) -> None:
    """Under bfloat16 autocast, as in training, the unit vectors are float32 and near to those of full precision."""
    probe = Probe().eval()
    with torch.no_grad():
        exact = probe.blocks(photos)
        with torch.autocast("cpu", torch.bfloat16):
            rough = probe.blocks(photos)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough.norm(dim=2), torch.ones(3, BLOCKS))
    assert (rough * exact).sum(-1).min() > 0.99


def woken(channels: int) -> TransferNet:
    """A network as after some training: its last layer, which begins at zero, has weights."""
    torch.manual_seed(0)
    network = TransferNet(channels)
    torch.nn.init.normal_(network.last.weight, std=0.1)
    return network.requires_grad_(False)


def test_transfer_network_is_a_unet() -> None:
    """The network has about 0.9 M parameters, no layer that mixes faces, and every input pixel can matter."""
    network = woken(CHANNELS)
    assert 0.8e6 < sum(parameter.numel() for parameter in network.parameters()) < 1e6
    assert not any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    torch.nn.init.zeros_(network.straight.weight)  # through the U alone
    x = torch.randn(2, CHANNELS, CROP, CROP, requires_grad=True)
    (found,) = torch.autograd.grad(network(x)[0].sum(), x)
    assert (found[0] != 0).float().mean() > 0.99
    assert not found[1].any()


@pytest.mark.parametrize("channels", [3, 6, 7, 12])
def test_untrained_network_passes_the_first_colours_on(channels: int) -> None:
    """Before training, red, green and blue of the perturbation reached come out as they went in, whatever follows."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, CROP, CROP)
    with torch.no_grad():
        assert torch.equal(TransferNet(channels)(x), x[:, :3])


@pytest.mark.parametrize("order", [(3, 4, 5, 0, 1, 2), (2, 1, 0, 3, 4, 5), (5, 0, 3, 1, 4, 2)], ids=str)
def test_order_of_channels_counts(order: tuple[int, ...]) -> None:
    """The perturbation comes first, in RGB: another order is another answer, before training and after."""
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, CROP, CROP)
    shuffled = x[:, list(order)]
    assert torch.equal(TransferNet(CHANNELS)(shuffled), shuffled[:, :3])
    network = woken(CHANNELS)
    network.straight.weight.zero_()
    assert not torch.allclose(network(x), network(shuffled), atol=1e-3)


@pytest.mark.parametrize("place", [(0, 0), (40, 41), (41, 40), (111, 111)], ids=str)
def test_answer_lies_where_the_question_was(place: tuple[int, int]) -> None:
    """Half the resolution shifts nothing: a changed pixel changes the answer about itself, most of all nearby."""
    row, column = place
    network = woken(CHANNELS)
    network.straight.weight.zero_()
    x = torch.zeros(1, CHANNELS, CROP, CROP)
    spot = x.clone()
    spot[:, :, row, column] = 5
    changed = (network(spot) - network(x)).abs().sum((0, 1))  # (112, 112)
    rows, columns = torch.meshgrid(torch.arange(CROP), torch.arange(CROP), indexing="ij")
    near = ((rows - row).abs() <= 16) & ((columns - column).abs() <= 16)
    assert changed[near].mean() > 5 * changed[~near].mean()
    assert near.flatten()[changed.argmax()]


def test_zeroed_last_layer_can_learn() -> None:
    """The layer that begins at zero has a gradient, so training leaves the start; layers before it follow then."""
    network = TransferNet(CHANNELS)
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, CROP, CROP)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.autograd.backward(network(x).square().mean())
    first = network.stem[0].weight
    assert network.last.weight.grad is not None and network.last.weight.grad.any()
    assert first.grad is not None and not first.grad.any()
    optimiser.step()
    optimiser.zero_grad()
    torch.autograd.backward(network(x).square().mean())
    assert first.grad is not None and first.grad.any()


def trained_probe() -> Probe:
    """A probe whose BatchNorms do something."""
    torch.manual_seed(3)
    probe = Probe()
    for part in probe.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    return probe.eval().requires_grad_(False)


def test_unfused_probe_is_the_same_function() -> None:
    """A fused probe can be written as one with BatchNorm, which fuses to the same again."""
    quick = fused(trained_probe())
    again = unfused(quick)
    assert again.state_dict().keys() == Probe().state_dict().keys() and not again.training
    faces = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.allclose(again(faces), quick(faces), atol=1e-5)
        assert torch.allclose(fused(again)(faces), quick(faces), atol=1e-6)


def test_fused_probe_is_the_same_function() -> None:
    """Folding BatchNorm into the convolutions moves embeddings and gradients by rounding alone."""
    plain = trained_probe()
    quick = fused(copy.deepcopy(plain))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in quick.modules())
    faces = torch.rand(2, 3, 112, 112, requires_grad=True)
    wanted, found = plain(faces), quick(faces)
    assert torch.allclose(wanted, found, atol=1e-5)
    direction = torch.randn_like(wanted)
    slopes = [torch.autograd.grad((embedding * direction).sum(), faces)[0] for embedding in (wanted, found)]
    assert torch.allclose(*slopes, atol=1e-4 * float(slopes[0].abs().max()))
