"""The options of a batch that change its results, and the note of them in OUT that later calls are held to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from fit3d import __version__
from fit3d.batch.storage import Storage
from fit3d.config import ExportConfig, FitConfig, TextureConfig
from fit3d.errors import UsageError

OPTIONS_FILE = "batch.json"
SCHEMA_VERSION = 1
"""Of that file; raised when a field changes its meaning or vanishes."""

WORDS = {
    "model": "--model",
    "landmarks": "--landmarks",
    "parser": "--parser",
    "face": "--face",
    "focal_px": "--focal",
    "texture_size": "--texture-size",
    "delight": "--delight",
    "parts": "--parts",
    "landmarks_files": "--landmarks-file",
    "config.loss": "--loss",
    "config.solver": "--solver",
    "config.anchors": "--anchors",
    "config.iterations": "--iterations",
    "config.seed": "--seed",
    "export.formats": "--format",
    "export.units": "--units",
    "export.up": "--up",
    "export.overlay": "--overlay",
}
"""Fields as the command line calls them; Python alone sets the others."""


@dataclass(frozen=True)
class BatchOptions:
    """All that changes results, as plain values. What only changes how fast they come, such as the device, is not here.

    The arguments are those of `fit3d.fit`.
    """

    command: ClassVar[str] = "batch"
    """That fills OUT; each has folders of its own."""
    words: ClassVar[dict[str, str]] = WORDS
    """See `WORDS`."""

    model: str = "anny"
    landmarks: str = "auto"
    """A detector's name, 'auto' replaced by what it took; the same for the parser."""
    parser: str = "auto"
    face: Literal["largest", "all"] | int | tuple[float, float] = "largest"
    focal_px: float | None = None
    texture_size: int = TextureConfig.size
    delight: bool = TextureConfig.delight
    config: FitConfig = field(default_factory=FitConfig)
    """Its device does not count."""
    export: ExportConfig = field(default_factory=ExportConfig)
    parts: str | None = None
    """Folder of label images, absolute path or URL, mirroring that of the photos."""
    landmarks_files: str | None = None
    """The same of landmark files."""

    @property
    def digest(self) -> str:
        """Short hash of what differs from the defaults: an option that a later version adds does not change it."""
        usual = _flat(type(self)().to_json())
        chosen = {name: value for name, value in _flat(self.to_json()).items() if value != usual.get(name)}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """As an object of plain values."""
        content = asdict(self)
        del content["config"]["device"]
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """What `earlier` options, as `to_json` gives them, had otherwise: '--loss prdl (now prdl+icp)'. What an earlier
        version did not have yet was as it is by default."""
        new = _flat(self.to_json())
        old = {name: value for name, value in _flat(type(self)().to_json()).items() if name in new} | _flat(earlier)
        return [
            f"{self.words.get(name, name)} {_told(old.get(name))} (now {_told(new.get(name))})"
            for name in dict.fromkeys([*new, *old])
            if old.get(name) != new.get(name)
        ]


@dataclass(frozen=True)
class StoredOptions:
    """What an earlier call noted in OUT."""

    options: dict[str, Any]
    """See `BatchOptions.to_json`."""
    photos: str
    """Folder of the photos, as told by that call: an absolute path, or a URL."""
    fit3d_version: str
    command: str = BatchOptions.command
    forced_at: dict[str, float] = field(default_factory=dict)
    """By manifest, when the last --force of a call that writes it began, seconds since 1970: what finished before is
    still to be done again."""

    def text(self, name: str) -> str | None:
        """The value of an option that is a text."""
        value = self.options.get(name)
        return value if isinstance(value, str) else None


def read_options(out: Storage) -> StoredOptions | None:
    """What an earlier call noted; None where there was none.

    Raises:
        UsageError: the note is damaged, or of another layout.
    """
    try:
        raw = out.read(OPTIONS_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{out.root}/{OPTIONS_FILE}: cannot read it ({error.strerror})") from error
    try:
        content = json.loads(raw)
        if content["schema"] == SCHEMA_VERSION:
            options, photos, version = content["options"], content["photos"], content["fit3d_version"]
            command = content.get("command", BatchOptions.command)
            forced_at = {str(name): float(at) for name, at in content.get("forced_at", {}).items()}
            if isinstance(options, dict) and all(isinstance(each, str) for each in (photos, version, command)):
                return StoredOptions(options, photos, version, command, forced_at)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        pass
    raise UsageError(
        f"{out.root}/{OPTIONS_FILE}: damaged, or written by another version of fit3d; remove it, the manifest tells "
        "what is done"
    )


def write_options(
    out: Storage, options: BatchOptions, photos: str, forced_at: Mapping[str, float] | None = None
) -> None:
    """Note what this call does; `forced_at` as in `StoredOptions`. Raises UsageError."""
    content = {
        "schema": SCHEMA_VERSION,
        "fit3d_version": __version__,
        "command": options.command,
        "photos": photos.encode("utf-8", "replace").decode(),
        "digest": options.digest,
        "forced_at": dict(forced_at or {}),
        "options": options.to_json(),
    }
    out.write(OPTIONS_FILE, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, with names like 'config.prior.identity'."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _told(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, list):
        return ",".join(map(_told, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"
