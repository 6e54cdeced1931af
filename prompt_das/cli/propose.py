"""Propose places to click next."""

from __future__ import annotations

import argparse

from prompt_das.adaptation.proposals import write_proposals
from prompt_das.checkpoint.model_zoo import find_weights
from prompt_das.cli.adapt import show_warnings_only
from prompt_das.cli.input_volume import input_volume, overrides
from prompt_das.engine.outline import outline_of_diameter
from prompt_das.engine.propose import propose_clicks
from prompt_das.utils.output_paths import require_apart, require_nameable, require_replaceable


def run(args: argparse.Namespace) -> None:
    show_warnings_only()
    if args.output.suffix != ".csv":
        raise ValueError(f"{args.output}: proposals are written as .csv")
    require_replaceable(args.output, overwrite=args.overwrite)
    require_nameable(args.output)
    source = input_volume(args)
    require_apart([args.output], [find_weights(args.weights), *source.open().paths])
    opts = overrides(args)
    opts += outline_of_diameter(args.weights, source, opts=opts, plugins=args.plugin)
    proposals = propose_clicks(
        args.weights,
        source,
        args.number,
        num_slices=args.slices,
        opts=opts,
        plugins=args.plugin,
    )
    write_proposals(args.output, proposals)
    slices = len({proposal.z for proposal in proposals})
    print(f"{args.output}: {len(proposals)} places on {slices} slices, the largest expected error first")
