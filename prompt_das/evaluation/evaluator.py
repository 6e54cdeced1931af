"""Detectron2 evaluator of mitochondria segmentation: both instance protocols, every ratio of test prompts.

Shapes: H x W pixels of a slice, N prompts. A prompt is (x, y) in pixels of the slice, the center of the first pixel
is (0.5, 0.5). A ratio is the name of a set of prompts, such as "0%", "15%" or "100%".

Protocols (which instances are compared):
    paper     8-connected components of the true and of the predicted mask (Prompt-DAS, Sec. 3.1)
    instance  the data set's own instance ids, and components of the predicted mask, or those split at centers
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from prompt_das.evaluation import metrics, reports
from prompt_das.ops.connected_components import (
    FOREGROUND_THRESHOLD,
    MIN_INSTANCE_SIZE,
    connected_components,
    remove_small,
    semantic_to_instances,
)
from prompt_das.ops.points import require_inside
from prompt_das.ops.split_instances import split_at_centers
from prompt_das.utils.natural_sort import natural_key

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

BASELINE = "0%"  # the ratio without prompts, which the prompt response is measured against
PROTOCOLS = ("paper", "instance")
TOLERANCE = 1e-3  # of a probability at 0 and 1: averages over windows are rounded
MAX_PENDING = 2  # slices that wait for the metrics thread; bounds the memory


class EMEvaluator(DatasetEvaluator):
    """Dice, AJI, PQ and prompt response, per slice, as the mean over slices, and pooled over all slices.

    The metrics of a slice are computed in a thread while the network works on the next one. Only small sums are
    kept of each slice; they are gathered once, by :meth:`evaluate`.

    Args:
        dataset_name: written into the results.
        protocols: any of "paper" and "instance".
        min_size: predicted components of at most so many pixels are removed.
        threshold: a pixel is foreground if its probability is above.
        peaks: (threshold, kernel) of the density of centers, at whose peaks, and at the prompts, the predicted
            instances of protocol "instance" are split; None: they are components. Split ones are also those of
            pictures and RLE files.
        output_dir: where per-slice CSV, summary JSON, pictures and RLE files are written; None writes nothing.
        save_rle: also write the predicted instances of every ratio as COCO RLE JSON.
        num_pictures: overlays kept, evenly spaced from the best to the worst slice by Dice: 3 are best, median, worst.
        distributed: gather from all ranks; otherwise every rank evaluates its own slices alone.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        protocols: Sequence[str] = PROTOCOLS,
        min_size: int = MIN_INSTANCE_SIZE,
        threshold: float = FOREGROUND_THRESHOLD,
        peaks: tuple[float, int] | None = None,
        output_dir: str | Path | None = None,
        save_rle: bool = False,
        num_pictures: int = 3,
        distributed: bool = True,
    ) -> None:
        unknown = [name for name in protocols if name not in PROTOCOLS]
        if unknown or not protocols:
            raise ValueError(f"unknown evaluation protocols {unknown}; use one or more of {list(PROTOCOLS)}")
        if save_rle and output_dir is None:
            raise ValueError("save_rle needs an output_dir to write to")
        self.dataset_name = dataset_name
        self.protocols = tuple(protocols)
        self.min_size = min_size
        self.threshold = threshold
        self.peaks = peaks if "instance" in self.protocols else None
        self.output_dir = Path(output_dir) if output_dir is not None else None
        self.save_rle = save_rle
        self.num_pictures = num_pictures if output_dir is not None else 0
        self.distributed = distributed
        self._thread = ThreadPoolExecutor(1, "em-evaluator")
        self._pending: deque[Future[dict[str, Any]]] = deque()
        self.reset()

    def reset(self) -> None:
        """Remove all slices, those in work as well."""
        for slice_in_work in self._pending:
            slice_in_work.cancel()
        wait(self._pending)
        self._pending.clear()
        self._records: list[dict[str, Any]] = []
        # Which slices are best, median and worst is known only at the end: pictures wait on disk, not in memory.
        self._spool = tempfile.TemporaryDirectory(prefix="em-evaluator-") if self.num_pictures else None
        self._picture_numbers = itertools.count()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take a batch of slices.

        Args:
            inputs: for each slice ``image_id``; ``instances``, integer (H, W) true ids; ``prompts``, a dict from
                ratio to (N, 2) points, where ratios may be missing; ``image`` (1, H', W') of intensities 0..255,
                any size, for the pictures.
            outputs: for each slice ``sem_seg``, a dict from ratio to the (H, W) foreground probability, on any device;
                for instances from centers also ``density``, such a dict of densities.

        Raises:
            ValueError: shapes differ, a probability is NaN or not within 0..1, a prompt lies outside, there is no
                density. Names the slice. Raised by a later call of ``process`` or by ``evaluate``: slices are measured
                in the background.
        """
        for one_input, output in zip(inputs, outputs, strict=True):
            missing = {"image_id", "instances"} - one_input.keys()
            if missing:
                raise ValueError(
                    f"{self.dataset_name}, slice {one_input.get('image_id')}: no {sorted(missing)} in the input; "
                    "evaluation needs a data set with labels"
                )
            self._pending.append(self._thread.submit(self._measure, one_input, output))
            while len(self._pending) > MAX_PENDING:
                self._records.append(self._pending.popleft().result())

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Gather the slices of all ranks and report.

        Returns:
            In percent, on rank 0 (empty on the others): ``"{protocol}/{ratio}"`` with Dice, AJI, PQ, SQ, RQ (means
            over slices) and "pooled Dice" ... "pooled RQ"; ``"prompt response/{ratio}"`` with, for each protocol,
            the percentage found of the true instances that are missed without prompts and hold one (nan if there are
            none), and how many there are ("{protocol} missed") and how many appear ("{protocol} found").
        """
        while self._pending:
            self._records.append(self._pending.popleft().result())
        gathered = comm.all_gather(self._records) if self.distributed else [self._records]
        # A sampler may give a slice to two ranks; sorted, so that sums do not depend on the number of ranks.
        records = list({r["image_id"]: r for r in itertools.chain(*gathered)}.values())
        records.sort(key=lambda record: natural_key(record["image_id"]))
        pictures = self._gather_pictures(records)
        if self.distributed and not comm.is_main_process():
            return OrderedDict()
        if not records:
            logger.warning("%s: no slices to evaluate", self.dataset_name)
            return OrderedDict()

        results = summarize(records)
        logger.info("%s, %d slices, in %%:\n%s", self.dataset_name, len(records), reports.table(results))
        if self.output_dir is not None:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            reports.write_per_slice(self.output_dir / "per_slice.csv", records)
            summary = {"dataset": self.dataset_name, "min_size": self.min_size, "threshold": self.threshold}
            summary |= {"instances": "components" if self.peaks is None else "centers"}
            summary |= {"slices": len(records), "results": results}
            reports.write_json(self.output_dir / "summary.json", summary)
            for name, png in pictures.items():
                reports.write_bytes(self.output_dir / "pictures" / f"{name}.png", png)
            if self.save_rle:
                for ratio in records[0]["rle"]:
                    path = self.output_dir / f"instances_{ratio.rstrip('%')}.json"
                    reports.write_json(path, [one for record in records for one in record["rle"][ratio]])
        return results

    def _measure(self, one_input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """Record of one slice: counts of every protocol and ratio, prompt response, RLE. Runs in the thread."""
        image_id, instances = str(one_input["image_id"]), np.asarray(one_input["instances"])
        prompts, probabilities = one_input.get("prompts") or {}, output["sem_seg"]
        truth = {"instance": instances}
        if "paper" in self.protocols:
            truth["paper"] = connected_components(instances > 0)
        counts: dict[tuple[str, str], dict[str, float]] = {}
        found: dict[tuple[str, str], tuple[NDArray, NDArray[np.bool_]]] = {}
        record: dict[str, Any] = {"image_id": image_id, "counts": counts, "response": {}, "rle": {}}
        predicted = {}
        for ratio, probability in probabilities.items():
            where = f"{self.dataset_name}, slice {image_id}, {ratio} of the prompts"
            if tuple(probability.shape) != instances.shape:
                shapes = f"probability is {tuple(probability.shape)}, labels are {instances.shape}"
                raise ValueError(f"{where}: {shapes}; predict at the size of the slice")
            low, high = (float(value) for value in torch.aminmax(probability))
            if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also where they are NaN
                raise ValueError(f"{where}: values from {low:g} to {high:g} are no probabilities (NaN: it diverged)")
            mask = (probability > self.threshold).cpu().numpy()
            components = semantic_to_instances(mask, self.min_size)
            predicted[ratio] = components
            if self.peaks is not None:
                density = output.get("density", {}).get(ratio)
                predicted[ratio] = self._split(mask, probability, density, prompts.get(ratio), where)
            for protocol in self.protocols:
                table = metrics.contingency_table(
                    truth[protocol], components if protocol == "paper" else predicted[ratio]
                )
                counts[protocol, ratio] = metrics.count(table)
                found[protocol, ratio] = table.true_ids, metrics.found_instances(table)
            if self.save_rle:
                scores = probability.float().cpu().numpy()
                record["rle"][ratio] = reports.coco_instances(predicted[ratio], scores, image_id)
        for protocol, ratio in counts:
            if ratio != BASELINE and BASELINE in probabilities and ratio in prompts:
                ids, before = found[protocol, BASELINE]
                after = found[protocol, ratio][1]
                prompted = ~before & np.isin(ids, _labels_at(truth[protocol], prompts[ratio], f"{image_id}, {ratio}"))
                record["response"][protocol, ratio] = int(prompted.sum()), int((prompted & after).sum())
        if self._spool is not None and "image" in one_input:
            record["rank"], record["picture"] = comm.get_rank(), f"{next(self._picture_numbers)}.png"
            image = torch.as_tensor(one_input["image"])[0].cpu().numpy()
            png = reports.picture(image, instances, predicted, prompts)
            Path(self._spool.name, record["picture"]).write_bytes(png)
        return record

    def _split(
        self,
        mask: NDArray,
        probability: torch.Tensor,
        density: torch.Tensor | None,
        prompts: NDArray | None,
        where: str,
    ) -> NDArray:
        """Instances (H, W) of a mask, split at the peaks of the density and at the prompts (N, 2)."""
        if self.peaks is None or density is None:
            raise ValueError(f"{where}: the model predicts no density, which instances from centers need")
        threshold, kernel = self.peaks
        labels, _ = split_at_centers(
            probability.float().cpu().numpy(),
            density.float().cpu().numpy(),
            prompts,
            mask=mask,
            threshold=self.threshold,
            peak_threshold=threshold,
            kernel=kernel,
        )
        return remove_small(labels, self.min_size)

    def _gather_pictures(self, records: list[dict[str, Any]]) -> dict[str, bytes]:
        """PNG files of the chosen slices by name, on rank 0. Every rank chooses alike and sends those it has."""
        mine = {}
        drawn = [record for record in records if "picture" in record]
        if drawn and self.num_pictures:
            key = next(iter(drawn[0]["counts"]))
            drawn.sort(key=lambda record: -metrics.scores(record["counts"][key])["Dice"])
            chosen = np.unique(np.linspace(0, len(drawn) - 1, min(self.num_pictures, len(drawn))).astype(int))
            for position in chosen.tolist():
                record = drawn[position]
                if record["rank"] == comm.get_rank() and self._spool is not None:
                    names = {(len(drawn) - 1) // 2: "median", len(drawn) - 1: "worst", 0: "best"}
                    name = f"{position + 1:04d}_{names.get(position, 'slice')}_{reports.file_stem(record['image_id'])}"
                    mine[name] = Path(self._spool.name, record["picture"]).read_bytes()
        gathered = comm.gather(mine) if self.distributed else [mine]
        return {name: png for one in gathered for name, png in one.items()}


def summarize(records: Sequence[Mapping[str, Any]]) -> OrderedDict[str, dict[str, float]]:
    """Mean and pooled results in percent from the records of all slices; see :meth:`EMEvaluator.evaluate`."""
    results: OrderedDict[str, dict[str, float]] = OrderedDict()
    for protocol, ratio in sorted(records[0]["counts"], key=lambda key: PROTOCOLS.index(key[0])):
        results[f"{protocol}/{ratio}"] = metrics.summarize([record["counts"][protocol, ratio] for record in records])
    for protocol, ratio in dict.fromkeys(key for record in records for key in record["response"]):
        missed, found = np.sum([r["response"].get((protocol, ratio), (0, 0)) for r in records], axis=0).tolist()
        entry = results.setdefault(f"prompt response/{ratio}", {})
        entry[protocol] = 100 * found / missed if missed else float("nan")
        entry[f"{protocol} missed"], entry[f"{protocol} found"] = missed, found
    return results


def _labels_at(labels: NDArray, points: NDArray, where: str) -> NDArray:
    """(N,) labels of the pixels that hold the points (N, 2)."""
    points = np.asarray(points).reshape(-1, 2)
    require_inside(points, (labels.shape[0], labels.shape[1]), f"slice {where}: ")
    columns, rows = np.floor(points).astype(np.int64).T
    return labels[rows, columns]
