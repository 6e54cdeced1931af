"""EM volumes on disk, without Detectron2: lazy readers, writers, intensities, point files, synthetic volumes."""
