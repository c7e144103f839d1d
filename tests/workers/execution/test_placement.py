"""Where the engines' filters run, and in what precision; what a full GPU means for a photo."""

from __future__ import annotations

import pytest

from apf.errors import DeviceMemoryError
from apf.filters.torch_filter import Filter
from apf.recipe import Recipe, load_recipe
from workers.config.settings import Settings, load_settings
from workers.errors import SettingsError
from workers.execution import engine as engine_module
from workers.execution.engine import placement
from workers.execution.load_engine import load_engine
from workers.execution.shard_pipeline import explain


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "auto", "float32"),
        ("cpu", "bfloat16", "float32"),
        ("cuda", "auto", "auto"),
        ("cuda:1", "bfloat16", "bfloat16"),
        ("cuda", "float32", "float32"),
    ],
)
def test_only_a_gpu_computes_less_exactly(device: str, precision: str, expected: str) -> None:
    """APF_PRECISION is for GPUs; a worker on a CPU computes in float32 whatever it says."""
    settings = Settings.model_validate({"device": device, "precision": precision})
    assert placement(settings) == {"device": device, "precision": expected, "graphs": True}


@pytest.mark.parametrize("private", [False, True], ids=["photos", "gradients"])
def test_both_engines_pass_the_settings_on(monkeypatch: pytest.MonkeyPatch, private: bool) -> None:
    """What APF_PRECISION and APF_CUDA_GRAPHS say reaches the filter."""
    monkeypatch.setenv("APF_PRECISION", "bfloat16")
    monkeypatch.setenv("APF_CUDA_GRAPHS", "false")
    monkeypatch.setattr(engine_module, "usable_device", lambda _: "cuda")
    given: list[dict[str, object]] = []
    load = Filter.load

    def noted(recipe: Recipe, device: str, **options: object) -> Filter:
        given.append({"device": device, **options})
        return load(recipe)

    monkeypatch.setattr(Filter, "load", noted)
    load_engine.__wrapped__(load_recipe("light"), load_settings(), private)
    assert given == [{"device": "cuda", "precision": "bfloat16", "graphs": False}]


def test_a_wrong_precision_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and what it may be."""
    monkeypatch.setenv("APF_PRECISION", "float16")
    with pytest.raises(SettingsError, match=r"APF_PRECISION: .*'bfloat16'"):
        load_settings()


def test_a_full_gpu_may_be_free_later() -> None:
    """The photo fails with the cure in its reason, and is tried again."""
    assert explain(DeviceMemoryError("the GPU has not enough free memory")) == (
        "the GPU has not enough free memory",
        True,
    )
