"""From events of a viewer to requests to the network, and from its responses to layers. Without Qt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.engine.project import Project
from prompt_das.napari.files import lazy_labels, make_project, save_labels, segment_volume
from prompt_das.napari.image_session import ImageSession, finest, new_image_session, place_of, stack_of
from prompt_das.napari.layers import LayerVolume, move_positions, to_points, to_positions, voxel_size_of, with_slice
from prompt_das.napari.session import Failed, Finished, Message, Opened, Progress, Report, Request, Response, Session
from prompt_das.napari.suggestions import new_centers
from prompt_das.volumes.point_files import read_points, write_points

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points

NO_POINTS = np.zeros((0, 2), np.float32)


class Controller:
    """Keeps the instances of the slice in view up to date with its prompts.

    All methods are for the viewer's thread. Errors that the user can mend are notifications, not exceptions.

    Attributes:
        image_session: what is being segmented; None before an image is chosen.
        progress: (done, total) of the newest request; None if it is complete.
        task, task_progress: what long work is under way, and how far; "" and None if there is none.
        on_change: called when something of this has changed.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        *,
        notify_error: Callable[[str], object],
        notify_warning: Callable[[str], object],
        notify: Callable[[str], object],
    ) -> None:
        self.viewer = viewer
        self.session = session
        self.image_session: ImageSession | None = None
        self.suggest = False
        self.progress: tuple[int, int] | None = None
        self.task = ""
        self.task_progress: tuple[int, int] | None = None
        self.on_change: Callable[[], object] = lambda: None
        self.update_soon: Callable[[], object] = self.update
        self._image_sessions: list[ImageSession] = []
        self._after_task: Callable[[Any], object] = lambda result: None
        self._notify_error, self._notify_warning, self._notify = notify_error, notify_warning, notify
        viewer.dims.events.point.connect(self._on_step)
        viewer.layers.events.removed.connect(self._on_removed)

    def close(self) -> None:
        """Leave the viewer alone. Its layers stay."""
        self.session.close()
        self.viewer.dims.events.point.disconnect(self._on_step)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for image_session in list(self._image_sessions):
            self._forget(image_session)

    # ---- what the user does

    def open_weights(self, weights: str | Path) -> None:
        """Load a network; when it is there, the slice in view is segmented."""
        if self._free():
            self.session.open(weights)
            self._begin("Opening weights")

    def choose(self, image: Image | None) -> None:
        """Segment this layer from now on; its other layers are made, or found if they are there from before."""
        if self.image_session is not None and image is self.image_session.image:
            return
        self.session.cancel()
        self.image_session, self.progress = None, None
        if image is not None:
            try:
                self.image_session = self._image_session_of(image)
            except ValueError as error:
                self._notify_error(str(error))
        self.on_change()
        self.update()

    def set_suggest(self, suggest: bool) -> None:
        """Whether to predict centres as well, which takes half as long again."""
        self.suggest = suggest
        self.update()

    def accept(self) -> None:
        """The selected suggestions, or else the surest one of the slice, become prompts."""
        image_session, indices = self._selected()
        if image_session is None or image_session.centers is None or not indices:
            return
        centers, prompts = image_session.centers, image_session.prompts
        moved = move_positions(centers.data[indices], centers.data_to_world, prompts.world_to_data, prompts.ndim)
        self._remove_suggestions(image_session, indices)
        prompts.add(moved)

    def reject(self) -> None:
        """The selected suggestions, or else the surest one of the slice, go and do not come back."""
        image_session, indices = self._selected()
        if image_session is not None and indices:
            self._remove_suggestions(image_session, indices)

    def open_points(self, path: str | Path) -> None:
        """Add the points of a file to the prompts."""
        image_session = self._chosen("open points for")
        if image_session is None:
            return
        depth, height, width = image_session.volume.shape
        try:
            found = read_points(path, num_slices=depth, size=(height, width))
        except (OSError, ValueError) as error:
            self._notify_error(str(error))
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
            self._notify_error(f"The points could not be saved: {error}")
        else:
            self._notify(f"{sum(map(len, points.values()))} points on {len(points)} slices saved to {path}")

    def save_labels(self, path: str | Path) -> None:
        """The labels layer that is selected, or else the instances of the image_session, as TIFF or OME-Zarr."""
        image_session = self._chosen("save labels of")
        if image_session is None or not self._free():
            return
        active = self.viewer.layers.selection.active
        layer = active if isinstance(active, Labels) else image_session.instances
        labels, voxel_size = stack_of(layer), voxel_size_of(layer)

        def work(report: Report) -> Path:
            return save_labels(path, labels, voxel_size, report)

        self._run("Saving labels", work, lambda saved: self._notify(f"'{layer.name}' saved to {saved}"))

    def segment_volume(self, output: str | Path) -> None:
        """All slices, with their prompts, to 3-D instances in ``*.zarr``, ``*.tif`` or ``*.h5``, and into a layer."""
        image_session, weights = self._chosen("segment"), self.session.weights
        if image_session is None or not self._free():
            return
        if weights is None:
            self._notify_warning("Open weights first")
            return
        points, _ = image_session.points()
        image, volume, voxel_size = image_session.image, image_session.volume, voxel_size_of(image_session.image)
        file = image.source.path

        def work(report: Report) -> Path:
            return segment_volume(weights, volume, file, Path(output), points, voxel_size, report)

        def show(result: Path) -> None:
            labels = lazy_labels(result)
            labels = labels if image.ndim == 3 else labels[0]
            self.viewer.add_layer(Labels(labels, name=f"{image.name} volume", opacity=0.5, **place_of(image)))
            self._notify(f"The whole volume is segmented: {result}")

        self._run("Segmenting the volume", work, show)

    def new_project(self, folder: str | Path, base: str | Path) -> None:
        """The image and its prompts as a training, see :func:`prompt_das.engine.project.create_project`."""
        image_session = self._chosen("train on")
        if image_session is None or not self._free():
            return
        name = "".join(c if c.isalnum() or c in "_-" else "_" for c in image_session.image.name)
        points, _ = image_session.points()
        volume, file, voxel_size = (
            image_session.volume,
            image_session.image.source.path,
            voxel_size_of(image_session.image),
        )

        def work(report: Report) -> Project:
            return make_project(volume, file, Path(folder), name, points, base, voxel_size, report)

        def show(project: Project) -> None:
            self._notify(f"{project.config} is ready. Next:\n" + "\n".join(project.commands()))

        self._run("Making a project", work, show)

    def cancel_task(self) -> None:
        """Stop the long work; what it has done of a volume is kept, and goes on under the same name."""
        self.session.cancel_task()
        if self.task_progress is not None:
            self._notify(f"{self.task} was cancelled")
        self._end()

    def _chosen(self, what: str) -> ImageSession | None:
        if self.image_session is None:
            self._notify_warning(f"Choose an image to {what} first")
        return self.image_session

    def _free(self) -> bool:
        if self.task_progress is not None:
            self._notify_warning(f"{self.task} is under way: wait for it, or cancel it")
        return self.task_progress is None

    def _run(self, name: str, work: Callable[[Report], Any], show: Callable[[Any], object]) -> None:
        self._after_task = show
        self.session.run(work)
        self._begin(name)

    def _begin(self, name: str) -> None:
        self.task, self.task_progress = name, (0, 0)
        self.on_change()

    def _end(self) -> None:
        self.task, self.task_progress = "", None
        self.on_change()

    # ---- what happens in the viewer

    @property
    def slice_in_view(self) -> int | None:
        """z, or None if the viewer shows a place beside the image."""
        if self.image_session is None:
            return None
        if self.image_session.image.ndim == 2:
            return 0
        z = round(float(self.image_session.image.world_to_data(self.viewer.dims.point)[0]))
        return z if 0 <= z < len(self.image_session.volume) else None

    def update(self) -> None:
        """Segment the slice in view, unless what is shown there is its result already."""
        image_session, z = self.image_session, self.slice_in_view
        if image_session is None or self.session.predictor is None:
            return
        if image_session.volume.array is not finest(image_session.image) and not self._renew(image_session):
            return
        points, outside = image_session.points()
        if outside > image_session.outside:
            self._notify_warning(
                f"{outside} of {len(image_session.prompts.data)} points lie outside "
                f"'{image_session.image.name}' and are left out"
            )
        image_session.outside = outside
        if stack_of(image_session.instances).shape != image_session.volume.shape:
            self._notify_error(
                f"'{image_session.instances.name}' has another shape now: delete it, and choose the image again"
            )
            z = None
        if z is None or (request := self._request(image_session, z, points.get(z, NO_POINTS))) is None:
            self.session.cancel()
            self.progress = None
        else:
            self.session.submit(request)
            self.progress = (0, 0)
        self.on_change()

    def _request(self, image_session: ImageSession, z: int, points: np.ndarray) -> Request | None:
        """Build the request for a slice; None if its result is shown already."""
        before = image_session.responded.get(z)
        if before is not None and before[0] == points.tobytes() and before[1] >= self.suggest:
            return None
        return Request(image_session.volume, z, points, stack_of(image_session.instances)[z], self.suggest)

    def _on_step(self) -> None:
        self.update_soon()

    def _on_data(self) -> None:
        self.update_soon()

    def _on_points(self, event: Any) -> None:
        if str(event.action) in ("added", "removed", "changed"):  # and not: is about to be
            self.update_soon()

    def _on_removed(self, event: Any) -> None:
        for image_session in list(self._image_sessions):
            if event.value is image_session.centers:
                image_session.centers = None
                image_session.suggested.clear()
            if event.value in image_session.layers():
                self._forget(image_session)
                self.on_change()

    # ---- messages of the session

    def receive(self, message: Message) -> None:
        """Handle a message of the session."""
        requests, tasks = self.session.requests, self.session.tasks
        if not (requests.is_newest(message.ticket) or tasks.is_newest(message.ticket)):
            return
        match message:
            case Progress(ticket, done, total) if requests.is_newest(ticket):
                self.progress = (done, total)
            case Progress(_, done, total):
                self.task_progress = (done, total)
            case Response():
                self._show(message)
            case Opened(_, weights):
                self._end()
                for image_session in self._image_sessions:
                    image_session.responded.clear()
                self._notify(f"{weights.name} is open")
                self.update()
            case Finished(_, result):
                self._end()
                self._after_task(result)
            case Failed(ticket, error):
                if requests.is_newest(ticket):
                    self.progress = None
                else:
                    self._end()
                self._notify_error(str(error) or type(error).__name__)
        self.on_change()

    def _show(self, response: Response) -> None:
        image_session, request = self.image_session, response.request
        if image_session is None or image_session.volume is not request.volume:
            return
        z, segmentation = request.z, response.segmentation
        stack_of(image_session.instances)[z] = response.instances
        image_session.instances.refresh()
        if response.complete:
            self.progress = None
            image_session.responded[z] = (request.points.tobytes(), request.centers)
            if segmentation.centers is not None:
                self._show_centers(image_session, response)

    # ---- suggestions

    def _show_centers(self, image_session: ImageSession, response: Response) -> None:
        assert self.session.predictor is not None
        z, segmentation = response.request.z, response.segmentation
        assert segmentation.centers is not None
        layer = self._centers_layer(image_session)
        positions = with_slice(layer.data)
        here = np.rint(positions[:, 0]) == z
        left = to_points(positions[here])
        before = image_session.suggested.get(z, NO_POINTS)
        gone = ~(before[:, None] == left[None]).all(axis=-1).any(axis=1)
        image_session.judged[z] = np.concatenate([image_session.judged.get(z, NO_POINTS), before[gone]])
        cfg = self.session.predictor.cfg
        radius = cfg.DOMAIN_ADAPT.POINTS.KERNEL / cfg.INPUT.SCALE
        new = new_centers(
            segmentation.centers, segmentation.instances, response.request.points, image_session.judged[z], radius
        )
        positions = to_positions(new.points, z)
        scores = np.concatenate([layer.features["score"].to_numpy(float)[~here], new.scores])
        layer.selected_data = set()
        layer.data = np.concatenate([layer.data[~here], positions[:, -layer.ndim :]])
        layer.features = {"score": scores}
        image_session.suggested[z] = to_points(positions)
        self._select_surest(image_session, z)

    def _selected(self) -> tuple[ImageSession | None, list[int]]:
        image_session, z = self.image_session, self.slice_in_view
        if image_session is None or image_session.centers is None or z is None:
            return None, []
        if not image_session.centers.selected_data:
            self._select_surest(image_session, z)
        return image_session, sorted(image_session.centers.selected_data)

    def _remove_suggestions(self, image_session: ImageSession, indices: list[int]) -> None:
        assert image_session.centers is not None
        image_session.centers.selected_data = set(indices)
        image_session.centers.remove_selected()
        z = self.slice_in_view
        if z is not None:
            self._select_surest(image_session, z)

    def _select_surest(self, image_session: ImageSession, z: int) -> None:
        layer = image_session.centers
        if layer is None:
            return
        here = np.flatnonzero(np.rint(with_slice(layer.data)[:, 0]) == z)
        scores = layer.features["score"].to_numpy(float)[here]
        layer.selected_data = {int(here[scores.argmax()])} if len(here) else set()

    # ---- image_sessions

    def _image_session_of(self, image: Image) -> ImageSession:
        for image_session in self._image_sessions:
            if image_session.image is image:
                return image_session
        image_session = new_image_session(image)
        self.viewer.add_layer(image_session.instances)
        self.viewer.add_layer(image_session.prompts)
        image_session.prompts.mode = "add"
        self.viewer.layers.selection.active = image_session.prompts
        image.events.data.connect(self._on_data)
        image_session.prompts.events.data.connect(self._on_points)
        self._image_sessions.append(image_session)
        return image_session

    def _renew(self, image_session: ImageSession) -> bool:
        """The image has other data now. False if they are of another size, and so need other layers."""
        array = finest(image_session.image)
        if array.shape != image_session.volume.array.shape:
            self._forget(image_session)
            self.choose(image_session.image)
            return False
        image_session.volume = LayerVolume(array, image_session.image.name)
        image_session.responded.clear()
        return True

    def _forget(self, image_session: ImageSession) -> None:
        image_session.image.events.data.disconnect(self._on_data)
        image_session.prompts.events.data.disconnect(self._on_points)
        self._image_sessions.remove(image_session)
        if image_session is self.image_session:
            self.session.cancel()
            self.image_session, self.progress = None, None

    def _centers_layer(self, image_session: ImageSession) -> Points:
        if image_session.centers is None:
            layer = image_session.new_centers()
            layer.bind_key("y", lambda _: self.accept())
            layer.bind_key("n", lambda _: self.reject())
            active = self.viewer.layers.selection.active
            self.viewer.add_layer(layer)
            layer.mode = "select"
            self.viewer.layers.selection.active = active
            image_session.centers = layer
        return image_session.centers
