"""`fit3d models`: which face models there are, what each is, and getting more of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d.commands.console import Console, json_line
from fit3d.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from fit3d.morphable.raw import RawModel
    from fit3d.morphable.store import StoredModel

NAME_WIDTH = 14

NameArgument = Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Replace a model of that name that is there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per model and line.")]


def models_list_command(as_json: AsJsonOption = False) -> None:
    """List the face models: those that `fit --model` can use, and those that can be added."""
    from fit3d.morphable.registry import known_or_stored_names

    console = Console(as_json=as_json)
    for name in known_or_stored_names():
        try:
            facts = _facts(name)
        except ModelFileError as error:  # the others are to be seen all the same
            console.warn(str(error))
        else:
            console.result(_line(facts), facts)


def models_info_command(name: NameArgument, as_json: AsJsonOption = False) -> None:
    """Say what a face model is: size, licence, source, expressions, annotation, and how to get it."""
    from fit3d.morphable.registry import known_or_stored_names

    names = known_or_stored_names()
    if name not in names:
        raise UsageError(f"no face model called '{name}'; there are {', '.join(names)}")
    facts = _facts(name)
    if as_json:
        print(json_line(facts))
        return
    for key, value in facts.items():
        if value is not None:
            print(f"{key:{NAME_WIDTH}} {_words(value)}")


def models_add_command(
    name: NameArgument,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="What the model's makers give out: a folder or a file, see `fit3d models info NAME`.",
            metavar="PATH",
        ),
    ] = None,
    mean: Annotated[
        Path | None, typer.Option("--mean", help="A model of your own: the mean head, an OBJ file.", metavar="FILE")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity",
            help="Folder of OBJ files of the same topology, each one standard deviation of one component off the mean.",
            metavar="FOLDER",
        ),
    ] = None,
    expression: Annotated[
        Path | None,
        typer.Option(
            "--expression",
            help="Folder of OBJ files of the same topology, each the mean head with one expression, best named as "
            "ARKit names it.",
            metavar="FOLDER",
        ),
    ] = None,
    annotation: Annotated[
        Path | None,
        typer.Option("--annotation", help="Its parts and landmarks, if you have them already (JSON).", metavar="FILE"),
    ] = None,
    replace: ReplaceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add a face model, from its makers' files or from meshes of your own, to those that `fit --model` can use."""
    from fit3d.morphable.registry import BUNDLED, KNOWN, read_known
    from fit3d.morphable.store import check_name

    check_name(name)
    if name == BUNDLED:
        raise UsageError(f"'{name}' is the model that comes with fit3d; choose another name")
    if (folder is None) == (mean is None):
        raise UsageError("give either --from PATH (the makers' files) or --mean FILE (meshes of your own)")
    if mean is None:
        if identity or expression:
            raise UsageError("--identity and --expression belong to --mean, a model of your own")
        assert folder is not None
        raw = read_known(name, folder)
    else:
        from fit3d.morphable.obj_model import read_meshes

        if name in KNOWN:
            raise UsageError(f"'{name}' is the name of a model that fit3d knows; choose another one for your own")
        raw = read_meshes(mean, identity, expression, name)
    _store(name, raw, annotation, replace, Console(quiet=quiet))


def models_pull_command(name: NameArgument, replace: ReplaceOption = False, quiet: QuietOption = False) -> None:
    """Download a free face model from its public repository. Interrupted, it goes on where it stopped."""
    import shutil

    from fit3d.morphable import ict
    from fit3d.morphable.registry import KNOWN
    from fit3d.morphable.store import downloads_folder, is_outdated, is_stored

    if name != ict.NAME:
        how = f"get it with {KNOWN[name].get}" if name in KNOWN else "see `fit3d models list`"
        raise UsageError(f"fit3d cannot download '{name}', only {ict.NAME}; {how}")
    if is_stored(name) and not replace and not is_outdated(name):
        raise UsageError(f"the face model '{name}' is there already; use --replace to get it anew")
    console = Console(quiet=quiet)
    folder = downloads_folder() / f"{name}-{ict.COMMIT[:12]}"
    names = ict.file_names()
    console.result(f"downloading {len(names)} files of about 2.5 MB from {ict.URL}", {})
    with console.progress(len(names)):

        def on_file(file: str) -> None:
            console.stage(file)
            console.advance()

        raw = ict.pull_ict(folder, on_file, ict.URL)
    _store(name, raw, None, replace, console)
    shutil.rmtree(folder, ignore_errors=True)


def models_remove_command(name: NameArgument, quiet: QuietOption = False) -> None:
    """Delete a face model that was added. The one that comes with fit3d stays."""
    from fit3d.morphable.registry import BUNDLED
    from fit3d.morphable.store import remove_stored

    if name == BUNDLED:
        raise UsageError(f"'{name}' comes with fit3d and cannot be removed")
    remove_stored(name)
    Console(quiet=quiet).result(f"removed {name}", {})


