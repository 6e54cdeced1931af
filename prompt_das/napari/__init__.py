"""The napari plugin: click in a slice and see the segmentation follow.

    session           the network in the background, without napari; messages: what goes to it and comes back
    layers            layers as volumes, and positions between layers and slices
    image_session     an image layer with the layers that belong to it; alt_click: what Alt+click in them does
    image_sessions    those of a viewer; image_options: what the user states of one; image_scale: its scale
    controller        from what happens in a viewer to requests to the network and back, without Qt; it is made of
    suggestion_layer  places to click next, and what the user says is there
    proofreading      instances kept, deleted, merged and split by hand; edits: what holds, and how it is undone
    measure           the diameter of an object, from a line across it; fit_threshold: where outlines lie with it
    preview           what an adaptation has come to; adapt: the adaptation in a process of its own
    tasks             long work, one at a time
    file_actions      points, labels, the whole volume, a project; files: the work itself
    widget            buttons, Qt; network_panel, image_panel, instances_panel: its parts
    readers, writers  our files in napari's own menus
    samples           a synthetic volume to try it with

Nothing is imported here: napari is an extra, `pip install prompt-das[napari]`.
"""
