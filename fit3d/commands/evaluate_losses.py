"""`fit3d evaluate losses`: PRDL and its rivals in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d.commands.console import Console, failure_of_photo
from fit3d.commands.evaluate import PART_COLUMNS, SHORT_NAMES
from fit3d.commands.evaluate_options import (
    BackendOptions,
    LabelledFolder,
    LabelsOption,
    ObservedOption,
    OutputOptions,
    SolvingOptions,
)
from fit3d.commands.evaluate_record import Recorder
from fit3d.commands.evaluate_table import as_table, number, percent
from fit3d.commands.options import DEFAULTS, ModelOption, SeedOption
from fit3d.commands.with_options import with_options
from fit3d.config import FitConfig, Loss

if TYPE_CHECKING:
    from fit3d.evaluate.losses import Ablation, LabelledFace, LossScore, SeenHead, Variant
    from fit3d.morphable.model import MorphableModel

_DRIVERS = ("landmarks and parts", "parts alone")


@with_options
def evaluate_losses_command(
    context: typer.Context,
    folder: LabelledFolder,
    labels: LabelsOption = "auto",
    observed: ObservedOption = "labels",
    starts: Annotated[
        int, typer.Option("--starts", min=0, help="Disturbed starts of each kind for each photo; 0 leaves them out.")
    ] = 1,
    known_heads: Annotated[
        int,
        typer.Option(
            "--known-heads", min=0, help="Heads of known shape on which the error of the shape is measured besides."
        ),
    ] = 0,
    ablate: Annotated[bool, typer.Option("--ablate", help="Also change one choice within PRDL at a time.")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="Also try several weights of each loss.")] = False,
    model: ModelOption = "anny",
    seed: SeedOption = DEFAULTS.seed,
    *,
    backends: BackendOptions,
    solving: SolvingOptions,
    output: OutputOptions,
) -> int:
    """PRDL and its rivals on photos with labels that people drew, as tables in Markdown.

    First the overlap (Part IoU, percent) of the fitted parts with the people's labels, driven by landmarks and parts,
    then by parts alone: mean over eyes, brows, nose and lips, each of them, skin; RMS of the identity (mean and largest
    photo); steps and evaluations of the stage with parts; median seconds of a whole fit; how many fits failed (an
    error, or a mean under 50 %).

    Then the basin of convergence: fits from parts alone that start from the mean head at the pose of the landmarks,
    disturbed by yaw, pitch or roll up to 40 degrees, a shift up to 30 % of the crop, a size up to 1.5 times larger or
    smaller, or all together at random. A fit has recovered that reaches nine tenths of the overlap which its loss
    reaches undisturbed on that photo. Shown is the share that did, in percent, and in brackets the share at the limit.

    --known-heads adds the mean error of the shape without expression, mm, on heads drawn from the model, whose labels
    and landmarks are off by smooth fields of 0.75 and 1.5 crop px. --ablate shows which statistics, anchors, cuts and
    points matter in PRDL. --tune tries weights and says which ones photos, leaving one out at a time, choose by the
    highest overlap at a mean identity RMS of at most 0.7, and which ones known heads choose by the lowest error.

    Exit code: 0 all photos fitted; 1 some photo could not be fitted; 2 wrong usage.

    Detector and parser are the embedded ones unless others are asked for, so that figures do not depend on which
    weights are there.
    """
    backends.check()
    recorder = Recorder(context)
    config = solving.config("prdl", seed=seed)
    from fit3d.evaluate import losses
    from fit3d.evaluate.label_files import digest_of, labelled_photos
    from fit3d.evaluate.record import Data
    from fit3d.morphable.registry import load_model

    pairs = labelled_photos(folder, labels)
    face_model = load_model(model)
    console = output.console()
    faces: list[LabelledFace] = []
    failures: dict[str, str] = {}
    for pair in pairs:
        try:
            faces.append(
                losses.see_labelled(pair, observed=observed, landmarks=backends.landmarks, parser=backends.parser)
            )
        except Exception as error:
            failures[pair.photo.name] = failure_of_photo(error)[1]
            console.error(f"{pair.photo.name}: {failures[pair.photo.name]}")
    heads = losses.see_heads(face_model, known_heads, seed, config)
    changes = losses.ablations(config) if ablate else []
    count = len(losses.PART_LOSSES)
    total = 2 * count + 1 + (count if starts else 0) + 2 * len(changes) + (count * len(losses.WEIGHTS) if tune else 0)
    report: dict[str, Any] = {"seed": seed}
    with console.progress(total if faces else 0):
        if faces:
            run = _Run(console, face_model, config, faces, heads)
            losses.score_loss(face_model, faces[:1], heads[:1], losses.Variant(config))  # the first fit is not timed
            for driver in _DRIVERS:
                compared, errors = run.compare(driver)
                report[driver.replace(" ", "_")] = compared
                failures.update(errors)
            fitted = [face for face in faces if face.photo not in failures]
            if starts and fitted:
                report["basin"] = replace(run, faces=fitted).basins(starts, seed)
            if ablate:
                report["ablations"] = run.ablate(changes)
            if tune:
                report["tuning"] = run.tune()
    if output.as_json:
        data = Data(folder.resolve().name, len(pairs), digest_of(pairs))
        figures = {**report, "failures": failures, "photos": run.rows if faces else []}
        console.result("", recorder.record(data, figures, solving.device))
    return 1 if failures else 0


@dataclass(frozen=True)
class _Run:
    """The measurements, each of which prints its table and returns what --json reports."""

    console: Console
    model: MorphableModel
    config: FitConfig
    faces: Sequence[LabelledFace]
    heads: Sequence[SeenHead]
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of each photo with each loss, as `compare` finds them."""

    def score(self, driver: str, variant: Variant) -> LossScore:
        """Fits of all photos and heads."""
        from fit3d.evaluate.losses import score_loss

        faces, heads = self.faces, self.heads
        if driver == "parts alone":
            faces, heads = [face.without_landmarks() for face in faces], [head.without_landmarks() for head in heads]
        found = score_loss(self.model, faces, heads, variant)
        self.console.advance()
        return found

    def compare(self, driver: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Every loss; the second are errors by photo."""
        from fit3d.evaluate.losses import PART_LOSSES, Variant

        scores: dict[Loss, LossScore] = {}
        errors: dict[str, str] = {}
        for loss in (*PART_LOSSES, *(("landmarks",) if driver != "parts alone" else ())):
            self.console.stage(f"{driver}, {loss}")
            scores[loss] = found = self.score(driver, Variant(replace(self.config, loss=loss)))
            fitted = {score.photo for score in found.photos}
            self.rows.extend({"group": f"{driver}, {loss}", **vars(score)} for score in found.photos)
            errors.update({photo: reason for photo, reason in found.failures.items() if photo not in fitted})
        names = [SHORT_NAMES.get(name, name) for name in PART_COLUMNS]
        headers = ["loss", *names, "id", "max", "steps", "evals", "s", "failed"] + ["mm"] * bool(self.heads)
        rows = []
        for loss, found in scores.items():
            figures = found.summary()
            cells = [percent(found.part_iou.get(name)) for name in PART_COLUMNS]
            cells += [number(figures[name]) for name in ("identity_rms", "identity_rms_max")]
            cells += [number(figures[name], 1) for name in ("steps", "evaluations")]
            cells += [number(figures["fit_s"]), str(len(found.failures))]
            rows.append([loss, *cells, *([number(figures["neutral_mm"])] if self.heads else [])])
        self.say(f"Driven by {driver}", headers, rows)
        return {loss: found.summary() for loss, found in scores.items()}, errors

    def basins(self, starts: int, seed: int) -> dict[str, Any]:
        """Disturbed starts, every loss that looks at parts."""
        from fit3d.evaluate.losses import KINDS, PART_LOSSES, measure_basin, reference_poses

        poses = reference_poses(self.model, self.faces, self.config)
        found, rows = {}, []
        for loss in PART_LOSSES:
            self.console.stage(f"disturbed starts, {loss}")
            config = replace(self.config, loss=loss)
            found[loss] = basin = measure_basin(self.model, self.faces, poses, config, starts, seed)
            kinds = [f"{percent(basin.share(k), 0)} ({percent(basin.share(k, True), 0)})" for k in KINDS[:-1]]
            cells = [percent(basin.undisturbed_iou), *kinds, percent(basin.share("together"), 0)]
            rows.append([loss, *cells, percent(basin.share(), 0), percent(basin.mean_iou)])
            self.console.advance()
        title = f"Recovered from disturbed starts, parts alone, {starts} of each kind for each photo"
        self.say(title, ["loss", "undisturbed", *KINDS, "all", "mean IoU"], rows)
        return {loss: basin.summary() for loss, basin in found.items()}

    def ablate(self, changes: Sequence[Ablation]) -> list[dict[str, Any]]:
        """One choice within PRDL changed at a time, for both drivers."""
        done: dict[tuple[str, Variant], LossScore] = {}
        found, rows = [], []
        for change in changes:
            cells: list[str] = []
            summaries: dict[str, Any] = {"group": change.group, "value": change.value}
            for driver in _DRIVERS:
                self.console.stage(f"{change.group}: {change.value}, {driver}")
                if (driver, change.variant) not in done:  # the default is part of every group
                    done[driver, change.variant] = self.score(driver, change.variant)
                else:
                    self.console.advance()
                summaries[driver.replace(" ", "_")] = figures = done[driver, change.variant].summary()
                cells += [percent(done[driver, change.variant].part_iou.get("mean")), number(figures["identity_rms"])]
                cells += [number(figures["neutral_mm"])] if self.heads else []
                cells += [number(figures["fit_s"])]
            found.append(summaries)
            rows.append([change.group, change.value, *cells])
        figures_of_each = ["IoU", "id", *(["mm"] if self.heads else []), "s"]
        headers = [*figures_of_each, *(f"alone: {name}" for name in figures_of_each)]
        self.say(
            "PRDL with one choice changed, driven by landmarks and parts, and by parts alone",
            ["choice", "value", *headers],
            rows,
        )
        return found

    def tune(self) -> dict[str, Any]:
        """Every loss that looks at parts with several weights."""
        from fit3d.evaluate.losses import PART_LOSSES, WEIGHTS, Tuning, Variant, with_weight

        found, rows = {}, []
        for loss in PART_LOSSES:
            self.console.stage(f"weights of {loss}")
            config = replace(self.config, loss=loss)
            variants = {weight: Variant(with_weight(config, weight)) for weight in WEIGHTS}
            found[loss] = tuning = Tuning(
                {weight: self.score("landmarks and parts", variant) for weight, variant in variants.items()}
            )
            cells = []
            for score in tuning.scores.values():
                figures = score.summary()
                cell = f"{percent(score.part_iou.get('mean'))}, {number(figures['identity_rms'])}"
                cells.append(f"{cell}, {number(figures['neutral_mm'])}" if self.heads else cell)
            figures = tuning.summary()
            cells += [_votes(figures["by_photos"]), percent(figures["held_out_iou"])]
            cells += [_votes(figures["by_heads"]), number(figures["held_out_mm"])] if self.heads else []
            rows.append([loss, *cells])
        chosen = ["by photos", "held-out IoU", *(["by heads", "held-out mm"] if self.heads else [])]
        title = "Weights, driven by landmarks and parts: mean IoU, identity RMS" + (", mm" if self.heads else "")
        self.say(title, ["loss", *(f"{weight:g}" for weight in WEIGHTS), *chosen], rows)
        return {loss: tuning.summary() for loss, tuning in found.items()}

    def say(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table in Markdown with aligned columns; nothing with --json."""
        if self.console.as_json:
            return
        self.console.result(f"### {title}\n\n{as_table(headers, rows)}\n", {})


def _votes(counts: dict[str, int]) -> str:
    """Weights and how many photos or heads chose them, such as '30 (9), 10 (1)'."""
    return ", ".join(f"{weight} ({count})" for weight, count in counts.items()) or "-"
