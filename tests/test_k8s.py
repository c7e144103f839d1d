"""The Kubernetes manifests, checked without a cluster: against its schemas, its security standard, and each other."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import redis
import yaml

from producer.server.settings import ServeSettings
from tests.kustomize import Manifest, build, containers, pod_of, read
from workers.broker.app import make_app
from workers.broker.client import Broker, queue_snapshot
from workers.config.settings import Settings, check_worker
from workers.core.records import ShardJob

ROOT = Path(__file__).parents[1]
K8S = ROOT / "infra" / "k8s"
OVERLAYS = ("gpu", "cpu")
CRDS: dict[str, Any] = json.loads((Path(__file__).parent / "k8s_crds.json").read_text())
EXAMPLES = [manifest for path in sorted((K8S / "examples").glob("*.yaml")) for manifest in read(path)]
BUILT = {overlay: build(K8S / overlay) for overlay in OVERLAYS}
#: Everything once: the GPU's overlay holds all components.
ALL = [*BUILT["gpu"], *EXAMPLES]
WORKLOADS = [manifest for manifest in ALL if pod_of(manifest)]
#: Without a probe, for the reasons in its file; and what ends by itself.
UNPROBED = {"apf-beat", "apf-protect"}


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def of_kind(kind: str, manifests: list[Manifest] = ALL) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}


def pod_labels(manifest: Manifest) -> dict[str, str]:
    pod = pod_of(manifest)
    assert pod
    labels: dict[str, str] = pod["metadata"]["labels"]
    return labels


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector, of `matchLabels` and `In`, takes a pod with these labels; an empty one takes all."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def selected(selector: Manifest) -> list[Manifest]:
    return [workload for workload in WORKLOADS if selects(selector, pod_labels(workload))]


def named_ports(manifest: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for c in containers(manifest) for port in c.get("ports", [])}


def environment_sources(manifest: Manifest) -> list[tuple[str, str]]:
    found = []
    for container in containers(manifest):
        for source in container.get("envFrom", []):
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            found.append((kind, source["configMapRef" if kind == "ConfigMap" else "secretRef"]["name"]))
    return found


@pytest.mark.parametrize("manifest", [*ALL, *BUILT["cpu"]], ids=name_of)
def test_the_manifest_is_what_kubernetes_accepts(manifest: Manifest) -> None:
    """Of the newest version that there are schemas for, without a field that it does not know."""
    if manifest["kind"] in CRDS:
        assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
        jsonschema.validate(manifest["spec"], {**CRDS[manifest["kind"]], "$defs": CRDS["$defs"]})
        return
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("change", ["field", "type", "crd"])
def test_the_schemas_see_a_mistake(change: str) -> None:
    """A misspelt field and a wrong type are refused, also in the resources whose schema is our own."""
    worker, scaled = (json.loads(json.dumps(of_kind(kind)["apf-worker"])) for kind in ("Deployment", "ScaledObject"))
    worker["spec"]["replica" if change == "field" else "replicas"] = 1 if change == "field" else "one"
    scaled["spec"]["minReplicas"] = 1
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        test_the_manifest_is_what_kubernetes_accepts(scaled if change == "crd" else worker)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_makes_the_same_of_it(overlay: str) -> None:
    """What the other tests look at is what the real kustomize gives, but for the hashes that it puts behind names."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not installed")
    made = subprocess.run([kubectl, "kustomize", str(K8S / overlay)], capture_output=True, text=True, check=True).stdout
    real = list(yaml.safe_load_all(re.sub(r"\b(apf-settings|apf-redis)-[0-9a-z]{10}\b", r"\1", made)))
    assert sorted(real, key=name_of) == sorted(BUILT[overlay], key=name_of)


def test_every_file_is_listed_and_every_listed_file_exists() -> None:
    """A manifest that no kustomization names would never be applied. Examples are for copying."""
    listed = set()
    for path in K8S.rglob("kustomization.yaml"):
        (kustomization,) = read(path)
        names = [*kustomization.get("resources", []), *kustomization.get("components", [])]
        for generator in kustomization.get("configMapGenerator", []):
            names += [*generator.get("envs", []), *generator.get("files", [])]
        listed |= {(path.parent / name).resolve() for name in names}
    assert all(path.exists() for path in listed)
    files = {path for path in K8S.rglob("*") if path.is_file() and path.name != "kustomization.yaml"}
    assert files - listed == set((K8S / "examples").iterdir())


