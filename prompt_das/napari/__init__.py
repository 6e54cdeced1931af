"""The napari plugin: click in a slice and see the segmentation follow.

    session           the network in the background, without napari
    layers            layers as volumes, and positions between layers and slices
    image_session     an image layer with the layers that belong to it; alt_click: what Alt+click in them does
    controller        from what happens in a viewer to requests to the network and back, without Qt; it is made of
    suggestion_layer  predicted centers, accepted or rejected; suggestions: which of them are worth showing
    tasks             long work, one at a time
    file_actions      points, labels, the whole volume, a project; files: the work itself
    widget            buttons, Qt
    samples           a synthetic volume to try it with

Nothing is imported here: napari is an extra, `pip install prompt-das[napari]`.
"""
