"""From what happens in a viewer to questions to the network, and from its answers to layers. Without Qt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.engine.project import Project
from prompt_das.napari.files import lazy_labels, make_project, save_labels, segment_volume
from prompt_das.napari.layers import LayerVolume, move_positions, to_points, to_positions, voxel_size_of, with_slice
from prompt_das.napari.scene import Scene, finest, new_scene, place_of, stack_of
from prompt_das.napari.session import Answer, Failed, Finished, Message, Opened, Progress, Question, Report, Session
from prompt_das.napari.suggestions import new_centers
from prompt_das.volumes.point_files import read_points, write_points

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points

NO_POINTS = np.zeros((0, 2), np.float32)


class Controller:
    """Keeps the instances of the slice in view up to date with its prompts.

    All methods are for the viewer's thread. Nothing raises because of what the user did: he is told.

    Attributes:
        scene: what is being segmented; None before an image is chosen.
        progress: (done, total) of the answer that is under way; None if there is none.
        task, task_progress: what long work is under way, and how far; "" and None if there is none.
        on_change: called when something of this has changed.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        *,
        tell_error: Callable[[str], object],
        tell_warning: Callable[[str], object],
        tell: Callable[[str], object],
    ) -> None:
        self.viewer = viewer
        self.session = session
        self.scene: Scene | None = None
        self.suggest = False
        self.progress: tuple[int, int] | None = None
        self.task = ""
        self.task_progress: tuple[int, int] | None = None
        self.on_change: Callable[[], object] = lambda: None
        self.update_soon: Callable[[], object] = self.update
        self._scenes: list[Scene] = []
        self._after_task: Callable[[Any], object] = lambda result: None
        self._tell_error, self._tell_warning, self._tell = tell_error, tell_warning, tell
        viewer.dims.events.point.connect(self._on_step)
        viewer.layers.events.removed.connect(self._on_removed)

    def close(self) -> None:
        """Leave the viewer alone. Its layers stay."""
        self.session.close()
        self.viewer.dims.events.point.disconnect(self._on_step)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        for scene in list(self._scenes):
            self._forget(scene)

    # ---- what the user does

    def open_weights(self, weights: str | Path) -> None:
        """Load a network; when it is there, the slice in view is segmented."""
        if self._free():
            self.session.open(weights)
            self._begin("Opening weights")

    def choose(self, image: Image | None) -> None:
        """Segment this layer from now on; its other layers are made, or found if they are there from before."""
        if self.scene is not None and image is self.scene.image:
            return
        self.session.cancel()
        self.scene, self.progress = None, None
        if image is not None:
            try:
                self.scene = self._scene_of(image)
            except ValueError as error:
                self._tell_error(str(error))
        self.on_change()
        self.update()

    def set_suggest(self, suggest: bool) -> None:
        """Whether to predict centres as well, which takes half as long again."""
        self.suggest = suggest
        self.update()

    def accept(self) -> None:
        """The selected suggestions, or else the surest one of the slice, become prompts."""
        scene, indices = self._selected()
        if scene is None or scene.centers is None or not indices:
            return
        centers, prompts = scene.centers, scene.prompts
        moved = move_positions(centers.data[indices], centers.data_to_world, prompts.world_to_data, prompts.ndim)
        self._remove_suggestions(scene, indices)
        prompts.add(moved)

    def reject(self) -> None:
        """The selected suggestions, or else the surest one of the slice, go and do not come back."""
        scene, indices = self._selected()
        if scene is not None and indices:
            self._remove_suggestions(scene, indices)

    def open_points(self, path: str | Path) -> None:
        """Add the points of a file to the prompts."""
        scene = self._chosen("open points for")
        if scene is None:
            return
        depth, height, width = scene.volume.shape
        try:
            found = read_points(path, num_slices=depth, size=(height, width))
        except (OSError, ValueError) as error:
            self._tell_error(str(error))
            return
        positions = np.concatenate([np.zeros((0, 3)), *(to_positions(points, z) for z, points in found.items())])
        if len(positions):
            image, prompts = scene.image, scene.prompts
            positions = positions[:, -image.ndim :]
            prompts.add(move_positions(positions, image.data_to_world, prompts.world_to_data, image.ndim))

    def save_points(self, path: str | Path) -> None:
        """All prompts, as the JSON that training reads."""
        scene = self._chosen("save points of")
        if scene is None:
            return
        points, _ = scene.points()
        try:
            write_points(path, points, dataset=scene.image.name)
        except OSError as error:
            self._tell_error(f"The points could not be saved: {error}")
        else:
            self._tell(f"{sum(map(len, points.values()))} points on {len(points)} slices saved to {path}")

    def save_labels(self, path: str | Path) -> None:
        """The labels layer that is selected, or else the instances of the scene, as TIFF or OME-Zarr."""
        scene = self._chosen("save labels of")
        if scene is None or not self._free():
            return
        active = self.viewer.layers.selection.active
        layer = active if isinstance(active, Labels) else scene.instances
        labels, voxel_size = stack_of(layer), voxel_size_of(layer)

        def work(report: Report) -> Path:
            return save_labels(path, labels, voxel_size, report)

        self._run("Saving labels", work, lambda saved: self._tell(f"'{layer.name}' saved to {saved}"))

    def segment_volume(self, output: str | Path) -> None:
        """All slices, with their prompts, to 3-D instances in ``*.zarr``, ``*.tif`` or ``*.h5``, and into a layer."""
        scene, weights = self._chosen("segment"), self.session.weights
        if scene is None or not self._free():
            return
        if weights is None:
            self._tell_warning("Open weights first")
            return
        points, _ = scene.points()
        image, volume, voxel_size = scene.image, scene.volume, voxel_size_of(scene.image)
        file = image.source.path

        def work(report: Report) -> Path:
            return segment_volume(weights, volume, file, Path(output), points, voxel_size, report)

        def show(result: Path) -> None:
            labels = lazy_labels(result)
            labels = labels if image.ndim == 3 else labels[0]
            self.viewer.add_layer(Labels(labels, name=f"{image.name} volume", opacity=0.5, **place_of(image)))
            self._tell(f"The whole volume is segmented: {result}")

        self._run("Segmenting the volume", work, show)

    def new_project(self, folder: str | Path, base: str | Path) -> None:
        """The image and its prompts as a training, see :func:`prompt_das.engine.project.create_project`."""
        scene = self._chosen("train on")
        if scene is None or not self._free():
            return
        name = "".join(c if c.isalnum() or c in "_-" else "_" for c in scene.image.name)
        points, _ = scene.points()
        volume, file, voxel_size = scene.volume, scene.image.source.path, voxel_size_of(scene.image)

        def work(report: Report) -> Project:
            return make_project(volume, file, Path(folder), name, points, base, voxel_size, report)

        def show(project: Project) -> None:
            self._tell(f"{project.config} is ready. Next:\n" + "\n".join(project.commands()))

        self._run("Making a project", work, show)

    def cancel_task(self) -> None:
        """Stop the long work; what it has done of a volume is kept, and goes on under the same name."""
        self.session.cancel_task()
        if self.task_progress is not None:
            self._tell(f"{self.task} was cancelled")
        self._end()

    def _chosen(self, what: str) -> Scene | None:
        if self.scene is None:
            self._tell_warning(f"Choose an image to {what} first")
        return self.scene

    def _free(self) -> bool:
        if self.task_progress is not None:
            self._tell_warning(f"{self.task} is under way: wait for it, or cancel it")
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
        if self.scene is None:
            return None
        if self.scene.image.ndim == 2:
            return 0
        z = round(float(self.scene.image.world_to_data(self.viewer.dims.point)[0]))
        return z if 0 <= z < len(self.scene.volume) else None

    def update(self) -> None:
        """Ask about the slice in view, if what is shown there is not the answer already."""
        scene, z = self.scene, self.slice_in_view
        if scene is None or self.session.predictor is None:
            return
        if scene.volume.array is not finest(scene.image) and not self._renew(scene):
            return
        points, outside = scene.points()
        if outside > scene.outside:
            self._tell_warning(
                f"{outside} of {len(scene.prompts.data)} points lie outside '{scene.image.name}' and are left out"
            )
        scene.outside = outside
        if stack_of(scene.instances).shape != scene.volume.shape:
            self._tell_error(f"'{scene.instances.name}' has another shape now: delete it, and choose the image again")
            z = None
        if z is None or (question := self._question(scene, z, points.get(z, NO_POINTS))) is None:
            self.session.cancel()
            self.progress = None
        else:
            self.session.ask(question)
            self.progress = (0, 0)
        self.on_change()

    def _question(self, scene: Scene, z: int, points: np.ndarray) -> Question | None:
        """None if it is answered."""
        before = scene.answered.get(z)
        if before is not None and before[0] == points.tobytes() and before[1] >= self.suggest:
            return None
        return Question(scene.volume, z, points, stack_of(scene.instances)[z], self.suggest)

    def _on_step(self) -> None:
        self.update_soon()

    def _on_data(self) -> None:
        self.update_soon()

    def _on_points(self, event: Any) -> None:
        if str(event.action) in ("added", "removed", "changed"):  # and not: is about to be
            self.update_soon()

    def _on_removed(self, event: Any) -> None:
        for scene in list(self._scenes):
            if event.value is scene.centers:
                scene.centers = None
                scene.suggested.clear()
            if event.value in scene.layers():
                self._forget(scene)
                self.on_change()

    # ---- what the network says

    def receive(self, message: Message) -> None:
        """A message of the session."""
        if message.ticket not in (self.session.question, self.session.task):
            return
        match message:
            case Progress(ticket, done, total) if ticket == self.session.question:
                self.progress = (done, total)
            case Progress(_, done, total):
                self.task_progress = (done, total)
            case Answer():
                self._show(message)
            case Opened(_, weights):
                self._end()
                for scene in self._scenes:
                    scene.answered.clear()
                self._tell(f"{weights.name} is open")
                self.update()
            case Finished(_, result):
                self._end()
                self._after_task(result)
            case Failed(ticket, error):
                if ticket == self.session.question:
                    self.progress = None
                else:
                    self._end()
                self._tell_error(str(error) or type(error).__name__)
        self.on_change()

    def _show(self, answer: Answer) -> None:
        scene, question = self.scene, answer.question
        if scene is None or scene.volume is not question.volume:
            return
        z, segmentation = question.z, answer.segmentation
        stack_of(scene.instances)[z] = answer.instances
        scene.instances.refresh()
        if answer.whole:
            self.progress = None
            scene.answered[z] = (question.points.tobytes(), question.centers)
            if segmentation.centers is not None:
                self._show_centers(scene, answer)

    # ---- suggestions

    def _show_centers(self, scene: Scene, answer: Answer) -> None:
        assert self.session.predictor is not None
        z, segmentation = answer.question.z, answer.segmentation
        assert segmentation.centers is not None
        layer = self._centers_layer(scene)
        positions = with_slice(layer.data)
        here = np.rint(positions[:, 0]) == z
        left = to_points(positions[here])
        before = scene.suggested.get(z, NO_POINTS)
        gone = ~(before[:, None] == left[None]).all(axis=-1).any(axis=1)
        scene.judged[z] = np.concatenate([scene.judged.get(z, NO_POINTS), before[gone]])
        cfg = self.session.predictor.cfg
        radius = cfg.DOMAIN_ADAPT.POINTS.KERNEL / cfg.INPUT.SCALE
        new = new_centers(segmentation.centers, segmentation.instances, answer.question.points, scene.judged[z], radius)
        positions = to_positions(new.points, z)
        scores = np.concatenate([layer.features["score"].to_numpy(float)[~here], new.scores])
        layer.selected_data = set()
        layer.data = np.concatenate([layer.data[~here], positions[:, -layer.ndim :]])
        layer.features = {"score": scores}
        scene.suggested[z] = to_points(positions)
        self._select_surest(scene, z)

    def _selected(self) -> tuple[Scene | None, list[int]]:
        scene, z = self.scene, self.slice_in_view
        if scene is None or scene.centers is None or z is None:
            return None, []
        if not scene.centers.selected_data:
            self._select_surest(scene, z)
        return scene, sorted(scene.centers.selected_data)

    def _remove_suggestions(self, scene: Scene, indices: list[int]) -> None:
        assert scene.centers is not None
        scene.centers.selected_data = set(indices)
        scene.centers.remove_selected()
        z = self.slice_in_view
        if z is not None:
            self._select_surest(scene, z)

    def _select_surest(self, scene: Scene, z: int) -> None:
        layer = scene.centers
        if layer is None:
            return
        here = np.flatnonzero(np.rint(with_slice(layer.data)[:, 0]) == z)
        scores = layer.features["score"].to_numpy(float)[here]
        layer.selected_data = {int(here[scores.argmax()])} if len(here) else set()

    # ---- scenes

    def _scene_of(self, image: Image) -> Scene:
        for scene in self._scenes:
            if scene.image is image:
                return scene
        scene = new_scene(image)
        self.viewer.add_layer(scene.instances)
        self.viewer.add_layer(scene.prompts)
        scene.prompts.mode = "add"
        self.viewer.layers.selection.active = scene.prompts
        image.events.data.connect(self._on_data)
        scene.prompts.events.data.connect(self._on_points)
        self._scenes.append(scene)
        return scene

    def _renew(self, scene: Scene) -> bool:
        """The image has other data now. False if they are of another size, and so need other layers."""
        array = finest(scene.image)
        if array.shape != scene.volume.array.shape:
            self._forget(scene)
            self.choose(scene.image)
            return False
        scene.volume = LayerVolume(array, scene.image.name)
        scene.answered.clear()
        return True

    def _forget(self, scene: Scene) -> None:
        scene.image.events.data.disconnect(self._on_data)
        scene.prompts.events.data.disconnect(self._on_points)
        self._scenes.remove(scene)
        if scene is self.scene:
            self.session.cancel()
            self.scene, self.progress = None, None

    def _centers_layer(self, scene: Scene) -> Points:
        if scene.centers is None:
            layer = scene.new_centers()
            layer.bind_key("y", lambda _: self.accept())
            layer.bind_key("n", lambda _: self.reject())
            active = self.viewer.layers.selection.active
            self.viewer.add_layer(layer)
            layer.mode = "select"
            self.viewer.layers.selection.active = active
            scene.centers = layer
        return scene.centers
