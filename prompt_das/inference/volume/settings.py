"""How instances are made of a volume."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD

INSTANCES_FROM = ("components", "centers")


@dataclass(frozen=True)
class VolumeSettings:
    """Settings of a prediction beside those of the network.

    Attributes:
        linked: 3-D instances (26 neighbors of a voxel); otherwise those of each slice (8 neighbors of a pixel).
        threshold: foreground is where the probability is above.
        instances_from: "components", or "centers" to split what touches; by default ``TEST.INSTANCES``.
        min_size: instances of at most so many voxels are removed; by default ``TEST.MIN_INSTANCE_SIZE``.
        density: also predict the density of center points. Without it, the time of the center-point head is saved.
        on_error: "stop" at a slice that cannot be read, or "skip" it: it stays background, and the result names it.

    Raises:
        ValueError: a value that is not allowed.
    """

    linked: bool = True
    threshold: float = FOREGROUND_THRESHOLD
    min_size: int | None = None
    density: bool = True
    on_error: str = "stop"
    instances_from: str | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error is {self.on_error!r}; use 'stop' or 'skip'")
        if self.instances_from not in (None, *INSTANCES_FROM):
            raise ValueError(f"instances_from is {self.instances_from!r}; use {' or '.join(map(repr, INSTANCES_FROM))}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; use a number of at least 0 and below 1")

    def from_centers(self, default: str) -> bool:
        """Whether instances are split at centers; ``default`` holds where these settings say nothing.

        Raises:
            ValueError: they are to be split, but no density is predicted.
        """
        chosen = self.instances_from or default
        if chosen == "centers" and not self.density:
            raise ValueError(
                "instances from centers need the density of center points: leave --no-density (density=False) out, or "
                "use --instances-from components (instances_from='components')"
            )
        return chosen == "centers"

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the predicted maps."""
        return ("probability", "density") if self.density else ("probability",)
