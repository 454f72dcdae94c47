"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

# As the command line does: sums come out the same whichever test ran before and on any number of cores.
torch.set_num_threads(1)


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
