"""What the user does with the image in use and with files: points, labels, the whole volume, a project."""

from __future__ import annotations

from pathlib import Path

from prompt_das.engine.project import Project
from prompt_das.napari.files import Report, lazy_labels, make_project, save_labels, segment_volume
from prompt_das.napari.image_session import ImageSession, ImageSessions, place_of, stack_of
from prompt_das.napari.layers import move_positions, to_positions, voxel_size_of
from prompt_das.napari.notifications import Notifications
from prompt_das.napari.session import Session
from prompt_das.napari.tasks import Tasks
from prompt_das.volumes.point_files import read_points, write_points

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels


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
        """Add the points of a file to the prompts."""
        image_session = self._chosen("open points for")
        if image_session is None:
            return
        depth, height, width = image_session.volume.shape
        try:
            found = read_points(path, num_slices=depth, size=(height, width))
        except (OSError, ValueError) as error:
            self._notifications.exception(error)
            return
        positions = np.concatenate([np.zeros((0, 3)), *(to_positions(points, z) for z, points in found.items())])
        if len(positions):
            image, prompts = image_session.image, image_session.prompts
            positions = positions[:, -image.ndim :]
            prompts.add(move_positions(positions, image.data_to_world, prompts.world_to_data, image.ndim))

    def save_points(self, path: str | Path) -> None:
        """All prompts, as the JSON that training reads."""
        image_session = self._chosen("save points of")
        if image_session is None:
            return
        points, _ = image_session.points()
        try:
            write_points(path, points, dataset=image_session.image.name)
        except OSError as error:
            self._notifications.error(f"The points could not be saved: {error}")
        else:
            count = sum(map(len, points.values()))
            self._notifications.info(f"{count} points on {len(points)} slices saved to {path}")

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
        points, _ = image_session.points()
        image, volume, voxel_size = image_session.image, image_session.volume, voxel_size_of(image_session.image)
        file = image.source.path

        def work(report: Report) -> Path:
            return segment_volume(weights, volume, file, Path(output), points, voxel_size, report)

        def show(result: Path) -> None:
            labels = lazy_labels(result)
            labels = labels if image.ndim == 3 else labels[0]
            self._viewer.add_layer(Labels(labels, name=f"{image.name} volume", opacity=0.5, **place_of(image)))
            self._notifications.info(f"The whole volume is segmented: {result}")

        self._tasks.run("Segmenting the volume", work, show)

    def new_project(self, folder: str | Path, base: str | Path) -> None:
        """The image and its prompts as a training, see :func:`prompt_das.engine.project.create_project`."""
        image_session = self._chosen("train on")
        if image_session is None or not self._tasks.is_free():
            return
        image, volume = image_session.image, image_session.volume
        name = "".join(c if c.isalnum() or c in "_-" else "_" for c in image.name)
        points, _ = image_session.points()
        file, voxel_size = image.source.path, voxel_size_of(image)

        def work(report: Report) -> Project:
            return make_project(volume, file, Path(folder), name, points, base, voxel_size, report)

        def show(project: Project) -> None:
            self._notifications.info(f"{project.config} is ready. Next:\n" + "\n".join(project.commands()))

        self._tasks.run("Making a project", work, show)

    def _chosen(self, what: str) -> ImageSession | None:
        if self._image_sessions.current is None:
            self._notifications.warning(f"Choose an image to {what} first")
        return self._image_sessions.current
