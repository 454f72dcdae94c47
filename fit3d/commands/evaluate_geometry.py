"""`fit3d evaluate geometry`: how near fits come to heads of known shape."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from fit3d.checks import check_positive
from fit3d.commands.console import table_row
from fit3d.commands.evaluate_options import OutputOptions, SolvingOptions
from fit3d.commands.evaluate_record import Recorder
from fit3d.commands.evaluate_scan import ScanOptions, measure_against_scan
from fit3d.commands.options import DEFAULTS, ModelOption, SeedOption, SolverOption
from fit3d.commands.with_options import with_options
from fit3d.config import Loss
from fit3d.errors import ObservationError, UsageError

if TYPE_CHECKING:
    from fit3d.evaluate.geometry import GeometryScore

_COLUMNS = ("neutral", "p90", "posed", "metric", "twice", "mean", "deg", "focal", "IoU", "id")
_YARDSTICK: Loss = "landmarks"
"""What every other loss is compared with: parts must not buy overlap with a worse shape."""


@with_options
def evaluate_geometry_command(
    context: typer.Context,
    heads: Annotated[int, typer.Option("--heads", min=1, help="How many random heads.")] = 16,
    noise: Annotated[
        str,
        typer.Option(
            "--noise",
            metavar="PX,PX,…",
            help="Standard deviations of the landmarks' errors, pixels of the 224-pixel face crop (about millimetres).",
        ),
    ] = "0,1.5,3",
    label_noise: Annotated[
        float,
        typer.Option(
            "--label-noise",
            metavar="SHARE",
            help="Errors of the part labels over those of the landmarks. Labels off by 0.75 px agree with the true "
            "ones by 83 percent (Part IoU), off by 1.5 px by 70, off by 3 px by 51.",
        ),
    ] = 0.5,
    seen: Annotated[
        Literal["noise", "smooth", "clay"],
        typer.Option(
            "--seen",
            help="Landmarks: 'noise' errs each by itself, 'smooth' together with its neighbours, 'clay' is what "
            "MediaPipe finds in a picture of the head in clay, so that --noise is for the labels only.",
        ),
    ] = "noise",
    focal: Annotated[
        Literal["known", "unknown"],
        typer.Option(
            "--focal", help="Whether the fit is told the focal length; 'unknown' ones range from 15 to 60 degrees."
        ),
    ] = "known",
    loss: Annotated[
        str, typer.Option("--loss", metavar="LOSS,LOSS,…", help=f"Of {', '.join(get_args(Loss))}.")
    ] = "landmarks,prdl,prdl+icp",
    model: ModelOption = "anny",
    truth: Annotated[
        str | None,
        typer.Option(
            "--truth",
            metavar="NAME",
            help="Face model that the heads are drawn from. Default: the model that is fitted.",
            show_default=False,
        ),
    ] = None,
    solver: SolverOption = DEFAULTS.solver,
    seed: SeedOption = DEFAULTS.seed,
    *,
    solving: SolvingOptions,
    scanned: ScanOptions,
    output: OutputOptions,
) -> int:
    """Error in millimetres on heads of known shape, by the loss that fits them and the errors of what is seen.

    Heads are drawn from a face model (standard normal identity), each photographed twice (four random expressions, yaw
    up to 40 degrees, pitch and roll up to 15), and fitted from landmarks and part labels with errors: borders of parts
    are shifted by a smooth random field. All figures are means over both photos.

    Columns: mean and 90th percentile of the distances over the face without expression, and mean with expression, after
    the best similarity; mean without expression after the best rigid motion (the size counts); the same after the best
    similarity between the two fits of one head; the mean head's error for comparison; rotation error in degrees; focal
    length error in percent; mean Part IoU with the true labels in percent; RMS of the identity. Distances are between
    corresponding vertices or, where --truth is another model, from the true face to the fitted surface.

    Below the table, for every loss, by how much its first column differs from that of landmarks alone.

    With FIT, --scan and --landmarks instead: distances from the points of a scan of the true face to the fitted mesh,
    after an alignment by landmarks and closest points; of the face, as the NoW benchmark cuts it out. An expression
    that the scan does not show counts as error.

    Exit code: 0 all done; 2 wrong usage.
    """
    recorder = Recorder(context)
    if scanned.fit or scanned.scan or scanned.landmarks:
        return measure_against_scan(scanned, model, output.console(), recorder)
    levels, losses = _noise_levels(noise), _losses(loss)
    check_positive("--label-noise", label_noise, zero=True)
    configs = [solving.config(each, solver, seed) for each in losses]
    import numpy as np

    from fit3d.evaluate.geometry import (
        BATCH,
        FOV_DEG,
        FOV_RANGE_DEG,
        LAYOUT,
        average_geometry,
        disturbed,
        fit_known,
        fits_apart_mm,
        photographed_twice,
        score_known,
        surface_ruler,
        vertex_ruler,
    )
    from fit3d.evaluate.record import Data
    from fit3d.morphable.registry import load_model
    from fit3d.observe.registry import landmark_detector

    fitted_model, true_model = load_model(model), load_model(truth or model)
    same = true_model is fitted_model
    ruler = vertex_ruler(fitted_model) if same else surface_ruler(fitted_model, true_model, LAYOUT)
    fov_deg = (FOV_DEG, FOV_DEG) if focal == "known" else FOV_RANGE_DEG
    detector = landmark_detector("mediapipe") if seen == "clay" else None
    photos = photographed_twice(true_model, heads, seed, configs[0], fov_deg, detector)
    console = output.console()
    if len(photos) < 2 * heads:
        console.warn(f"no face found in the clay of {2 * heads - len(photos)} of {2 * heads} photos; they do not count")
    if not photos:
        raise ObservationError("no face found in the clay of any head: there is nothing to fit")
    rows: list[dict[str, Any]] = []
    by_photo: list[dict[str, Any]] = []
    neutral_mm: dict[tuple[Loss, float], list[float]] = {}
    if not output.as_json:
        console.result(table_row("noise px, loss", _COLUMNS), {})
    with console.progress(len(levels) * len(losses) * len(photos)):
        for level in levels:
            observed = [
                disturbed(
                    photo.seen, seen, level, label_noise * level, np.random.default_rng([seed, index]), configs[0]
                )
                for index, photo in enumerate(photos)
            ]
            for config in configs:
                console.stage(f"noise {level:g} px, {config.loss}")
                fits = []
                for first in range(0, len(photos), BATCH):
                    some = slice(first, first + BATCH)
                    fits += fit_known(fitted_model, photos[some], observed[some], config, focal == "known")
                    console.advance(len(photos[some]))
                pairs = zip(photos, fits, strict=True)
                scores = [score_known(true_model, photo, fit, ruler) for photo, fit in pairs]
                apart = fits_apart_mm(fitted_model, photos, fits)
                average, twice = average_geometry(scores), statistics.fmean(apart) if apart else math.nan
                by_photo += [
                    {"group": f"{config.loss}, {level:g} px", "photo": f"head {photo.person + 1}, photo {index + 1}"}
                    | vars(score)
                    for index, (photo, score) in enumerate(zip(photos, scores, strict=True))
                ]
                neutral_mm[config.loss, level] = [score.neutral_mm for score in scores]
                rows.append({"noise_px": level, "loss": config.loss, **vars(average), "twice_mm": twice})
                if not output.as_json:
                    console.result(_score_row(f"{level:g}, {config.loss}", average, twice), {})
    against = {
        each: {level: _difference(neutral_mm[each, level], neutral_mm[_YARDSTICK, level]) for level in levels}
        for each in losses
        if each != _YARDSTICK and _YARDSTICK in losses
    }
    if output.as_json:
        drawn = {"model": f"{true_model.name} {true_model.version}", "heads": heads, "seed": seed, "seen": seen}
        settings = {**drawn, "focal": focal, "label_noise": label_noise, "photos": len(photos)}
        data = Data.of_settings(f"{heads} heads drawn from {true_model.name}, seed {seed}", len(photos), settings)
        figures = {
            **{"model": model, "truth": truth or model, "heads": heads, "seed": seed},
            **{"seen": seen, "label_noise": label_noise, "focal": focal},
            **{"distance": "vertices" if same else "surface", "rows": rows},
            "against_landmarks": [
                {"loss": each, "noise_px": level, "neutral_mm": mean, "standard_error_mm": error}
                for each, by_level in against.items()
                for level, (mean, error) in by_level.items()
            ],
            "photos": by_photo,
        }
        console.result("", recorder.record(data, figures, solving.device))
    for each, by_level in against.items():
        if not output.as_json:
            console.result(_verdict(each, by_level), {})
    return 0


def _noise_levels(text: str) -> list[float]:
    """The numbers of a list such as '0,1.5,3'."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = [math.nan]
    if not all(math.isfinite(level) and level >= 0 for level in levels):
        raise UsageError(f"--noise {text}: expected numbers of pixels from 0 on, separated by commas, such as 0,1.5,3")
    return list(dict.fromkeys(levels))


