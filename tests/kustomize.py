"""What `kubectl kustomize` makes of infra/k8s, for the few of its features that are used there; others are refused.

`tests/test_k8s.py` compares it with the real one, where that is installed. Names get no hash here.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

KNOWN = {"apiVersion", "kind", "resources", "components", "labels", "configMapGenerator", "images", "patches"}


def read(path: Path) -> list[Manifest]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def build(folder: Path, onto: list[Manifest] | None = None) -> list[Manifest]:
    """All manifests of a kustomization, patched.

    Args:
        onto: what was there before a component, which may patch it.
    """
    (kustomization,) = read(folder / "kustomization.yaml")
    assert kustomization.keys() <= KNOWN, f"{folder}: {kustomization.keys() - KNOWN} is not known here"
    found = onto or []
    for name in kustomization.get("resources", []):
        found += build(folder / name) if (folder / name).is_dir() else read(folder / name)
    for name in kustomization.get("components", []):
        found = build(folder / name, found)
    found += [_config_map(folder, generator) for generator in kustomization.get("configMapGenerator", [])]
    for manifest in found:
        for labels in kustomization.get("labels", []):
            assert labels.keys() == {"pairs"}
            manifest["metadata"].setdefault("labels", {}).update(labels["pairs"])
    for patch in kustomization.get("patches", []):
        _patch(found, patch)
    for manifest in found:
        for container in containers(manifest):
            container["image"] = _image(container["image"], kustomization.get("images", []))
    return found


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod's template of a workload, with `metadata` and `spec`."""
    match manifest["kind"]:
        case "Deployment" | "StatefulSet" | "Job":
            template: Manifest = manifest["spec"]["template"]
            return template
        case "CronJob":
            return pod_of({"kind": "Job", **manifest["spec"]["jobTemplate"]})
        case _:
            return None


def containers(manifest: Manifest) -> list[Manifest]:
    pod = pod_of(manifest)
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])] if pod else []


def _config_map(folder: Path, generator: Manifest) -> Manifest:
    assert generator.keys() <= {"name", "envs", "files"}
    data = {name: (folder / name).read_text() for name in generator.get("files", [])}
    for name in generator.get("envs", []):
        lines = (line.strip() for line in (folder / name).read_text().splitlines())
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def _patch(manifests: list[Manifest], patch: Manifest) -> None:
    target = patch["target"]
    chosen = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (target["kind"], target["name"])]
    assert len(chosen) == 1, f"{target} is {len(chosen)} manifests"
    for step in yaml.safe_load(patch["patch"]):
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        here: Any = chosen[0]
        for part in path:
            here = here[int(part)] if isinstance(here, list) else here[part]
        assert step["op"] in ("add", "replace", "remove")
        if step["op"] == "remove":
            del here[last]
        elif isinstance(here, list):
            assert (step["op"], last) == ("add", "-")
            here.append(deepcopy(step["value"]))
        else:
            assert (last in here) == (step["op"] == "replace"), f"{step['op']} {step['path']}"
            here[last] = deepcopy(step["value"])


def _image(image: str, images: list[Manifest]) -> str:
    for entry in images:
        if image == entry["name"]:
            return f"{entry['newName']}:{entry['newTag']}"
    return image