def _store(name: str, raw: RawModel, annotation: Path | None, replace: bool, console: Console) -> None:
    from fit3d.morphable.raw import with_annotation
    from fit3d.morphable.registry import bundled_annotation
    from fit3d.morphable.store import is_stored, store_model, stored_model

    if annotation is None and is_stored(name):
        old = stored_model(name, older=True)
        if (replace or old.outdated) and old.vertices == len(raw.mean):
            annotation = old.annotation  # it may have been edited by hand
    found = annotation or bundled_annotation(name)
    if found is not None:
        with_annotation(raw, found)  # refuses a damaged one, or one of another model, before anything is kept
    stored = store_model(name, raw, annotation, replace=replace)
    console.result(f"added {name} ({stored.version}): {_size(_stored_facts(stored))}, in {stored.path.parent}", {})
    console.result(stored.licence, {})
    if found is None:
        console.result(f"It has no parts and landmarks yet; make them with: fit3d models annotate {name}", {})
    elif annotation is not None and stored.expression_names:
        console.result(f"Of its expressions ARKit's shapes that it lacks can be made: fit3d models arkit {name}", {})


def _facts(name: str) -> dict[str, Any]:
    """What there is to say of a model, ready for JSON; None for what is not known before it is installed."""
    from fit3d.morphable.registry import BUNDLED, KNOWN
    from fit3d.morphable.store import is_stored, stored_model

    if name == BUNDLED:
        return _bundled_facts()
    if is_stored(name):
        return _stored_facts(stored_model(name))
    known = KNOWN[name]
    return {
        "name": name,
        "installed": False,
        "licence": known.licence,
        "licence_source": known.licence_source,
        "source": known.source,
        "vertices": known.vertices,
        "identity": known.identity,
        "expressions": known.expression,
        "size_of": known.size_of,
        "get": known.get,
    }


def _bundled_facts() -> dict[str, Any]:
    from fit3d.commands.arkit import arkit_facts
    from fit3d.morphable.registry import BUNDLED, load_model

    model = load_model(BUNDLED)
    return {
        "name": model.name,
        "installed": True,
        "version": model.version,
        "licence": model.licence,
        "source": model.source,
        "units": "metres",
        "vertices": len(model.mean),
        "faces": len(model.faces),
        "identity": len(model.identity),
        "expressions": len(model.expression_names),
        "expression": list(model.expression_names),
        **arkit_facts(model.expression_names, model.arkit),
        "objects": list(model.objects),
        **_annotation_facts(model),
        "get": "comes with fit3d",
    }


def _stored_facts(stored: StoredModel) -> dict[str, Any]:
    from fit3d.commands.arkit import arkit_facts
    from fit3d.morphable.arkit import read_combinations
    from fit3d.morphable.registry import KNOWN, annotation_of, load_model

    annotated = annotation_of(stored) is not None
    expressions = stored.expression_names
    found = {} if stored.arkit is None else read_combinations(stored.arkit, stored.sha256, expressions)
    return {
        "name": stored.name,
        "installed": True,
        "version": stored.version,
        "licence": stored.licence,
        "licence_source": KNOWN[stored.name].licence_source if stored.name in KNOWN else None,
        "source": stored.source,
        "sha256": stored.sha256,
        "units": "metres",
        "vertices": stored.vertices,
        "faces": stored.faces,
        "identity": stored.identity,
        "expressions": len(expressions),
        "expression": list(expressions),
        **arkit_facts(expressions, found),
        "joints": list(stored.joints),
        "objects": list(stored.objects),
        **(_annotation_facts(load_model(stored.name)) if annotated else {"parts": [], "landmarks": []}),
        "file": str(stored.path),
        "get": KNOWN[stored.name].get if stored.name in KNOWN else "added by you",
    }


def _annotation_facts(model: Any) -> dict[str, Any]:
    """Parts and landmarks of a `MorphableModel`."""
    from fit3d.labels import PART_NAMES

    labelled = set(model.annotation.field_labels.tolist()) | set(model.annotation.fixed_label.tolist())
    return {
        "parts": [PART_NAMES[label] for label in sorted(labelled) if label >= 0],
        "landmarks": sorted(model.landmarks),
    }


def _line(facts: dict[str, Any]) -> str:
    """The lines of one model in the list."""
    first = f"{facts['name']:{NAME_WIDTH}} "
    indent = " " * len(first)
    if facts["installed"]:
        checksum = f", sha256 {facts['sha256'][:12]}" if facts.get("sha256") else ""
        lines = [f"{first}installed, version {facts['version']}{checksum}; {_size(facts)}"]
        if not facts["landmarks"]:
            lines.append(f"without parts and landmarks; make them with: fit3d models annotate {facts['name']}")
    else:
        lines = [f"{first}not installed; {_size(facts)}", f"get it: {facts['get']}"]
    licence = facts["licence"]
    if facts.get("licence_source"):
        licence += f" See {facts['licence_source']}"
    return f"\n{indent}".join([*lines, licence, f"from {facts['source']}"])


def _size(facts: dict[str, Any]) -> str:
    """Vertices and shapes, in words."""

    words = {"vertices": "vertices", "identity": "identity shapes", "expressions": "expression shapes"}
    of = f" ({facts['size_of']})" if facts.get("size_of") else ""
    return ", ".join(f"{facts[key]:,} {what}" for key, what in words.items()) + of


def _words(value: Any) -> str:
    from fit3d.commands.arkit import residuals_in_words

    if isinstance(value, dict):
        if value and all(isinstance(each, float) for each in value.values()):
            return residuals_in_words(value)
        return "; ".join(f"{key} = {' + '.join(parts)}" for key, parts in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