def _losses(text: str) -> list[Loss]:
    """The losses of a list such as 'landmarks,prdl'."""
    known = {name: name for name in get_args(Loss)}
    try:
        return list(dict.fromkeys(known[name.strip()] for name in text.split(",")))
    except KeyError as error:
        raise UsageError(f"--loss {text}: expected some of {', '.join(known)}, separated by commas") from error


def _difference(errors: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Mean of `errors` minus `others`, photo by photo, and its standard error (NaN of a single photo)."""
    differences = [one - other for one, other in zip(errors, others, strict=True)]
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return statistics.fmean(differences), spread


def _verdict(loss: Loss, by_level: dict[float, tuple[float, float]]) -> str:
    """One line: whether a loss keeps the rule that parts must not make the shape worse."""
    worse = [f"{level:g}" for level, (mean, _) in by_level.items() if mean > 0]
    figures = ", ".join(f"{level:g} px: {mean:+.3f} ± {error:.3f}" for level, (mean, error) in by_level.items())
    kept = f"worse at {', '.join(worse)} px" if worse else "never worse"
    return f"{loss} against {_YARDSTICK}, neutral mm, {figures}: {kept}"


def _score_row(name: str, score: GeometryScore, twice_mm: float) -> str:
    millimetres = (score.neutral_mm, score.neutral_p90_mm, score.posed_mm, score.metric_mm, twice_mm)
    cells = [f"{value:.2f}" for value in (*millimetres, score.mean_head_mm, score.rotation_deg)]
    cells += [f"{100.0 * value:.1f}" for value in (score.focal_error, score.part_iou)]
    return table_row(name, [*cells, f"{score.identity_rms:.2f}"])
