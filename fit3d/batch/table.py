"""The results of a batch as a table for data tools: OUT/results.parquet, a row for each photo."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from fit3d import __version__
from fit3d.batch.record import Record
from fit3d.batch.storage import Storage
from fit3d.labels import PART_NAMES, PRDL_PARTS
from fit3d.resources import install_command

if TYPE_CHECKING:
    import pyarrow

TABLE = "results.parquet"
STAGES = ("load", "observe", "fit", "texture", "write")
PARTS = ("mean", *(PART_NAMES[part] for part in PRDL_PARTS))
ROWS = 50_000
"""Photos that are written together: bounds the memory that this takes beside the file itself."""


def write_table(out: Storage, records: Iterable[Record]) -> str | None:
    """Write OUT/results.parquet.

    Numbers that a photo has none of are null; so is the Part IoU of a part that was not seen. Text that is no Unicode,
    such as a file name in another encoding, has '?' in the place of such bytes.

    Returns and raises what `write_rows` does.
    """
    return write_rows(out, TABLE, _columns, map(_row, records))


def write_rows(
    out: Storage, name: str, columns: Callable[[Any], list[Any]], rows: Iterable[Mapping[str, Any]]
) -> str | None:
    """Write a table to the file `name`.

    Args:
        columns: makes the fields, see `column`, of the module pyarrow.
        rows: values by the columns' names.

    Returns:
        What to tell the user where the package that writes it is not installed, else None.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:  # not there, or too new for this numpy
        return f"{name} was not written ({error}); run `{install_command('parquet')}`"
    schema = pyarrow.schema(columns(pyarrow), {"fit3d_version": __version__})
    content = io.BytesIO()
    rest = iter(rows)
    with parquet.ParquetWriter(content, schema, compression="zstd") as writer:
        while some := list(islice(rest, ROWS)):
            writer.write_table(_table(pyarrow, schema, some))
    out.write(name, content.getvalue())
    return None


def column(pa: Any, name: str, kind: Any, description: str, unit: str | None = None, nullable: bool = True) -> Any:
    """A column with its meaning and unit; `pa` is the module pyarrow."""
    metadata = {"description": description} | ({} if unit is None else {"unit": unit})
    return pa.field(name, kind, nullable, metadata)


def _columns(pa: Any) -> list[Any]:
    """Those of a batch."""
    word = pa.dictionary(pa.int32(), pa.string())
    overlap = "overlap of the fitted with the observed part (intersection over union)"
    return [
        column(pa, "photo", pa.string(), "path relative to the folder of photos", nullable=False),
        column(pa, "sha256", pa.string(), "of the photo's bytes"),
        column(pa, "size", pa.int64(), "of the photo", "byte"),
        column(pa, "version", pa.string(), "what the storage tells of the photo's last change"),
        column(pa, "status", word, "the worst of the photo's faces", nullable=False),
        column(pa, "message", pa.string(), "empty where there is nothing to say", nullable=False),
        column(pa, "folder", pa.string(), "of the first fitted face's result, relative to the output folder"),
        column(pa, "faces", pa.int32(), "faces that were asked for and found", nullable=False),
        column(pa, "fitted_faces", pa.int32(), "those of them with a result", nullable=False),
        column(
            pa, "landmark_nme", pa.float64(), "mean landmark error of the first fitted face", "diagonal of their box"
        ),
        *(
            column(pa, f"part_iou_{name}", pa.float64(), "mean of parts 1-7" if name == "mean" else overlap, "1")
            for name in PARTS
        ),
        column(pa, "seconds", pa.float64(), "that the photo took a worker", "second", nullable=False),
        *(column(pa, f"seconds_{stage}", pa.float64(), "of this stage", "second") for stage in STAGES),
        column(pa, "options", word, "short hash of the options that made it", nullable=False),
    ]


def _table(pa: Any, schema: pyarrow.Schema, rows: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    # made as text first: pyarrow converts no Python strings to a dictionary
    arrays = [pa.array([row[each.name] for row in rows], _plain(pa, each.type)).cast(each.type) for each in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _plain(pa: Any, kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _row(record: Record) -> dict[str, str | float | None]:
    overlap = record.part_iou or {}
    texts = ("photo", "sha256", "version", "status", "message", "folder", "options")
    return {
        **{name: text(getattr(record, name)) for name in texts},
        "size": record.size,
        "faces": len(record.faces),
        "fitted_faces": sum(face.folder is not None for face in record.faces),
        "landmark_nme": number(record.landmark_nme),
        **{f"part_iou_{name}": number(overlap.get(name)) for name in PARTS},
        "seconds": record.seconds,
        **{f"seconds_{stage}": number(record.timings_s.get(stage)) for stage in STAGES},
    }


def text(value: str | None) -> str | None:
    """Without lone surrogates, which is how undecodable bytes of file names reach Python."""
    return None if value is None else value.encode("utf-8", "replace").decode("utf-8")


def number(value: float | None) -> float | None:
    """Null for what is not finite."""
    return None if value is None or not math.isfinite(value) else value
