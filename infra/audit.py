"""`make audit`: compare what infra/constraints.txt pins with the known vulnerabilities, by pip-audit.

Exits with 1 where a pinned release has one. Where neither source of vulnerability data can be reached, it says so and
exits with 0: a release is then not known to be clean, only not known to be bad.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PINS = Path(__file__).with_name("constraints.txt")
#: In this order; the second is asked where the first did not know every package.
SERVICES = ("pypi", "osv")
#: Vulnerability ids that do not concern this project, and why.
ACCEPTED: dict[str, str] = {}
LIMIT_S = 300


@dataclass(frozen=True)
class Verdict:
    """What one service says; `unknown` counts packages that it could not be asked for."""

    found: tuple[str, ...]
    known: int
    unknown: int


def verdict(answer: str) -> Verdict:
    """Read pip-audit's JSON, or what it printed instead."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Verdict((), 0, 0)
    known = [package for package in packages if "skip_reason" not in package]
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, {_cure(vulnerability['fix_versions'])}"
        for package in known
        for vulnerability in package["vulns"]
        if not {vulnerability["id"], *vulnerability["aliases"]} & ACCEPTED.keys()
    ]
    return Verdict(tuple(found), len(known), len(packages) - len(known))


def ask(service: str) -> Verdict:
    command = [sys.executable, "-m", "pip_audit", "--requirement", PINS, "--require-hashes", "--disable-pip"]
    command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Verdict((), 0, 0)
    return verdict(run.stdout)


def report(verdicts: Sequence[Verdict]) -> int:
    """Say it, and return the exit status."""
    found = sorted({line for answer in verdicts for line in answer.found})
    best = max(verdicts, key=lambda answer: answer.known)
    if found:
        print("audit: known vulnerabilities in what infra/constraints.txt pins:", *found, sep="\n  ")
        return 1
    if not best.known:
        print("audit: NOT DONE, no vulnerability data can be reached from here")
    elif best.unknown:
        print(f"audit: {best.known} packages have no known vulnerability; {best.unknown} could NOT be looked up")
    else:
        print(f"audit: {best.known} packages, none with a known vulnerability")
    return 0


def main() -> int:
    verdicts: list[Verdict] = []
    for service in SERVICES:
        verdicts.append(ask(service))
        if verdicts[-1].known and not verdicts[-1].unknown:
            break
    return report(verdicts)


def _cure(versions: Sequence[str]) -> str:
    return f"fixed in {', '.join(versions)}: make constraints" if versions else "no release fixes it yet"


if __name__ == "__main__":
    sys.exit(main())