def test_the_documentation_tells_of_every_value() -> None:
    """docs/running.md names each folder, secret, key and deadline that an operator may have to change."""
    told = (ROOT / "docs" / "running.md").read_text()
    spec = of_kind("Deployment")["apf-worker"]["spec"]["template"]["spec"]
    scaled = of_kind("ScaledObject")["apf-worker"]["spec"]
    values = {f"`{path.name}`" for path in K8S.iterdir()}
    for secret in of_kind("Secret").values():
        values |= {f"`{secret['metadata']['name']}`", *(f"`{key}`" for key in secret["stringData"])}
    values |= {
        f"{variables_of(of_kind('Deployment')['apf-worker'])['APF_SHUTDOWN_GRACE_S']} / "
        f"{spec['terminationGracePeriodSeconds']}",
        f"{scaled['minReplicaCount']} / {scaled['maxReplicaCount']}",
    }
    assert {value for value in values if value not in told} == set()


def test_no_namespace_is_named() -> None:
    """Whoever applies it chooses the namespace."""
    assert all("namespace" not in manifest["metadata"] for manifest in ALL)


def test_redis_is_configured_as_everywhere() -> None:
    """The one copy of the file, which kustomize may not read where it is; and SECURITY.md's user."""
    assert (K8S / "redis" / "redis.conf").read_text() == (ROOT / "infra" / "redis.conf").read_text()
    acl = of_kind("Secret")["apf-redis-acl"]["stringData"]["users.acl"].splitlines()
    assert acl[0] == "user default off"
    assert f"ACL SETUSER {acl[1].removeprefix('user ')}" in (ROOT / "SECURITY.md").read_text()
    prefix = of_kind("ConfigMap")["apf-settings"]["data"]["APF_BROKER_KEY_PREFIX"]
    assert f"~{prefix}* " in acl[1]


