"""The loss between parts that a configuration asks for."""

from __future__ import annotations

import torch

from fit3d.config import FitConfig
from fit3d.energy.chamfer import REACH_PX, ChamferRaster, DensityAwareChamferRaster
from fit3d.energy.combined import CombinedRaster
from fit3d.energy.icp import IcpRaster
from fit3d.energy.part_loss import PartLoss
from fit3d.energy.prdl_raster import PrdlRaster
from fit3d.energy.silhouette import SCALE_PX, SIGMA_PX, SilhouetteRaster


def part_loss(config: FitConfig, dtype: torch.dtype = torch.float32) -> PartLoss | None:
    """None for the loss 'landmarks', which does not look at parts."""
    unit = config.crop.unit_px
    if config.loss == "landmarks":
        return None
    if config.loss == "prdl":
        return PrdlRaster(config.anchors, config.prdl, dtype)
    if config.loss == "prdl+icp":
        both = config.combined
        return CombinedRaster(PrdlRaster(config.anchors, config.prdl, dtype), IcpRaster(dtype), both.prdl, both.icp)
    if config.loss == "chamfer":
        return ChamferRaster(dtype=dtype)
    if config.loss == "density-chamfer":
        return DensityAwareChamferRaster(reach_px=REACH_PX * unit, dtype=dtype)
    if config.loss == "icp":
        return IcpRaster(dtype=dtype)
    return SilhouetteRaster(sigma_px=SIGMA_PX * unit, scale_px=SCALE_PX * unit, dtype=dtype)


def loss_weight(config: FitConfig) -> float:
    """Energy of an error of one squared crop px in a part of weight 1."""
    rivals = config.rivals
    return {
        "prdl": config.prdl.weight,
        "prdl+icp": 1.0,
        "chamfer": rivals.chamfer,
        "density-chamfer": rivals.density_chamfer,
        "icp": rivals.icp,
        "silhouette": rivals.silhouette,
        "landmarks": 0.0,
    }[config.loss]
