"""The command `prompt-das`: what can be typed. What each command does is in :mod:`prompt_das.cli`.

A module beside the package, since importing the package fills Detectron2's registries: that takes torch, and seconds
that `--help` should not take. Nothing but the standard library is imported before the arguments have been read.
"""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

THREADS = min(4, os.cpu_count() or 1)
INPUT = "the volume: a folder of slices, TIFF, MRC, HDF5, Zarr, YAML, a name"
WEIGHTS = "a checkpoint (.pth), a .safetensors file, or the name of a model"


def train(parser: argparse.ArgumentParser) -> None:
    """Train a model: burn-in on the source, adaptation to the target, evaluation.

        prompt-das train --config-file rat2human_wda
        prompt-das train --config-file rat2human_wda --resume --num-gpus 4
        prompt-das train --config-file rat2human_wda MODEL.WEIGHTS output/rat2human_source/model_final.pth

    Stopped by SIGTERM or Ctrl-C, it writes a checkpoint and ends with exit code 75; --resume goes on there.
    """
    add_config_file(parser)
    add_plugin(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--overwrite", action="store_true", help="remove the run that is in OUTPUT_DIR, and begin anew")
    parser.add_argument("--allow-changes", action="store_true", help="resume with settings that change the run")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS instead, as `evaluate` does")
    add_processes(parser)
    add_last_options(parser)
    parser.set_defaults(clicks=False)


def evaluate(parser: argparse.ArgumentParser) -> None:
    """Evaluate a trained model on DATASETS.TEST, or compare finished label volumes of any tool with the truth.

        prompt-das evaluate --config-file rat2human_wda --weights output/rat2human_wda/model_final.pth
        prompt-das evaluate --config-file rat2human_wda --weights model.safetensors \\
            TEST.WINDOW.STRIDE 128 TEST.WINDOW.ROTATIONS 4
        prompt-das evaluate --config-file rat2human_wda --weights model.safetensors --clicks
        prompt-das evaluate --weights em-small DATASETS.TEST "('lucchi_test',)"
        prompt-das evaluate --predictions ours.zarr other.h5::main --truth my_lab.yaml --output comparison

    The keys of the second example are the paper's windows. Without --config-file the config inside the weights
    counts. The results are printed, and written to OUTPUT_DIR/inference. With --clicks simulated users correct each
    slice click by click, at the largest error: Dice and PQ against the number of clicks, and what one click does.

    With --predictions no model is run: label volumes (TIFF, HDF5, Zarr, folders; `path::array` is an array inside a
    file) are compared with --truth in slices and in 3-D, side by side in one table.
    """
    add_config_file(parser)
    add_plugin(parser)
    parser.add_argument("--weights", help=f"{WEIGHTS}; default: MODEL.WEIGHTS")
    parser.add_argument("--clicks", action="store_true", help="evaluate clicking instead, in one process")
    parser.add_argument("--predictions", nargs="+", default=[], metavar="LABELS", help="label volumes to compare")
    parser.add_argument("--truth", metavar="LABELS", help="label volume, YAML that describes one, or a name")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="new folder for summary.json and pictures")
    parser.add_argument("--pictures", type=int, default=3, metavar="N", help="slices drawn (default: %(default)s)")
    add_diameter(parser)
    add_processes(parser)
    add_last_options(parser)
    parser.set_defaults(eval_only=True, resume=False)


