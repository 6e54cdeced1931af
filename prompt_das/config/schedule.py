"""How many iterations a run has, and of which kind."""

from __future__ import annotations

from detectron2.config import CfgNode


def burn_in_iters(cfg: CfgNode) -> int:
    """Iterations on source images alone before the adaptation; 0 with ``MODEL.WEIGHTS``, a trained source model."""
    return cfg.DOMAIN_ADAPT.BURN_IN_ITERS if cfg.DOMAIN_ADAPT.ENABLED and not cfg.MODEL.WEIGHTS else 0


def num_iterations(cfg: CfgNode) -> int:
    """All iterations of the run: ``SOLVER.MAX_ITER``, less a burn-in that ``MODEL.WEIGHTS`` makes superfluous."""
    skipped = cfg.DOMAIN_ADAPT.BURN_IN_ITERS - burn_in_iters(cfg) if cfg.DOMAIN_ADAPT.ENABLED else 0
    return cfg.SOLVER.MAX_ITER - skipped


def adaptation_start(cfg: CfgNode) -> int:
    """The first iteration with target images; :func:`num_iterations` for a run that has none."""
    return burn_in_iters(cfg) if cfg.DOMAIN_ADAPT.ENABLED else num_iterations(cfg)