def test_a_real_redis_starts_on_it_and_knows_our_user_alone(tmp_path: Path) -> None:
    """With the pod's arguments, the map's configuration and the example's users: APF can send, anybody else nothing."""
    server = shutil.which("redis-server")
    if not server:
        if os.environ.get("APF_REQUIRE_SERVICES") == "1":
            pytest.fail("redis-server is missing: install it")
        pytest.skip("redis-server is not installed")
    (container,) = containers(of_kind("StatefulSet")["apf-redis"])
    files = {
        "/etc/redis/redis.conf": of_kind("ConfigMap")["apf-redis"]["data"]["redis.conf"],
        "/etc/redis-acl/users.acl": of_kind("Secret")["apf-redis-acl"]["stringData"]["users.acl"],
    }
    for name, text in files.items():
        (tmp_path / Path(name).name).write_text(text)
    arguments = [str(tmp_path / Path(word).name) if word in files else word for word in container["args"][1:]]
    port = free_port()
    command = [server, *arguments, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    url = of_kind("Secret")["apf-broker"]["stringData"]["APF_BROKER_URL"].replace("apf-redis:6379", f"127.0.0.1:{port}")
    prefix = of_kind("ConfigMap")["apf-settings"]["data"]["APF_BROKER_KEY_PREFIX"]
    app = make_app(Settings(broker_url=url, broker_key_prefix=prefix, allowed_urls="*"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert any("ready to accept" in line.lower() for line in process.stdout)
            Broker(app).send(ShardJob(batch_url="s3://public/.apf/batches/b1", shard=0))
            assert sum(queue_snapshot(app).queued.values()) == 1
            with closing(redis.Redis(port=port)) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
        finally:
            app.close()
            process.terminate()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_pods_meet_the_restricted_security_standard(workload: Manifest) -> None:
    """Pod Security Standard "restricted", rule by rule, with a read-only root and without a token on top."""
    pod = pod_of(workload)
    assert pod
    spec = pod["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    own = spec["securityContext"]
    assert own["runAsNonRoot"] is True
    assert own["runAsUser"] > 0
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"sysctls", "windowsOptions", "seLinuxOptions", "appArmorProfile"} & own.keys()
    allowed = {
        "configMap",
        "emptyDir",
        "secret",
        "persistentVolumeClaim",
        "projected",
        "downwardAPI",
        "csi",
        "ephemeral",
    }
    for volume in spec.get("volumes", []):
        assert set(volume) - {"name"} <= allowed
    for container in containers(workload):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not {"privileged", "procMount", "runAsUser", "seccompProfile"} & context.keys()
        assert context["readOnlyRootFilesystem"] is True
        assert not any("hostPort" in port for port in container.get("ports", []))
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "or each service's address is a variable of each pod"


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_containers_are_bounded_pinned_and_probed(workload: Manifest) -> None:
    """Each asks for CPU and memory, is limited in memory, and follows no `latest`; probes ask a port that is there."""
    for container in containers(workload):
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        if workload not in EXAMPLES:
            assert re.fullmatch(r"\S+:\d+\.\d+\S*", container["image"])
        probes = {name for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in container}
        assert len(probes) == (0 if workload["metadata"]["name"] in UNPROBED else 3)
        for probe in probes:
            asked = container[probe].get("httpGet") or container[probe]["tcpSocket"]
            assert asked["port"] in named_ports(workload)


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_every_mount_has_its_volume(workload: Manifest) -> None:
    pod = pod_of(workload)
    assert pod
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    mounted = {mount["name"] for container in containers(workload) for mount in container.get("volumeMounts", [])}
    assert mounted == volumes


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_what_pods_refer_to_is_declared(workload: Manifest) -> None:
    """Each ConfigMap and Secret, by environment or by volume, is made by a kustomization or shown by an example."""
    pod = pod_of(workload)
    assert pod
    for kind, name in environment_sources(workload):
        assert name in of_kind(kind)
    for volume in pod["spec"].get("volumes", []):
        if "configMap" in volume:
            assert volume["configMap"]["name"] in of_kind("ConfigMap")
        if "secret" in volume:
            assert volume["secret"]["secretName"] in of_kind("Secret")
    if "serviceAccountName" in pod["spec"]:
        assert pod["spec"]["serviceAccountName"] in of_kind("ServiceAccount")


def variables_of(workload: Manifest) -> dict[str, str]:
    """The environment of a workload's first container."""
    found: dict[str, str] = {}
    for kind, name in environment_sources(workload):
        manifest = of_kind(kind)[name]
        found |= manifest.get("data") or manifest["stringData"]
    return found | {entry["name"]: entry["value"] for entry in containers(workload)[0].get("env", [])}


@pytest.mark.parametrize("workload", [w for w in WORKLOADS if w["kind"] != "StatefulSet"], ids=name_of)
def test_settings_are_known_and_accepted(workload: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each APF_ variable is a setting, with a value that the program takes; the rest is meant for libraries."""
    variables = variables_of(workload)
    known = {f"APF_{field.upper()}" for field in Settings.model_fields}
    known |= {f"APF_SERVE_{field.upper()}" for field in ServeSettings.model_fields}
    assert {name for name in variables if name.startswith("APF_")} - known == set()
    others = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "PROMETHEUS_MULTIPROC_DIR"}
    assert {name for name in variables if not name.startswith("APF_")} <= others
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_worker(Settings())
    ServeSettings()


@pytest.mark.parametrize("name", ["apf-worker", "apf-listener", "apf-server"])
def test_pods_get_time_to_end_what_they_hold(name: str) -> None:
    """Kubernetes waits longer than the program does; a worker's grace is longer than a shard as a rule (20 to 60 s)."""
    deployment = of_kind("Deployment")[name]
    own = variables_of(deployment).get("APF_SHUTDOWN_GRACE_S", Settings.model_fields["shutdown_grace_s"].default)
    assert float(own) + 20 <= deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert name != "apf-worker" or float(own) > 60


def test_the_gpu_is_asked_for_by_the_gpu_worker_alone() -> None:
    for overlay, count in (("gpu", 1), ("cpu", None)):
        workers = [m for m in BUILT[overlay] if pod_of(m) and "nvidia.com/gpu" in json.dumps(m)]
        assert [m["metadata"]["name"] for m in workers] == (["apf-worker"] if count else [])
        (container,) = containers(of_kind("Deployment", BUILT[overlay])["apf-worker"])
        assert container["resources"]["limits"].get("nvidia.com/gpu") == count
        assert {"name": "APF_DEVICE", "value": "cuda" if count else "cpu"} in container["env"]


@pytest.mark.parametrize("workload", [w for w in WORKLOADS if "selector" in w["spec"]], ids=name_of)
def test_selectors_find_their_own_pods_and_no_others(workload: Manifest) -> None:
    assert selected(workload["spec"]["selector"]) == [workload]


def test_services_monitors_and_budgets_find_their_pods_and_ports() -> None:
    for service in of_kind("Service").values():
        (workload,) = selected({"matchLabels": service["spec"]["selector"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named_ports(workload).keys()
    for monitor in of_kind("PodMonitor").values():
        found = selected(monitor["spec"]["selector"])
        assert found
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in named_ports(workload) for workload in found)
    for monitor in of_kind("ServiceMonitor").values():
        services = [
            s for s in of_kind("Service").values() if selects(monitor["spec"]["selector"], s["metadata"]["labels"])
        ]
        (service,) = services
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    for budget in of_kind("PodDisruptionBudget").values():
        assert len(selected(budget["spec"]["selector"])) == 1
    worker = of_kind("Deployment")["apf-worker"]["spec"]["template"]["spec"]
    for spread in worker["topologySpreadConstraints"]:
        assert [w["metadata"]["name"] for w in selected(spread["labelSelector"])] == ["apf-worker"]


def test_metrics_answer_where_they_are_looked_for() -> None:
    """A worker's port is a setting, the others' an argument; each is the port that its container tells of."""
    deployments = of_kind("Deployment")
    told = {name: named_ports(deployment).get("metrics") for name, deployment in deployments.items()}
    listener, exporter = (containers(deployments[name])[0]["args"] for name in ("apf-listener", "apf-exporter"))
    assert told == {
        "apf-worker": int(of_kind("ConfigMap")["apf-settings"]["data"]["APF_METRICS_PORT"]),
        "apf-listener": int(listener[listener.index("--metrics-port") + 1]),
        "apf-exporter": int(exporter[exporter.index("--port") + 1]),
        "apf-beat": None,
        "apf-server": None,  # on the port of its API, for who has a token
    }


def test_keda_scales_the_worker_and_waits_longer_than_a_shard() -> None:
    spec = of_kind("ScaledObject")["apf-worker"]["spec"]
    assert spec["scaleTargetRef"]["name"] in of_kind("Deployment")
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert min(spec["cooldownPeriod"], down["stabilizationWindowSeconds"]) > 60
    assert "apf_shards_open" in spec["triggers"][0]["metadata"]["query"]


def test_an_apply_does_not_stop_the_workers_that_keda_started() -> None:
    """With KEDA nobody else says how many there are; without it there is one."""
    assert {
        overlay: of_kind("Deployment", BUILT[overlay])["apf-worker"]["spec"].get("replicas") for overlay in BUILT
    } == {
        "gpu": None,
        "cpu": 1,
    }
    others = {name: d["spec"]["replicas"] for name, d in of_kind("Deployment").items() if name != "apf-worker"}
    assert others == {"apf-beat": 1, "apf-listener": 1, "apf-exporter": 1, "apf-server": 2}


def test_monitors_name_the_jobs_that_dashboard_and_alerts_ask_for() -> None:
    """A pod is in one job, and no listener counts as a worker."""
    asked = (ROOT / "infra" / "grafana" / "apf.json").read_text() + (ROOT / "infra/prometheus/alerts.yaml").read_text()
    jobs = {}
    for kind, endpoints in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")):
        for name, monitor in of_kind(kind).items():
            (endpoint,) = monitor["spec"][endpoints]
            (relabeling,) = endpoint["relabelings"]
            assert relabeling == {"targetLabel": "job", "replacement": name}
            jobs[name] = [pod["metadata"]["name"] for pod in selected(monitor["spec"]["selector"])]
    assert jobs == {name: [name] for name in ("apf-worker", "apf-listener", "apf-exporter", "apf-server")}
    assert set(re.findall(r'job=\\?"([a-z-]+)', asked)) == jobs.keys()


def test_probes_do_not_ask_where_strangers_may_send() -> None:
    """Whoever keeps the port of events busy would have the listener restarted."""
    (container,) = containers(of_kind("Deployment")["apf-listener"])
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")} == {
        "metrics"
    }


def rules(policy: Manifest, direction: str) -> list[Manifest]:
    found: list[Manifest] = policy["spec"].get(direction, [])
    return found


def policies_for(workload: Manifest, direction: str) -> list[Manifest]:
    chosen = of_kind("NetworkPolicy").values()
    mine = [p for p in chosen if selects(p["spec"]["podSelector"], pod_labels(workload))]
    return [p for p in mine if direction.capitalize() in p["spec"]["policyTypes"]]


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_nobody_may_talk_to_anybody_but_by_a_rule(workload: Manifest) -> None:
    """Each pod is held by a policy in both directions, and each rule names peers and ports."""
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        policies = policies_for(workload, direction)
        assert any(not rules(policy, direction) for policy in policies), "nobody at first"
        for policy in policies:
            assert all(rule[peers] and rule["ports"] for rule in rules(policy, direction))


def test_every_policy_selects_pods_and_ports_that_are_there() -> None:
    for policy in of_kind("NetworkPolicy").values():
        found = selected(policy["spec"]["podSelector"])
        assert found
        for rule in rules(policy, "ingress"):
            for port in rule["ports"]:
                assert any(port["port"] in named_ports(workload) for workload in found)


def test_redis_is_reached_by_its_clients_and_by_nobody_else() -> None:
    """Both ends agree on who that is: all of ours but Redis itself."""
    (inward,) = [p for p in policies_for(of_kind("StatefulSet")["apf-redis"], "ingress") if rules(p, "ingress")]
    (rule,) = rules(inward, "ingress")
    (peer,) = rule["from"]
    clients = selected(peer["podSelector"])
    assert peer.keys() == {"podSelector"}
    assert {w["metadata"]["name"] for w in clients} == {w["metadata"]["name"] for w in WORKLOADS} - {"apf-redis"}
    for client in clients:
        ports = [
            p["port"] for policy in policies_for(client, "egress") for r in rules(policy, "egress") for p in r["ports"]
        ]
        assert 6379 in ports


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("52.92.1.1", True),
        ("2600:1f00::1", True),
        ("169.254.169.254", False),
        ("10.0.0.1", False),
        ("172.20.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("::1", False),
    ],
)
def test_https_leaves_for_public_addresses_alone(address: str, may: bool) -> None:
    """Whoever has a worker post callbacks cannot have it ask the node's metadata service, or neighbours."""
    (rule,) = rules(of_kind("NetworkPolicy")["apf-to-public-https"], "egress")
    assert [port["port"] for port in rule["ports"]] == [443]
    ip = ipaddress.ip_address(address)

    def inside(block: Manifest) -> bool:
        if ip not in ipaddress.ip_network(block["cidr"]):
            return False
        return not any(ip in ipaddress.ip_network(net) for net in block.get("except", []))

    assert any(inside(peer["ipBlock"]) for peer in rule["to"]) == may


def test_workers_require_the_cage() -> None:
    """A node whose kernel cannot hold a decoder runs no worker, in the cluster and on one machine."""
    assert variables_of(of_kind("Deployment")["apf-worker"])["APF_DECODER_CAGE"] == "require"
    compose = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
    for name in ("worker", "worker-cpu"):
        assert compose[name]["environment"]["APF_DECODER_CAGE"] == "${APF_DECODER_CAGE:-require}"