def predict(parser: argparse.ArgumentParser) -> None:
    """Segment a volume of any size: probability, center density and instances, of every slice or linked to 3-D.

        prompt-das predict --weights output/rat2human_wda/model_final.pth --input scans/ --output result.zarr
        prompt-das predict --weights my_model.safetensors --input my_lab.yaml --output result.tif \\
            --points clicks.csv --table instances.csv
        prompt-das predict --weights em-small --input scans/ --roi 100:150,2000:4000,: --output part.zarr

    INPUT is a folder of slices, a TIFF, MRC, HDF5 or Zarr volume, a single image, a Zarr at an https://, s3:// or gs://
    address, a YAML file that describes a volume, or a registered name such as lucchi_test. OUTPUT is OME-Zarr, HDF5 or
    TIFF by its ending. It appears when it is complete; stopped before, the same command goes on where it was.
    """
    parser.add_argument("--weights", required=True, help=WEIGHTS)
    parser.add_argument("--input", required=True, help="the volume, see above")
    parser.add_argument("--output", required=True, type=Path, help="*.zarr, *.h5 or *.tif")
    parser.add_argument("--points", help="prompts: CSV with z, y, x (a napari export), or JSON; default: the YAML's")
    parser.add_argument("--table", type=Path, help="*.csv or *.parquet with one row for each instance")
    parser.add_argument("--ome-version", choices=["0.4", "0.5"], default="0.4", help="of *.zarr; 0.5 has shards")
    parser.add_argument("--instances", choices=["volume", "slice"], default="volume", help="3-D, or of each slice")
    parser.add_argument(
        "--instances-from",
        choices=["components", "centers"],
        help="centers: split what touches at predicted centers and clicks; default: TEST.INSTANCES",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="lowest probability of foreground (default: %(default)s); below 0.5, components come back that "
        "TEST.MIN_CONFIDENCE leaves out",
    )
    parser.add_argument(
        "--min-size", type=int, help="remove instances of at most so many voxels; default: the config's"
    )
    parser.add_argument("--no-density", action="store_true", help="without the center-point head, which takes its time")
    parser.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="at slices that cannot be read")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT, or an unfinished one")
    add_array(parser)
    add_region(parser)
    add_diameter(parser)
    parser.add_argument("--config-file", help="default: the one in the weights or beside them")
    add_plugin(parser)
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; default: the config's, or cpu where there is no GPU")
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="tcp://HOST:PORT",
        help="predict on a Dask cluster: a scheduler's address, or nothing for processes on this machine",
    )
    parser.add_argument("--workers", type=int, help="of a local Dask cluster; default: one for each GPU, or core")
    parser.add_argument(
        "--patience",
        type=float,
        default=120,
        metavar="SECONDS",
        help="how long a Dask cluster may be without workers, which may wait in a queue; default: %(default)s",
    )
    add_options(parser)


