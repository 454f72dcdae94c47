"""What the files around the code promise: README's commands, the packaged files, one set of versions."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def readme_commands() -> list[str]:
    """The code blocks that follow a comment ending in 'command...'."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.findall(
        r"^<!-- (?:first|test) command[^\n]*-->\n```sh\n(.*?)\n```$", text, flags=re.MULTILINE | re.DOTALL
    )


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return config


def words(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if line.strip()}


def test_readme_has_two_commands_of_one_line_each() -> None:
    first, second = readme_commands()
    assert "\n" not in first
    assert "\n" not in second
    assert first.endswith("fit3d fit examples/astronaut.jpg -o out")
    assert second.endswith("pytest")


@pytest.mark.skipif(sys.platform == "win32", reason="needs sed")
def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    extraction = re.search(r"^test_command=\$\((.*)\)$", script, flags=re.MULTILINE)
    assert extraction is not None
    done = subprocess.run(extraction[1], shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == readme_commands()[1]


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert {"LICENSE", "docs/results.md"} <= set(links)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []
    # and so do the files named in passing
    named = re.findall(r"`((?:fit3d|docs|examples|assets|benchmarks)/[\w./-]*)`", text)
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_every_package_is_installed() -> None:
    packages = {
        ".".join(path.parent.relative_to(REPOSITORY).parts) for path in (REPOSITORY / "fit3d").rglob("__init__.py")
    }
    listed = words(setup_cfg()["options"]["packages"])
    assert packages | {"fit3d.assets"} == listed


def test_every_requirement_is_pinned_within_its_range() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    pins = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    config = setup_cfg()
    wanted = words(config["options"]["install_requires"])
    for extra in config["options.extras_require"].values():
        wanted |= words(extra)
    for text in wanted:
        requirement = requirements.Requirement(text)
        # the pins are for the Python that README's commands ask for
        if requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
            continue
        assert requirement.name in pins, text
        assert pins[requirement.name] in requirement.specifier, text


def test_built_package_holds_the_assets_and_their_licences(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    subprocess.run(
        [
            *(sys.executable, "-c", "import setuptools; setuptools.setup()", "-q"),
            *("egg_info", "--egg-base", str(tmp_path)),
            *("build_py", "--build-lib", str(tmp_path / "lib")),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    assets = {
        path.relative_to(tmp_path / "lib" / "fit3d" / "assets").as_posix()
        for path in (tmp_path / "lib" / "fit3d" / "assets").rglob("*")
        if path.is_file()
    }
    assert {"anny/model.npz", "anny/annotation.json", "anny/README.md"} <= assets
    assert {name for name in assets if not name.endswith((".npz", ".json", ".md", ".txt"))} == set()
    licences = {path.name for path in (REPOSITORY / "assets" / "anny").iterdir() if path.suffix in (".md", ".txt")}
    assert {f"anny/{name}" for name in licences} <= assets
    assert sum((REPOSITORY / "assets" / name).stat().st_size for name in assets) < 8_000_000
    assert (tmp_path / "lib" / "fit3d" / "py.typed").is_file()


@pytest.mark.parametrize("example", sorted(path.name for path in (REPOSITORY / "examples").glob("*.py")))
def test_examples_run(example: str, tmp_path: Path) -> None:
    path = REPOSITORY / "examples" / example
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
