"""Downloads the files of a face model, one by one, so that an interrupted download goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from fit3d.errors import UsageError

TIMEOUT_S = 30.0
RETRIES = 2


def download(base_url: str, names: Sequence[str], folder: Path, on_file: Callable[[str], None]) -> None:
    """Fetch `base_url` + name for all `names` into `folder`; what is there already is not fetched again.

    Args:
        base_url: ends in '/'. The caller checks what has come.
        on_file: told the name of each file that is there.

    Raises:
        UsageError: the network or the server fails, or the folder cannot be written. What has come stays.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel(logging.WARNING)  # it reports each file on stderr
    # pooch writes under another name and renames, so that a file is whole or not there
    source = pooch.create(folder, base_url, registry=dict.fromkeys(names), retry_if_failed=RETRIES)
    for name in names:
        try:
            source.fetch(name, downloader=pooch.HTTPDownloader(timeout=TIMEOUT_S))
        except (RequestException, ValueError) as error:
            raise UsageError(
                f"cannot download {base_url}{name}: {_reason(error)}; what has come is kept: run the same command again"
            ) from error
        except OSError as error:
            raise UsageError(f"cannot write {folder / name}: {error.strerror or error}") from error
        on_file(name)


def _reason(error: Exception) -> str:
    """What went wrong, without the addresses of objects that requests puts into its messages."""
    import requests

    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return str(error)
