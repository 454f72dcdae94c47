"""Face models by name: the bundled one, those that can be added, and those that the user has added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from fit3d.errors import ModelFileError, UsageError
from fit3d.morphable import anny, bfm, faceverse, flame, ict, surrey
from fit3d.morphable.arkit import near_enough, read_combinations
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.raw import RawModel, with_annotation
from fit3d.morphable.store import StoredModel, is_stored, read_stored, stored_model, stored_names
from fit3d.resources import asset_path

BUNDLED = anny.NAME


@dataclass(frozen=True)
class KnownModel:
    """A model that fit3d can read from its makers' files."""

    licence: str
    """One plain sentence: may results be sold?"""
    source: str
    get: str
    """What to type, and where the files come from."""
    read: Callable[[Path], RawModel]
    """Makes a `RawModel` of the path that the user gives."""
    licence_source: str
    """Where the licence is stated."""
    vertices: int
    identity: int
    expression: int
    size_of: str | None = None
    """Of which of the makers' files these three are, where they give out several."""


def _read_bfm2009(path: Path) -> RawModel:
    return bfm.read_3ddfa_v3(path) if path.suffix.lower() == ".npy" else bfm.read_bfm2009(path)


def _read_flame_open(path: Path) -> RawModel:
    # of the three editions, results of this one alone may be sold: the word of the command line is not enough
    raw = flame.read_flame(path, "flame2023-open")
    if raw.version != "2023 Open":
        raise ModelFileError(
            f"{path}: its name does not say that it is FLAME 2023 Open; add it as flame2020 or flame2023, or give the "
            "file its original name, flame2023_Open.pkl"
        )
    return raw


_BASEL_SITE = "https://faces.dmi.unibas.ch/bfm/"
_FLAME_SITE = "after registering at flame.is.tue.mpg.de"
KNOWN: dict[str, KnownModel] = {
    ict.NAME: KnownModel(
        licence=ict.LICENCE,
        source=ict.SOURCE,
        get="fit3d models pull ict (or, with a checkout of its repository: fit3d models add ict --from FOLDER)",
        read=ict.read_ict,
        licence_source=f"https://github.com/USC-ICT/ICT-FaceKit/blob/{ict.COMMIT}/LICENSE",
        vertices=ict.VERTICES,
        identity=ict.IDENTITIES,
        expression=len(ict.EXPRESSIONS),
    ),
    "bfm2009": KnownModel(
        licence=bfm.LICENCE_2009,
        source="Basel Face Model 2009, University of Basel, with expressions of Guo et al. (FaceWarehouse)",
        get="fit3d models add bfm2009 --from FOLDER with Deep3D's BFM files, or --from face_model.npy of 3DDFA-V3",
        read=_read_bfm2009,
        licence_source=_BASEL_SITE,
        vertices=bfm.VERTICES_2009,
        identity=bfm.IDENTITY_2009,
        expression=bfm.EXPRESSION_2009,
        size_of="3DDFA-V3's or Deep3D's crop",
    ),
    **{
        f"bfm{year}": KnownModel(
            licence=bfm.LICENCE,
            source=f"Basel Face Model {year}, University of Basel",
            get=f"fit3d models add bfm{year} --from FILE.h5, after registering at faces.dmi.unibas.ch",
            read=partial(bfm.read_bfm_h5, name=f"bfm{year}"),
            licence_source=_BASEL_SITE,
            vertices=vertices,
            identity=199,
            expression=100,
            size_of=file,
        )
        for year, vertices, file in (
            (2017, 53149, "model2017-1_bfm_nomouth.h5"),
            (2019, 47439, "model2019_bfm.h5"),
        )
    },
    "flame2020": KnownModel(
        licence=flame.LICENCES["2020"],
        source="FLAME 2020, Max Planck Institute for Intelligent Systems",
        get=f"fit3d models add flame2020 --from generic_model.pkl, {_FLAME_SITE}",
        read=partial(flame.read_flame, name="flame2020", edition="2020"),
        licence_source=flame.LICENCE_URL,
        vertices=flame.VERTICES,
        identity=flame.IDENTITY_COUNT,
        expression=flame.EXPRESSION_COUNT + len(flame.TURNS),
    ),
    "flame2023": KnownModel(
        licence=flame.LICENCES["2023"],
        source="FLAME 2023, Max Planck Institute for Intelligent Systems",
        get=f"fit3d models add flame2023 --from flame2023.pkl, {_FLAME_SITE}",
        read=partial(flame.read_flame, name="flame2023", edition="2023"),
        licence_source=flame.LICENCE_URL,
        vertices=flame.VERTICES,
        identity=flame.IDENTITY_COUNT,
        expression=flame.EXPRESSION_COUNT + len(flame.TURNS),
    ),
    "flame2023-open": KnownModel(
        licence=flame.LICENCES["2023 Open"],
        source="FLAME 2023 Open, Max Planck Institute for Intelligent Systems",
        get=f"fit3d models add flame2023-open --from flame2023_Open.pkl, {_FLAME_SITE}",
        read=_read_flame_open,
        licence_source=flame.LICENCE_URL,
        vertices=flame.VERTICES,
        identity=flame.IDENTITY_COUNT,
        expression=flame.EXPRESSION_COUNT + len(flame.TURNS),
    ),
    surrey.NAME: KnownModel(
        licence=surrey.LICENCE,
        source=surrey.SOURCE,
        get="fit3d models add surrey --from FOLDER, the folder 'share' of a checkout of github.com/patrikhuber/eos",
        read=surrey.read_surrey,
        licence_source=surrey.LICENCE_URL,
        vertices=surrey.VERTICES,
        identity=surrey.IDENTITIES,
        expression=surrey.EXPRESSIONS,
    ),
    faceverse.NAME: KnownModel(
        licence=faceverse.LICENCE,
        source=faceverse.SOURCE,
        get="fit3d models add faceverse --from FILE.npy, linked at github.com/LizhenWangT/FaceVerse and FaceVerse_v4",
        read=faceverse.read_faceverse,
        licence_source=faceverse.LICENCE_URL,
        vertices=28632,
        identity=150,
        expression=52,
        size_of="version 2, faceverse_simple_v2.npy",
    ),
}
"""Models that can be added, by name."""


