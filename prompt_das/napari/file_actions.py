"""What the user does with the image in use and with files: points, labels, the whole volume, a project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prompt_das.engine.project import Project
from prompt_das.inference.volume.settings import VolumeSettings
from prompt_das.napari.adapt import MINUTES, adapt_to_clicks
from prompt_das.napari.files import Report, lazy_labels, make_project, save_labels, segment_volume
from prompt_das.napari.image_scale import diameter_of
from prompt_das.napari.image_session import ImageSession, place_of, stack_of
from prompt_das.napari.image_sessions import ImageSessions
from prompt_das.napari.layers import voxel_size_of
from prompt_das.napari.notifications import Notifications
from prompt_das.napari.session import Session
from prompt_das.napari.tasks import Tasks
from prompt_das.ops.points import NEGATIVE, POSITIVE
from prompt_das.volumes.point_files import SliceClicks, read_clicks, write_points

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels, Points


class FileActions:
    """Reads points into the image in use and writes what belongs to it; what takes long is one of the tasks."""

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        image_sessions: ImageSessions,
        tasks: Tasks,
        notifications: Notifications,
    ) -> None:
        self._viewer, self._session, self._image_sessions = viewer, session, image_sessions
        self._tasks, self._notifications = tasks, notifications

    def open_points(self, path: str | Path) -> None:
        """Add the points of a file to the prompts, negative ones to their own layer."""
        image_session = self._chosen("open points for")
        if image_session is None:
            return
        depth, height, width = image_session.volume.shape
        try:
            found = read_clicks(path, num_slices=depth, size=(height, width))
        except (OSError, ValueError) as error:
            self._notifications.exception(error)
            return
        for prompts, label in ((image_session.prompts, POSITIVE), (image_session.negative_prompts, NEGATIVE)):
            points = {z: clicks[clicks[:, 2] == label, :2] for z, clicks in found.items()}
            _add(image_session, prompts, points)

    def save_points(self, path: str | Path) -> None:
        """All prompts, as the JSON that training reads."""
        image_session = self._chosen("save points of")
        if image_session is None:
            return
        clicks, _ = image_session.clicks()
        try:
            write_points(path, clicks, dataset=image_session.image.name)
        except OSError as error:
            self._notifications.error(f"The points could not be saved: {error}")
        else:
            count, negative = sum(map(len, clicks.values())), _num_negative(clicks)
            kinds = f" ({negative} of them negative)" if negative else ""
            self._notifications.info(f"{count} points{kinds} on {len(clicks)} slices saved to {path}")

    def save_labels(self, path: str | Path) -> None:
        """The labels layer that is selected, or else the instances of the image, as TIFF or OME-Zarr."""
        image_session = self._chosen("save labels of")
        if image_session is None or not self._tasks.is_free():
            return
        active = self._viewer.layers.selection.active
        layer = active if isinstance(active, Labels) else image_session.instances
        labels, voxel_size = stack_of(layer), voxel_size_of(layer)

        def work(report: Report) -> Path:
            return save_labels(path, labels, voxel_size, report)

        def show(saved: Path) -> None:
            self._notifications.info(f"'{layer.name}' saved to {saved}")

        self._tasks.run("Saving labels", work, show)

    def segment_volume(self, output: str | Path) -> None:
        """All slices, with their prompts, to 3-D instances in ``*.zarr``, ``*.tif`` or ``*.h5``, and into a layer."""
        image_session, weights = self._chosen("segment"), self._session.weights
        if image_session is None or not self._tasks.is_free():
            return
        if weights is None:
            self._notifications.warning("Open weights first")
            return
        clicks, _ = image_session.clicks()
        image, volume, voxel_size = image_session.image, image_session.volume, image_session.voxel_size
        file, diameter = image.source.path, diameter_of(self._session.predictor, image_session)
        settings = VolumeSettings(threshold=image_session.threshold, min_size=image_session.min_size)

        def work(report: Report) -> Path:
            return segment_volume(weights, volume, file, Path(output), clicks, voxel_size, report, diameter, settings)

        def show(result: Path) -> None:
            labels = lazy_labels(result)
            labels = labels if image.ndim == 3 else labels[0]
            self._viewer.add_layer(Labels(labels, name=f"{image.name} volume", opacity=0.5, **place_of(image)))
            self._notifications.info(f"The whole volume is segmented: {result}")

        self._tasks.run("Segmenting the volume", work, show)

    def adapt(self, output: str | Path, use: Callable[[Path], object], minutes: float = MINUTES) -> None:
        """Adapt the network to the image and its clicks, write ``output``, then call ``use`` with it."""
        image_session, weights = self._chosen("adapt to"), self._session.weights
        if image_session is None or not self._tasks.is_free():
            return
        if weights is None:
            self._notifications.warning("Open weights first")
            return
        clicks, _ = image_session.clicks()
        volume, voxel_size = image_session.volume, image_session.voxel_size
        file, diameter = image_session.image.source.path, diameter_of(self._session.predictor, image_session)
        if image_session.pixel_size:  # a diameter that follows from it says nothing of where outlines lie
            voxel_size, diameter = (image_session.pixel_size,) * 3, None

        def work(report: Report) -> str:
            return adapt_to_clicks(
                *(weights, volume, file, Path(output), clicks, voxel_size, diameter, report, minutes),
                on_checkpoint=self._session.announce,
            )

        def show(what: str) -> None:
            self._notifications.info(what)
            use(Path(output))

        self._tasks.run("Adapting to your clicks", work, show)

    def new_project(self, folder: str | Path, base: str | Path) -> None:
        """The image and its prompts as a training, see :func:`prompt_das.engine.project.create_project`.

        Training reads the positive ones alone.
        """
        image_session = self._chosen("train on")
        if image_session is None or not self._tasks.is_free():
            return
        image, volume = image_session.image, image_session.volume
        name = "".join(c if c.isalnum() or c in "_-" else "_" for c in image.name)
        clicks, _ = image_session.clicks()
        negative = _num_negative(clicks)
        file, voxel_size = image.source.path, voxel_size_of(image)

        def work(report: Report) -> Project:
            return make_project(volume, file, Path(folder), name, clicks, base, voxel_size, report)

        def show(project: Project) -> None:
            if negative:
                self._notifications.info(
                    f"Training learns from the {project.num_points} positive points; the {negative} negative ones are "
                    "only kept in points.json"
                )
            self._notifications.info(f"{project.config} is ready. Next:\n" + "\n".join(project.commands()))

        self._tasks.run("Making a project", work, show)

    def _chosen(self, what: str) -> ImageSession | None:
        if self._image_sessions.current is None:
            self._notifications.warning(f"Choose an image to {what} first")
        return self._image_sessions.current


def _add(image_session: ImageSession, prompts: Points, slice_points: dict[int, np.ndarray]) -> None:
    """Put points (N, 2) of slices into a layer of prompts."""
    found = [image_session.points_to_layer(prompts, points, z) for z, points in slice_points.items() if len(points)]
    if found:
        prompts.add(np.concatenate(found))


def _num_negative(clicks: SliceClicks) -> int:
    return sum(int((of_slice[:, 2] == NEGATIVE).sum()) for of_slice in clicks.values())
