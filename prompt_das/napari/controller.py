"""From events of a viewer to requests to the network, and from its responses to layers. Without Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.napari.file_actions import FileActions
from prompt_das.napari.fit_threshold import fitted_threshold
from prompt_das.napari.image_options import ImageOptions
from prompt_das.napari.image_scale import asks_for_size, scale_of
from prompt_das.napari.image_session import ImageSession, finest, stack_of
from prompt_das.napari.image_sessions import ImageSessions
from prompt_das.napari.layers import NO_CLICKS, LayerVolume
from prompt_das.napari.measure import DiameterLines
from prompt_das.napari.messages import Checkpoint, Failed, Message, Previewed, Progress, Response
from prompt_das.napari.notifications import Notifications
from prompt_das.napari.preview import Preview
from prompt_das.napari.proofreading import Proofreading
from prompt_das.napari.session import Session
from prompt_das.napari.suggestion_layer import SuggestionLayer
from prompt_das.napari.tasks import Tasks
from prompt_das.ops.points import NEGATIVE

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image


class Controller:
    """Keeps the instances of the slice in view up to date with its prompts.

    All methods are for the viewer's thread. Errors that the user can mend are notifications, not exceptions.

    Attributes:
        image_sessions: the images, and which of them is being segmented.
        options: what the user states of the image in use: sizes, thresholds.
        suggestions: places to click next, and the answers to them.
        proofreading: edits of instances.
        lines: measure the diameter of objects.
        preview: shows what an adaptation has come to.
        files: opens and saves points, saves labels, segments the whole volume, makes a project.
        tasks: the long work that is under way.
        progress: (done, total) of the newest request; None if it is complete.
        problem: why the image cannot be segmented as it is, for the user; "" if it can.
        on_change: called when something of this has changed.
        update_soon: called when :meth:`update` may have something to do.
    """

    def __init__(self, viewer: ViewerModel, session: Session, notifications: Notifications) -> None:
        self.session = session
        self.suggest = False
        self.progress: tuple[int, int] | None = None
        self.problem = ""
        self.on_change: Callable[[], object] = lambda: None
        self.update_soon: Callable[[], object] = self.update
        self._notifications = notifications
        self._complete: Response | None = None  # the newest that is
        self._warned_of: Predictor | None = None  # a network that leaves negative clicks out
        self.image_sessions = ImageSessions(
            viewer,
            on_add=lambda image_session: self.proofreading.watch(image_session),
            on_edit=lambda: self.update_soon(),
            on_forget_current=self._cancel_request,
        )
        self.options = ImageOptions(self.image_sessions, on_change=self.update)
        self.proofreading = Proofreading(
            viewer,
            self.image_sessions,
            notifications,
            on_change=lambda: self.on_change(),
            on_edit=lambda: self.update_soon(),
        )
        self.lines = DiameterLines(viewer, self.image_sessions, on_measure=self.options.set_diameter_of)
        self.preview = Preview(viewer, self.image_sessions)
        self.tasks = Tasks(session, notifications, on_change=self._on_task)
        self.suggestions = SuggestionLayer(viewer, self.image_sessions)
        self.files = FileActions(viewer, session, self.image_sessions, self.tasks, notifications)

    def close(self) -> None:
        """Leave the viewer alone. Its layers stay."""
        self.session.close()
        self.proofreading.close()
        self.image_sessions.close()

    # ---- what the user does

    def open_weights(self, weights: str | Path) -> None:
        """Load a network; when it is there, the slice in view is segmented."""
        if self.tasks.is_free():
            self.tasks.open_weights(weights, self._use_weights)

    def choose(self, image: Image | None) -> None:
        """Segment this layer from now on; its other layers are made, or found if they are there from before."""
        current = self.image_sessions.current
        if current is not None and image is current.image:
            return
        self.session.cancel()
        self.progress = None
        self.proofreading.choose(None)
        try:
            self.image_sessions.choose(image)
        except ValueError as error:
            self._notifications.exception(error)
        self.on_change()
        self.update()

    def set_suggest(self, suggest: bool) -> None:
        """Whether to show places that are worth a click next."""
        self.suggest = suggest
        self.update()

    def fit_threshold(self) -> None:
        """Set the threshold at which objects of the slice in view have the stated diameter."""
        image_session, z = self.image_sessions.current, self.image_sessions.slice_in_view
        if image_session is None:
            return
        try:
            threshold = fitted_threshold(image_session, z, self._complete)
        except ValueError as error:
            self._notifications.warning(str(error))
        else:
            self.options.set_threshold(threshold)

    @property
    def asks_for_size(self) -> bool:
        """Whether the network needs to know how large things are in the image."""
        return asks_for_size(self.session.predictor)

    # ---- from the viewer to the network

    def update(self) -> None:
        """Segment the slice in view, unless what is shown there is its result already."""
        image_session, z = self.image_sessions.current, self.image_sessions.slice_in_view
        if image_session is None or self.session.predictor is None:
            return
        if image_session.volume.array is not finest(image_session.image) and not self._renew(image_session):
            return
        clicks, outside = image_session.clicks()
        if outside > image_session.outside:
            self._notifications.warning(
                f"{outside} of {image_session.num_prompts} points lie outside "
                f"'{image_session.image.name}' and are left out"
            )
        image_session.outside = outside
        self._warn_of_negative_clicks(self.session.predictor, clicks.values())
        if stack_of(image_session.instances).shape != image_session.volume.shape:
            self._notifications.error(
                f"'{image_session.instances.name}' has another shape now: delete it, and choose the image again"
            )
            z = None
        scale = self._scale(self.session.predictor, image_session)
        request = None
        if z is not None and scale is not None:
            request = image_session.request(z, clicks.get(z, NO_CLICKS), scale, suggest=self.suggest)
        if request is not None and image_session.shows(request):
            image_session.edits.see(request.z, request.shown)
            request = None
        if request is None:
            self.session.cancel()
            self.progress = None
        else:
            self.session.submit(request)
            self.progress = (0, 0)
        self.on_change()

    def _scale(self, predictor: Predictor, image_session: ImageSession) -> float | None:
        """Network pixels per pixel of the image; None, and a problem, where it is not known."""
        self.problem = ""
        try:
            return scale_of(predictor, image_session)
        except ValueError as error:
            self.problem = str(error)
            return None

    def _warn_of_negative_clicks(self, predictor: Predictor, clicks: Iterable[np.ndarray]) -> None:
        """Once for each network that does not know them."""
        if predictor.uses_negative_clicks or predictor is self._warned_of:
            return
        if any((of_slice[:, 2] == NEGATIVE).any() for of_slice in clicks):
            self._warned_of = predictor
            self._notifications.warning("These weights were trained without negative clicks; they are left out")

    def _cancel_request(self) -> None:
        self.session.cancel()
        self.progress = None
        self.on_change()

    def _renew(self, image_session: ImageSession) -> bool:
        """The image has other data now. False if they are of another size, and so need other layers."""
        array = finest(image_session.image)
        if array.shape != image_session.volume.array.shape:
            self.image_sessions.forget(image_session)
            self.choose(image_session.image)
            return False
        image_session.volume = LayerVolume(array, image_session.image.name)
        image_session.responded.clear()
        image_session.edits.clear()
        return True

    # ---- from the network to the viewer

    def receive(self, message: Message) -> None:
        """Handle a message of the session."""
        if isinstance(message, Checkpoint):
            if self.session.tasks.is_newest(message.ticket):
                self._show_preview(message.weights)
        elif isinstance(message, Previewed):
            if self.tasks.progress is not None:
                self.preview.show(message)
        elif self.session.tasks.is_newest(message.ticket):
            self.tasks.receive(message)
        elif self.session.requests.is_newest(message.ticket):
            match message:
                case Progress(_, done, total):
                    self.progress = (done, total)
                case Response():
                    self._show(message)
                case Failed(_, error):
                    self.progress = None
                    self._notifications.exception(error)
        else:
            return
        self.on_change()

    def _show_preview(self, weights: Path) -> None:
        """Segment the slice in view with a network that is being adapted, beside the answer of the one in use."""
        image_session, z = self.image_sessions.current, self.image_sessions.slice_in_view
        if image_session is None or z is None or self.session.predictor is None:
            return
        scale, (clicks, _) = self._scale(self.session.predictor, image_session), image_session.clicks()
        if scale is not None and stack_of(image_session.instances).shape == image_session.volume.shape:
            request = image_session.request(z, clicks.get(z, NO_CLICKS), scale, suggest=False)
            self.session.preview(weights, request)

    def _on_task(self) -> None:
        if self.tasks.progress is None:
            self.preview.remove()
        self.on_change()

    def _use_weights(self, weights: Path) -> None:
        for image_session in self.image_sessions:
            image_session.responded.clear()
        self._notifications.info(f"{weights.name} is open")
        self.update()

    def _show(self, response: Response) -> None:
        image_session, request = self.image_sessions.current, response.request
        if image_session is None or image_session.volume is not request.volume:
            return
        z, ids = request.z, stack_of(image_session.instances)
        ids[z] = image_session.edits.kept(z, ids[z], response.instances)
        image_session.edits.drawn = (z, ids[z].copy())
        image_session.instances.refresh()
        if response.complete:
            self.progress, self._complete = None, response
            image_session.responded[z] = (request.key, request.suggest)
            if request.suggest:
                assert self.session.predictor is not None
                assert request.scale is not None
                sigma = self.session.predictor.cfg.MODEL.CENTER_HEAD.SIGMA / request.scale
                self.suggestions.show(image_session, response, sigma)
