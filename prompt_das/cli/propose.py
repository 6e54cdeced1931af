"""Propose places to click next."""

from __future__ import annotations

import argparse

from prompt_das.adaptation.proposals import write_proposals
from prompt_das.cli.adapt import show_warnings_only
from prompt_das.cli.input_volume import input_volume, overrides
from prompt_das.engine.propose import propose_clicks


def run(args: argparse.Namespace) -> None:
    show_warnings_only()
    if args.output.suffix != ".csv":
        raise ValueError(f"{args.output}: proposals are written as .csv")
    if args.output.exists() and not args.overwrite:
        raise FileExistsError(f"{args.output} exists already; replace it with --overwrite, or choose another --output")
    source = input_volume(args)
    proposals = propose_clicks(
        args.weights,
        source,
        args.number,
        num_slices=args.slices,
        opts=overrides(args),
        plugins=args.plugin,
    )
    write_proposals(args.output, proposals)
    slices = len({proposal.z for proposal in proposals})
    print(f"{args.output}: {len(proposals)} places on {slices} slices, the most uncertain first")
