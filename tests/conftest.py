"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d.morphable import ict
from fit3d.morphable.raw import RawModel
from ict_layout import FEW, Arrays, write_layout

REPOSITORY = Path(__file__).resolve().parent.parent

# As the command line does: sums come out the same whichever test ran before and on any number of cores.
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Tests of one file run in this process, where a debugger and `-s` reach them; None leaves the number to xdist."""
    files = {argument.partition("::")[0] for argument in config.args}
    return 0 if len(files) == 1 and files.pop().endswith(".py") else None


def _shared_folder(name: str) -> Path:
    """Test data that cannot be shipped lie beside the checkout, in `shared/<name>`."""
    folder = REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        reason = f"no test data: expected a folder {folder}"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with `photos/` and `labelled/`, see its README."""
    return _shared_folder("data")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder with face models of others, one folder each."""
    return _shared_folder("models")


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """The example photo, 512 x 512, one face."""
    return REPOSITORY / "examples" / "astronaut.jpg"


@pytest.fixture(scope="session")
def ict_arrays(shared_models: Path) -> Arrays:
    """The numbers of ICT-FaceKit by name."""
    with np.load(shared_models / "ict" / "ict_facekit.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="session")
def ict_checkout(ict_arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ICT-FaceKit's repository with its first `FEW` identities."""
    folder = tmp_path_factory.mktemp("ICT-FaceKit")
    write_layout(folder / "FaceXModel", ict_arrays)
    return folder


@pytest.fixture(scope="session")
def ict_raw(ict_checkout: Path) -> RawModel:
    """What is read of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ict, "IDENTITIES", FEW)
        return ict.read_ict(ict_checkout)


@pytest.fixture
def ict_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of fit3d, not there yet, while ICT-FaceKit has `FEW` identities."""
    monkeypatch.setattr(ict, "IDENTITIES", FEW)
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
