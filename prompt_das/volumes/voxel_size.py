"""The voxel size that a file's own metadata state: TIFF (ImageJ, OME), OME-Zarr, attributes of HDF5 and Zarr arrays.

Voxel sizes are (z, y, x) in nanometers. Metadata are often a program's defaults, 1 pixel or 72 dots per inch for
example: what no electron microscope can have is not known (None), as is what has no unit of length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from tifffile import RESUNIT, TiffFile

VoxelSize = tuple[float, float, float]

# Names and symbols of ImageJ, OME, NGFF and UCUM, in lower case, in nm.
_NANOMETERS = {
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-3),
    **dict.fromkeys(("å", "angstrom", "ångström"), 0.1),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1e3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e7),
    **dict.fromkeys(("inch", "in"), 25.4e6),
    **dict.fromkeys(("m", "meter", "metre"), 1e9),
}
_RESOLUTION_UNITS: dict[int, str] = {RESUNIT.CENTIMETER: "cm", RESUNIT.INCH: "inch"}
_LEAST, _MOST = 0.5, 1e5  # nm: a voxel has one side that is longer than the first, and none longer than the second


def to_nanometers(size: Any, unit: str | None) -> float:
    """A length in nm; nan where there is no size, or the unit is none of length."""
    factor = _NANOMETERS.get(str(unit).strip().lower())
    return float(size) * factor if size is not None and factor is not None else math.nan


def plausible(size: Sequence[float] | None) -> VoxelSize | None:
    """The voxel size (z, y, x) in nm if it can be true, else None."""
    if size is None or len(size) != 3 or not all(math.isfinite(side) and 0 < side <= _MOST for side in size):
        return None
    z, y, x = map(float, size)
    return (z, y, x) if max(z, y, x) >= _LEAST else None


def of_tiff(tif: TiffFile) -> VoxelSize | None:
    """From OME-XML, from what :func:`prompt_das.volumes.writers.write_tiff` writes, or from ImageJ's description.

    Resolution tags alone do if there is one page: nothing says how far slices are apart.
    """
    if tif.ome_metadata:
        return _of_ome(tif.ome_metadata)
    if tif.imagej_metadata:
        described = tif.imagej_metadata
        unit = str(described.get("unit")).replace("\\u00B5", "µ")
        y, x = (_resolution(tif, axis, unit) for axis in "YX")
        spacing = described.get("spacing")
        z = to_nanometers(abs(spacing), unit) if spacing is not None else _of_one_page(tif, y)
        return z, y, x
    shaped = (tif.shaped_metadata or ({},))[0]
    if "PhysicalSizeX" in shaped:
        return _of_physical_sizes(shaped, shaped.get("PhysicalSizeUnit"))
    tagged = _RESOLUTION_UNITS.get(tif.pages.first.resolutionunit)
    y, x = (_resolution(tif, axis, tagged) for axis in "YX")
    return _of_one_page(tif, y), y, x


def of_attributes(attributes: Mapping[str, Any]) -> VoxelSize | None:
    """From attributes of an array: `element_size_um` (ilastik, Fiji), or `resolution` in nm (CREMI, MitoEM, funlib)."""
    if (size := attributes.get("element_size_um")) is not None:
        return _three(to_nanometers(side, "um") for side in size)
    if (size := attributes.get("resolution")) is not None:
        unit = attributes.get("units", "nm")
        units = [unit] * 3 if isinstance(unit, str | bytes) else list(unit)
        names = [one.decode() if isinstance(one, bytes) else str(one) for one in units]
        return _three(to_nanometers(side, name) for side, name in zip(size, names, strict=True))
    return None


def of_multiscales(scales: Mapping[str, Any], dataset: Mapping[str, Any]) -> VoxelSize | None:
    """From OME-Zarr's description of an image, for one of its ``datasets``: both scale transformations and the units.

    An image without z is one slice, which is taken to be as thick as its pixels are high.
    """
    axes = scales["axes"]
    factors = [1.0] * len(axes)
    for transformation in (*dataset["coordinateTransformations"], *(scales.get("coordinateTransformations") or ())):
        if transformation["type"] == "scale":
            factors = [a * float(b) for a, b in zip(factors, transformation["scale"], strict=True)]
    size = {axis["name"].lower(): to_nanometers(factor, axis.get("unit")) for axis, factor in zip(axes, factors)}
    return size.get("z", size["y"]), size["y"], size["x"]


def _of_ome(xml: str) -> VoxelSize | None:
    """Read the voxel size of the first image. Sizes without a unit are in µm, by OME's rules."""
    try:
        pixels = next(e for e in ElementTree.fromstring(xml).iter() if e.tag.rpartition("}")[2] == "Pixels")
    except (ElementTree.ParseError, StopIteration):
        return None
    sizes = dict(pixels.attrib)
    if int(sizes.get("SizeZ", 1)) == 1 and "PhysicalSizeY" in sizes:
        for key in ("PhysicalSizeZ", "PhysicalSizeZUnit"):
            if (side := sizes.get(key.replace("Z", "Y"))) is not None:
                sizes.setdefault(key, side)
    return _of_physical_sizes(sizes, "µm")


def _of_physical_sizes(sizes: Mapping[str, Any], unit: str | None) -> VoxelSize | None:
    return _three(
        to_nanometers(sizes.get(f"PhysicalSize{axis}"), sizes.get(f"PhysicalSize{axis}Unit", unit)) for axis in "ZYX"
    )


def _resolution(tif: TiffFile, axis: str, unit: str | None) -> float:
    """Side of a pixel in nm from the tag that counts pixels in a unit."""
    tag = tif.pages.first.tags.get(f"{axis}Resolution")
    pixels, units = tag.value if tag is not None else (0, 0)
    return to_nanometers(units / pixels, unit) if pixels else math.nan


def _of_one_page(tif: TiffFile, y: float) -> float:
    return y if len(tif.pages) == 1 and re.fullmatch("S?YXS?", tif.series[0].axes) else math.nan


def _three(sides: Any) -> VoxelSize:
    z, y, x = sides
    return z, y, x
