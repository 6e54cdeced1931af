"""The napari plugin: click in a slice and see the segmentation follow.

    session      the network in the background, without napari
    controller   from what happens in a viewer to questions to the network, without Qt
    widget       buttons, Qt
    layers       layers as volumes, and positions between layers and slices
    suggestions  which predicted centres are worth showing
    whole_volume, samples

Nothing is imported here: napari is an extra, `pip install prompt-das[napari]`.
"""