def known_or_stored_names() -> tuple[str, ...]:
    """All names there are: the bundled model, the known ones, then the user's own."""
    return tuple(dict.fromkeys((BUNDLED, *KNOWN, *stored_names())))


def load_model(name: str) -> MorphableModel:
    """The face model called `name`, read once per process.

    Raises:
        UsageError: there is none of that name, it is not installed, or nobody has annotated it yet.
        ModelFileError: a file of it is damaged.
    """
    if name == BUNDLED:
        return _load_bundled()
    if not is_stored(name):
        if name in KNOWN:
            raise UsageError(f"the face model '{name}' is not installed; get it with {KNOWN[name].get}")
        names = ", ".join((BUNDLED, *stored_names()))
        raise UsageError(f"no face model called '{name}'; choose one of {names}, or see `fit3d models list`")
    stored = stored_model(name)
    annotation = needed_annotation(stored)
    files = [path for path in (stored.path, annotation, stored.arkit) if path is not None]
    return _load_stored(stored, annotation, tuple((path, path.stat().st_mtime_ns) for path in files))


def needed_annotation(stored: StoredModel) -> Path:
    """`annotation_of` a stored model. Raises UsageError where there is none."""
    annotation = annotation_of(stored)
    if annotation is None:
        raise UsageError(
            f"the face model '{stored.name}' has no parts and landmarks yet; make them with: fit3d models annotate "
            f"{stored.name}"
        )
    return annotation


def annotation_of(stored: StoredModel) -> Path | None:
    """The annotation of a stored model: its own or, for the models that fit3d knows, the one that comes with fit3d."""
    return stored.annotation or bundled_annotation(stored.name)


def bundled_annotation(name: str) -> Path | None:
    """The annotation of the known model `name` that comes with fit3d, where there is one."""
    try:
        return asset_path(f"{name}/annotation.json") if name in KNOWN else None
    except ModelFileError:
        return None


def read_known(name: str, path: Path) -> RawModel:
    """The known model `name` from its makers' files at `path`.

    Raises:
        UsageError: fit3d does not know a model of that name.
        ModelFileError: the files are missing, damaged or of another model.
    """
    if name not in KNOWN:
        raise UsageError(f"fit3d does not know the files of a model called '{name}'; it knows {', '.join(KNOWN)}")
    return KNOWN[name].read(path)


@lru_cache(maxsize=1)
def _load_bundled() -> MorphableModel:
    return anny.load_anny()


@lru_cache(maxsize=4)
def _load_stored(stored: StoredModel, annotation: Path, stamps: tuple[tuple[Path, int], ...]) -> MorphableModel:
    """`stamps` makes a model that was changed on disk another one."""
    model = with_annotation(read_stored(stored.name), annotation)
    if stored.arkit is None:
        return model
    return replace(model, arkit=near_enough(read_combinations(stored.arkit, stored.sha256, model.expression_names)))
