"""How large the dots of a tomogram are, and the picture that is made for dots of that size.

Nearly all lengths of the mapping are parts of a dot's diameter. The sample file gives it roughly, the mean dot to a few
hundredths, and where the two do not agree the mean dot is right. With a diameter a tenth too small some dots are found
twice, with one a fifth too large their neighbours are in the masks.
"""

from __future__ import annotations

from typing import Any

from mesotomo_utils.mapping.missing_wedge import fill_wedge
from mesotomo_utils.mapping.template import BodyImage, Template, body_image, learn_template

#: The diameter that the mapping counts in, over the edge of the cube that the mean dot would fill. That of the twins
#: which its constants were chosen on lies between 1.02 and 1.08.
DIAMETER_OVER_EDGE = 1.05
#: A given diameter is taken as it is if it is no farther than this part from what the mean dot says.
GIVEN_TOLERANCE = 0.06
#: A diameter found is found again, from a picture made with it, until it changes by less.
FOUND_TOLERANCE = 0.03
#: One that is to be changed by more than this factor is no rough size of these dots.
LARGEST_CHANGE = 2.0
_MOST_ROUNDS = 8


def image_of_dots(
    volume: Any,
    voxel_nm: float,
    *,
    diameter_nm: float,
    angles_deg: Any = (),
    device: str = "cpu",
    dask: str | None = None,
) -> tuple[BodyImage, Template]:
    """The picture of whole dots and the mean dot, with the size that the dots have.

    Parameters
    ----------
    volume, voxel_nm, device, dask
        As for :func:`.template.body_image`.
    diameter_nm
        Rough diameter of a dot, nm: two thirds to one and a half of its edge.
    angles_deg
        (T,) tilts that the volume was reconstructed from, for :func:`.missing_wedge.fill_wedge`; empty where none is
        known.

    Returns
    -------
    The image, whose ``diameter_nm`` is the one given or, where the mean dot has another, the mean dot's
    (:data:`DIAMETER_OVER_EDGE` times its :attr:`.Template.edge_nm`); and the mean dot in it.

    Raises
    ------
    ValueError
        As :func:`.template.body_image` and :func:`.template.learn_template`; and where the mean dot is less than half
        as large as the diameter given, or more than twice, or of no size that can be settled on.
    """
    given_nm, tolerance = diameter_nm, GIVEN_TOLERANCE
    for _ in range(_MOST_ROUNDS):
        image = body_image(volume, voxel_nm, diameter_nm=diameter_nm, device=device, dask=dask)
        image = fill_wedge(image, angles_deg)
        template, _, _ = learn_template(image)
        found_nm = DIAMETER_OVER_EDGE * template.edge_nm
        if abs(diameter_nm / found_nm - 1) <= tolerance:
            return image, template
        if not 1 / LARGEST_CHANGE < found_nm / given_nm < LARGEST_CHANGE:
            break
        diameter_nm, tolerance = found_nm, FOUND_TOLERANCE
        del image  # the next one beside it would take twice the memory
    raise ValueError(
        f"diameter_nm is {given_nm:g}, but what looks like a dot of that size in the tomogram is {found_nm:.1f} nm "
        "wide; correct quantum_dot.diameter_nm or the voxel size in the sample file"
    )
