"""Where in OUT the results of each photo go: the folders mirrored, every name in use once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from fit3d.export.files import folded, output_folder, safe_stem

OWN_NAMES = ("batch.json", "index.html", "results.jsonl", "results.parquet", "thumbnails")
"""What a batch itself keeps in OUT, beside hidden files."""
_LOG = re.compile(r"results-[0-9]+-of-[0-9]+\.jsonl")
_FACE = re.compile(r".*-face[0-9]+")


def places(
    names: Sequence[str],
    earlier: Iterable[tuple[str, str]],
    every_face: bool,
    taken: Sequence[str] = OWN_NAMES,
    is_shard: bool = False,
) -> Iterator[str]:
    """The folder of each photo's result, relative to OUT: for 'a/b/c.jpg' it is 'a/b/c'.

    Where a name is taken, by a photo of the same stem or by a folder of photos, '-2', '-3', ... follows; names that
    are alike to some file system count as the same, see `folded`. A photo keeps the folder that it had, whatever
    photos came since.

    Shards, which do not see what others are about to write, call photos of the same stem by their whole names,
    'a/c.jpg' and 'a/c.png': a number would depend on which photos there were when each shard began.

    Args:
        names: of all photos of the call, sorted.
        earlier: photos of earlier calls with their folders.
        every_face: whether '-face1', '-face2', ... are added to the folders.
        taken: names at the top of OUT that no result may have, such as that of the folder with the photos.
        is_shard: whether others write to OUT at the same time.
    """
    had = dict(earlier)
    used: dict[str, set[str]] = defaultdict(set)
    used[""].update(map(folded, taken))
    last: dict[str, dict[str, int]] = defaultdict(dict)
    folders = {"": ""}
    for photo, place in had.items():
        _keep(photo, place, folders, used)
    for folder in sorted({str(each) for name in names for each in list(PurePosixPath(name).parents)[:-1]}):
        if folder not in folders:
            path = PurePosixPath(folder)
            stem = f"{path.name}_" if every_face and _FACE.fullmatch(path.name.casefold()) else path.name
            folders[folder] = _new(folders[_parent(folder)], stem, used, last)
    alike = Counter(map(_stem_in_folder, names)) if is_shard else Counter()
    for name in names:
        path, kept = PurePosixPath(name), had.get(name)
        stem = path.name if alike[_stem_in_folder(name)] > 1 else path.stem
        yield kept if kept else _new(folders[_parent(name)], stem, used, last)


def _keep(photo: str, place: str, folders: dict[str, str], used: dict[str, set[str]]) -> None:
    """Take note of a photo's place, and of those of the folders that it is in."""
    sources, targets = PurePosixPath(photo), PurePosixPath(place)
    if not place or len(sources.parts) != len(targets.parts):
        return  # nothing that we wrote
    for source, target in zip((sources, *sources.parents), (targets, *targets.parents), strict=True):
        if target != PurePosixPath():
            used[_parent(str(target))].add(folded(target.name))
        if source != sources:
            folders.setdefault(_text(source), _text(target))


def _stem_in_folder(name: str) -> tuple[str, str]:
    """Alike for photos that would have one folder."""
    return _parent(name), folded(safe_stem(PurePosixPath(name).stem))


def _new(parent: str, stem: str, used: dict[str, set[str]], last: dict[str, dict[str, int]]) -> str:
    if not parent and _LOG.fullmatch(stem.casefold()):
        stem = f"_{stem}"
    return output_folder(parent, stem, used[parent], last[parent]).as_posix()


def _parent(name: str) -> str:
    return _text(PurePosixPath(name).parent)


def _text(path: PurePosixPath) -> str:
    return "" if path == PurePosixPath() else str(path)
