"""The dashboard and the alerts ask for what worker, exporter and listener really export, by a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.conftest import _free_ports
from tests.faults.world import ROOT, World
from tests.services.watched import Scrape, exporting, fetch, listening, port_of, program, serving, watched_world
from tests.waiting import until
from workers.broker.app import INTERACTIVE
from workers.core.task_names import RECONCILE

__all__ = ["watched_world"]  # the fixture `world`

pytestmark = pytest.mark.timeout(240)

RULES = ROOT / "infra" / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "infra" / "grafana" / "apf.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
ALERTS: list[dict[str, Any]] = yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"][0]["rules"]

#: Only where there is CUDA, or a photo is decoded, as by none of these workers.
NEEDS_MORE = {"apf_gpu_memory_peak_bytes", "apf_decoder_cage"}


def queries() -> list[str]:
    """Those of the dashboard, with a window that fits a test's seconds."""
    found = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    return [query.replace("$__rate_interval", "10s") for query in found]


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\bapf_[a-z_]+", query))


def test_the_dashboard_can_be_imported() -> None:
    """Nothing names a data source of ours; panels have ids, explain themselves, and do not lie on each other."""
    assert [variable["type"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= mine
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]


def test_each_alert_says_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert re.fullmatch(r"\d+m", alert["for"])
        assert set(alert["annotations"]) == {"summary", "description"}
    documented = (ROOT / "docs" / "monitoring.md").read_text()
    assert [alert["alert"] for alert in ALERTS if f"`{alert['alert']}`" not in documented] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
        # The server's token is in a file, which is not here.
        ["check", "config", "--syntax-only", "prometheus.yaml"],
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: list[str]) -> None:
    """Rules and example parse; each alert fires when it should and not on a calm day."""
    ran = subprocess.run(
        [program("promtool"), *arguments], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_is_tried() -> None:
    tried = (RULES / "alerts_test.yaml").read_text()
    assert [alert["alert"] for alert in ALERTS if alert["alert"] not in tried] == []


def test_what_queries_name_is_exported_and_documented(world: World) -> None:
    """A metric that was renamed would leave an empty panel and an alert that never fires."""
    world.start_worker()
    with exporting(world) as port, listening(world) as listener, serving(world) as server:
        scrapes = [Scrape(port_of(world)), Scrape(port), Scrape(listener), Scrape(server)]
    exported = set[str]().union(*(scrape.names() for scrape in scrapes)) | NEEDS_MORE
    asked = set[str]().union(*(names_in(query) for query in [*queries(), *(alert["expr"] for alert in ALERTS)]))
    assert asked - exported == set()
    documented = (ROOT / "docs" / "monitoring.md").read_text()
    families = {family.name for scrape in scrapes for family in scrape.families} | NEEDS_MORE
    # Python's own, of every process that uses its client.
    families = {name for name in families if not name.startswith(("python_", "process_"))}
    assert {name for name in families if f"`{name}" not in documented} == set()


@contextmanager
def prometheus(folder: Path, targets: dict[str, int]) -> Iterator[int]:
    """A Prometheus that scrapes these jobs each second and has our rules; its port."""
    jobs = [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": every, "rule_files": [str(RULES / "alerts.yaml")], "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = _free_ports([0])
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # Debian's own folder would have the numbers of the last run.
        f"--storage.tsdb.path={folder / 'prometheus'}",
    ]
    log = folder / "prometheus.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def is_ready() -> bool:
        with suppress(OSError):
            return fetch(port, "/-/ready")[0] == 200
        return False

    try:
        until(is_ready, 60, "Prometheus is ready", log)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, path: str, **arguments: str) -> Any:
    status, text = fetch(port, f"/api/v1/{path}?{urlencode(arguments)}")
    answer = json.loads(text)
    assert (status, answer["status"]) == (200, "success"), answer
    return answer["data"]


@pytest.mark.rotating("long roads")
def test_a_real_prometheus_answers_every_query(world: World) -> None:
    """Each panel has data while photos are protected, but for the GPU's; each alert can be evaluated."""
    world.start_worker(CHEAP_SECONDS="0.3")
    jobs = {"apf-worker": port_of(world)}
    with (
        exporting(world) as port,
        listening(world) as listener,
        serving(world) as server,
        prometheus(world.folder, {**jobs, "apf-exporter": port, "apf-listener": listener, "apf-server": server}) as api,
    ):

        def says(query: str) -> list[Any]:
            found: list[Any] = ask(api, "query", query=query)["result"]
            return found

        log = world.folder / "prometheus.log"
        until(lambda: len(says("count_over_time(up[1m]) > 2")) == 4, 60, "all are scraped", log, every_s=0.5)
        world.submit()
        world.app.send_task(RECONCILE, queue=INTERACTIVE)
        increase = 'sum(increase(apf_photos_total{outcome="protected"}[1m])) > 0'
        until(lambda: says(increase), 60, "Prometheus sees photos protected", log, every_s=0.3)
        assert [target["health"] for target in ask(api, "targets")["activeTargets"]] == ["up"] * 4

        def empty() -> list[str]:
            return [query for query in queries() if not names_in(query) & NEEDS_MORE and not says(query)]

        # The pass waits for the shard in hand, and its number for the next scrape.
        until(lambda: not empty(), 30, "every query has an answer", log, every_s=0.3)
        (group,) = ask(api, "rules")["groups"]
        assert [(rule["name"], rule.get("lastError", "")) for rule in group["rules"]] == [
            (alert["alert"], "") for alert in ALERTS
        ]
        assert not [alert for alert in ask(api, "alerts")["alerts"] if alert["state"] == "firing"]
