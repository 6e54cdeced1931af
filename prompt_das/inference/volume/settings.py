"""How instances are made of a volume."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD


@dataclass(frozen=True)
class VolumeSettings:
    """Settings of a prediction beside those of the network.

    Attributes:
        linked: 3-D instances (26 neighbors of a voxel); otherwise those of each slice (8 neighbors of a pixel).
        threshold: foreground is where the probability is above.
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

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error is {self.on_error!r}; use 'stop' or 'skip'")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; use a number of at least 0 and below 1")

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the predicted maps."""
        return ("probability", "density") if self.density else ("probability",)