def adapt(parser: argparse.ArgumentParser) -> None:
    """Adapt weights to your volume: from its images and a few clicks, without anybody's labels, in ten minutes.

        prompt-das adapt --weights em-small --input scans/ --points clicks.csv --output mine.safetensors
        prompt-das adapt --weights em-small --input scans/ --points clicks.csv --output mine.safetensors --resume
        prompt-das adapt --weights em-small --input my_lab.yaml --output mine.safetensors --source synthetic

    INPUT is whatever `predict` takes, POINTS any file of points (label 0: a negative click); without them the network
    makes points itself. A fifth of the clicks is kept aside to watch the adaptation: the last moment is written at
    which they found no harm, and where there is none, the weights as they were. Stopped by Ctrl-C, it ends with exit
    code 75; --resume goes on.
    """
    parser.add_argument("--weights", required=True, help=WEIGHTS)
    parser.add_argument("--input", required=True, help=INPUT)
    parser.add_argument("--points", help="clicks: CSV with z, y, x (a napari export), or JSON; default: the YAML's")
    parser.add_argument("--output", required=True, type=Path, help="*.safetensors or *.pth")
    parser.add_argument("--source", help="train on a labeled volume as well: a name, `synthetic`, or its YAML")
    parser.add_argument("--minutes", type=float, default=10, help="budget of time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    begun = parser.add_mutually_exclusive_group()
    begun.add_argument("--resume", action="store_true", help="go on with an adaptation that was stopped")
    begun.add_argument("--overwrite", action="store_true", help="replace OUTPUT, or an adaptation that was stopped")
    add_array(parser)
    add_region(parser)
    add_diameter(parser)
    add_plugin(parser)
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; default: the config's, or cpu where there is no GPU")
    add_options(parser)


def propose(parser: argparse.ArgumentParser) -> None:
    """Propose the places that are worth clicking next, the most uncertain first, as a file of points.

        prompt-das propose --weights em-small --input scans/ --points clicks.csv --output next.csv --number 20

    OUTPUT is CSV that napari opens: slice, row, column, a score (1: the network cannot decide) and the reason. Click on
    what is an object and drop the rest, or give it label 0, then `adapt` again. Places near POINTS are left out.
    """
    parser.add_argument("--weights", required=True, help=WEIGHTS)
    parser.add_argument("--input", required=True, help=INPUT)
    parser.add_argument("--points", help="clicks that there are already; default: the YAML's")
    parser.add_argument("--output", required=True, type=Path, help="*.csv")
    parser.add_argument("--number", type=int, default=20, help="of places (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=32, help="evenly spread slices to search (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    add_array(parser)
    add_diameter(parser)
    add_plugin(parser)
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; default: the config's, or cpu where there is no GPU")
    add_options(parser)


def new_project(parser: argparse.ArgumentParser) -> None:
    """From an unlabeled volume and a few clicks to a training: write a folder that `prompt-das train` can begin with.

        prompt-das new-project liver/ --volume scans.tif --points points.json

    POINTS is what the napari plugin saves, or any file of points that training reads; without it the adaptation is
    unsupervised. The folder gets the description of the volume and a config, a leaf on --base.
    """
    parser.add_argument("folder", type=Path, help="the new project")
    parser.add_argument("--volume", required=True, help="the images: a folder of slices, TIFF, MRC, HDF5, Zarr")
    parser.add_argument("--points", help="clicks on some of its slices")
    parser.add_argument("--name", help="of the volume; default: that of the folder")
    parser.add_argument("--base", default="rat2human_wda", help="config to build on (default: %(default)s)")
    parser.add_argument("--source", help="labeled volume: a registered name, or its YAML; default: that of --base")
    parser.add_argument("--weights", help="a trained source model to begin with, or its name; default: train one first")
    add_array(parser)


def check_data(parser: argparse.ArgumentParser) -> None:
    """Check data before a long run: every slice, label and point is read, and all that is wrong is listed at once.

        prompt-das check-data --config-file vnc2lucchi_wda
        prompt-das check-data --volume my_lab.yaml
        prompt-das check-data --dataset mitoem_rat_train mitoem_human_val

    Unreadable, missing and odd slices, sizes and types, labels that are masks or have no background, points outside of
    the image or of every instance, duplicates. Ends with 1 if there is an error, so that a job script can stop.
    """
    add_config_file(parser, "all data sets of a training")
    parser.add_argument("--dataset", nargs="+", default=[], help="registered names")
    parser.add_argument("--volume", help="YAML that describes a volume")
    parser.add_argument("--points", help="file of points, in place of those that belong to the data set")
    parser.add_argument("--all", action="store_true", help="list all problems, not the first 20 of a kind")
    parser.add_argument("--workers", type=int, default=THREADS, help="threads, each holds a slice")
    add_options(parser)


def visualize(parser: argparse.ArgumentParser) -> None:
    """Draw what the network will see: slices and training crops, with masks and points.

        prompt-das visualize --config-file vnc2lucchi_wda --output pictures
        prompt-das visualize --dataset lucchi_train --points points.json --output pictures
        prompt-das visualize --volume my_volume.yaml --output pictures

    With a config, its source volumes (DATASETS.TRAIN) are shown with their masks and all centers, its target volumes
    with the sparse points of training. Without one, a labeled volume is shown as a source, another as a target.
    Slices and crops have the pixels that the network gets: with INPUT.PIXEL_SIZE those of one physical scale, so that
    objects of the source and of the target should look equally large in source_and_target.png.
    """
    add_config_file(parser)
    parser.add_argument("--dataset", nargs="+", default=[], help="registered names, in place of those of the config")
    parser.add_argument("--volume", help="YAML that describes a volume of your own")
    parser.add_argument("--points", help="sparse points of the target, in place of those of the config")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--slices", type=int, default=4, help="slices shown of each volume (default: %(default)s)")
    parser.add_argument("--crops", type=int, default=6, help="crops shown of each domain (default: %(default)s)")
    parser.add_argument("--max-size", type=int, default=1024, help="longest side of a slice's picture, in pixels")
    add_diameter(parser)
    add_last_options(parser)


def sample_points(parser: argparse.ArgumentParser) -> None:
    """Make a file of sparse center points: drawn from the labels of a volume, or converted from another tool's file.

        prompt-das sample-points --dataset lucchi_train --ratio 0.15 --seed 0 --output points.json
        prompt-das sample-points --volume my_volume.yaml --output points.json
        prompt-das sample-points --dataset lucchi_train --from annotations.csv --output points.json

    Every run that reads the file (DATASETS.SPARSE_POINTS.FILE, or `points` of a volume's YAML) trains on the same
    points. --from reads CSV with the columns axis-0, axis-1, axis-2 (napari) or z, y, x, WDA-Net's JSON, and this
    command's own.
    """
    parser.add_argument("--dataset", help='registered name, or a part of one as "lucchi_train[0:27]"')
    parser.add_argument("--volume", help="YAML that describes a volume of your own")
    parser.add_argument("--ratio", type=float, default=0.15, help="ratio of a slice's instances (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="source", metavar="FILE", help="convert this file instead of drawing points")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT")


def prepare_mitoem(parser: argparse.ArgumentParser) -> None:
    """Prepare MitoEM for training: from the slices of the download to chunked Zarr that crops are read from.

        prompt-das prepare-mitoem datasets/MitoEM-H datasets/MitoEM-R

    Each folder holds `im/im%04d.png` (slices 0-999), `mito-train-v2/seg%04d.tif` (0-399) and
    `mito-val-v2/seg%04d.tif` (400-499); ids may be plain or RGB-coded. Counts, sizes and types are checked first, and
    what is missing is named. Then `mitoem.zarr` is written into the folder, with the arrays `images` (uint8) and
    `labels` (uint16, or as wide as the ids need). Stopped and started again, it goes on with the next slice. The data
    sets mitoem_{human,rat}_{train,val} use `mitoem.zarr` once it is complete; a 384 x 384 crop then takes milliseconds
    instead of the decoding of a 4096 x 4096 PNG.
    """
    parser.add_argument("folders", type=Path, nargs="+", help="MitoEM-H and MitoEM-R as downloaded")
    parser.add_argument("--allow-partial", action="store_true", help="accept any slices, not all 1000 and 500")
    parser.add_argument("--overwrite", action="store_true", help="start again, even if there is a mitoem.zarr")
    parser.add_argument("--workers", type=int, default=THREADS, help="threads, each holds a slice")


def make_synthetic(parser: argparse.ArgumentParser) -> None:
    """Make two synthetic domains on disk, in MitoEM's layout.

        prompt-das make-synthetic --output datasets

    writes datasets/synthetic/{source,target} with im/im%04d.png, mito-train-v2/seg%04d.tif and
    mito-val-v2/seg%04d.tif: with DETECTRON2_DATASETS=datasets these are the data sets
    synthetic_{source,target}_{train,val}. The last third of the slices is for validation. The same arguments give the
    same files.
    """
    parser.add_argument("--output", type=Path, required=True, help="the folder that gets `synthetic/`")
    parser.add_argument("--size", type=int, default=256, help="height and width of a slice in pixels, at least 64")
    parser.add_argument("--slices", type=int, default=24, help="of each domain, at least 3")
    parser.add_argument("--seed", type=int, default=0)


def convert(parser: argparse.ArgumentParser) -> None:
    """Convert weights: the authors' checkpoints for use here, or a training checkpoint for sharing.

        prompt-das convert --from reference R-H.pth rat2human.safetensors
        prompt-das convert --from training output/rat2human_wda/model_final.pth my_model.safetensors
        prompt-das convert --from training --float16 output/rat2human_wda/model_final.pth half_the_size.safetensors
        prompt-das convert --from training --student output/rat2human_wda/model_final.pth student.safetensors
        prompt-das convert --from training model_final.pth careful.safetensors TEST.MIN_CONFIDENCE 0.9

    The result is a safetensors file with the config inside, as far as network, input and inference need it; every
    command takes it as weights. Put into the folder that `prompt-das models` names, it is known by its name.
    """
    parser.add_argument("--from", dest="kind", required=True, choices=["reference", "training"])
    parser.add_argument(
        "--config-file", help="default: the one in the weights or beside them; for reference the paper-size network"
    )
    add_plugin(parser)
    parser.add_argument("--student", action="store_true", help="export the student instead of the teacher")
    parser.add_argument("--float16", action="store_true", help="half the size: large tensors in half precision")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT", help="*.safetensors")
    add_last_options(parser)


def replay_batch(parser: argparse.ArgumentParser) -> None:
    """Repeat a training step that was skipped: which loss, and which layers, are not finite?

    prompt-das replay-batch output/my_lab/bad_batches/iteration_0001234_rank0.pth

    The file holds the batch and the weights of that moment.
    """
    parser.add_argument("batch", type=Path, help="a file of OUTPUT_DIR/bad_batches")
    parser.add_argument("--config-file", help="default: the one in the file, else the config.yaml of its run")
    add_plugin(parser)
    add_options(parser)


def reproduce(parser: argparse.ArgumentParser) -> None:
    """The rows of the paper's tables on a pair of domains: train what is missing, evaluate, write one table.

        prompt-das reproduce --pair vnc2lucchi --size quick --seeds 0 1
        prompt-das reproduce --pair rat2human --size paper --ablation

    Every run has its own folder; stopped and started again, the command goes on where it was. OUTPUT/results.md and
    OUTPUT/results.json hold the tables, with the ratio of the Source-Supervised gap (Dice) that each row closes.
    """
    parser.add_argument("--pair", required=True, choices=["vnc2lucchi", "rat2human", "human2rat", "synthetic"])
    parser.add_argument("--size", default="paper", choices=["quick", "paper"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ablation", action="store_true", help="also the paper's Table 2: each component by itself")
    parser.add_argument("--prompts", action="store_true", help="also the paper's Table 3: ratios of prompts at test")
    parser.add_argument("--parts", action="store_true", help="also an ablation of all that is not in the paper")
    parser.add_argument("--clicks", action="store_true", help="also Dice and PQ against the number of clicks")
    parser.add_argument("--output", type=Path, help="default: output/reproduce/PAIR_SIZE")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of a training; 0 = as many as cores")
    add_options(parser)


def demo(parser: argparse.ArgumentParser) -> None:
    """The first hour with a strange volume, in three minutes: automatic result, ten clicks, adaptation, a figure.

        prompt-das demo

    The volume is synthetic, of a style that the model has not seen, and the clicks are simulated.
    """
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="default: %(default)s")
    parser.add_argument("--weights", default="em-small", metavar="WEIGHTS", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=1.5, help="of adaptation; default: %(default)s")
    add_options(parser)


def models(parser: argparse.ArgumentParser) -> None:
    """List the weights that have a name; every command takes the name of a model where it takes weights.

        prompt-das models
        prompt-das models --download NAME

    Models come with the package, lie as NAME.safetensors in the folder PROMPT_DAS_HOME (default: ~/.cache/prompt_das),
    or are described in its models.yaml. Nothing is downloaded but by --download, which compares the SHA-256.
    """
    parser.add_argument("--download", metavar="NAME", help="fetch the weights of a model from its URL")


COMMANDS = {
    add_arguments.__name__.replace("_", "-"): add_arguments
    for add_arguments in (
        demo,
        train,
        adapt,
        propose,
        evaluate,
        predict,
        new_project,
        check_data,
        visualize,
        sample_points,
        prepare_mitoem,
        make_synthetic,
        convert,
        models,
        replay_batch,
        reproduce,
    )
}


def add_config_file(parser: argparse.ArgumentParser, help: str = "YAML file, or the name of a config") -> None:
    parser.add_argument("--config-file", default="", metavar="FILE", help=help)


def add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="code that registers parts of the network: a .py file, a module or an entry point; repeatable",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Detectron2's arguments, but for the address: Detectron2's default is one port for all runs of a user."""
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs, or CPU processes, on each machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of the first machine, if there are several")


def add_array(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", help="the array inside an HDF5 or Zarr file, if it has several")
    parser.add_argument("--voxel-size", nargs=3, type=float, metavar=("Z", "Y", "X"), help="in nm")
    intensity_help = "gray values that become 0 and 255; where BLACK is above WHITE, images are inverted"
    parser.add_argument("--intensity-range", nargs=2, type=float, metavar=("BLACK", "WHITE"), help=intensity_help)


def add_region(parser: argparse.ArgumentParser) -> None:
    text = "only this region, in voxels from 0, half open; ends may be left out: 100:150,2000:4000,:"
    parser.add_argument("--roi", metavar="Z0:Z1,Y0:Y1,X0:X1", help=text)


def add_diameter(parser: argparse.ArgumentParser) -> None:
    text = "typical diameter of an object in pixels of the image: the scale follows from it, and where outlines lie"
    parser.add_argument("--diameter", type=float, metavar="D", help=text)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the config, as TEST.WINDOW.STRIDE 128")


def add_last_options(parser: argparse.ArgumentParser) -> None:
    """As Detectron2 has them: whatever stands behind the first of them belongs to them, also what begins with "-"."""
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes of the config, at the end")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prompt-das",
        description="Annotation-efficient domain-adaptive segmentation of electron microscopy images.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments in COMMANDS.items():
        text = inspect.getdoc(add_arguments) or ""
        command = subparsers.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command. An error of what was typed, or of a file, is one line and the exit code 1 or 2.

    Ctrl-C is one line and the exit code 130, as in a shell; a training ends with a checkpoint and 75 instead.
    """
    words = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(words)
    args.command_line = shlex.join(["prompt-das", *words])
    try:
        from prompt_das.cli.main import run  # torch

        run(args)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
