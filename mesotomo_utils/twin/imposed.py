"""What is built into a digital twin: the findings of the paper, each a parameter with its source.

Every value can be set in the ``twin:`` block of a sample file. "paper" in a description means
*Atomic lattice resolved electron tomography of a 3D self-assembled mesocrystal*; "ours" marks a
choice the paper does not give (its supplementary information is not public).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class TwinParameters(BaseModel):
    """Parameters of a twin's structure and of the microscope that images it.

    Lengths in nm, angles in degrees. Frozen; an unknown key is an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["images", "table"] = Field(
        "images", description="images: a tilt series is made; table: a table of measured dots"
    )
    seed: int = Field(20211, ge=0, description="of every random number (ours)")

    # --- superlattice -------------------------------------------------------------------------
    qd_count: int = Field(633, ge=1, description="dots at least 90 % inside the needle; sets its radius. 633: paper")
    layers: int = Field(9, ge=2, description="paper, C1 ... C9")
    a_nm: float = Field(6.2, gt=0, description="triclinic cell: ours, near the paper's spacing")
    b_nm: float = Field(5.9, gt=0)
    c_nm: float = Field(5.7, gt=0)
    alpha_deg: float = Field(98.0, gt=60, lt=120)
    beta_deg: float = Field(95.0, gt=60, lt=120)
    gamma_deg: float = Field(93.0, gt=60, lt=120)
    film_bottom: Literal["low_z", "high_z"] = Field("low_z", description="where C1 lies (ours)")
    film_tilt_deg: float = Field(3.0, description="film normal against the needle's axis (DESIGN)")
    film_tilt_azimuth_deg: float = Field(40.0, description="direction of that tilt (ours)")
    film_azimuth_deg: float = Field(17.0, description="turn of the film about z (ours)")
    needle_offset_nm: tuple[float, float] = Field(
        (1.1, -0.7), description="needle axis against the middle of the lattice, in the film (ours)"
    )
    point_defect_fraction: float = Field(
        0.022, ge=0, le=0.2, description="vacancies a site, all in interior layers (paper)"
    )

    # --- displacements ------------------------------------------------------------------------
    planarity_fwhm_nm: tuple[float, ...] | None = Field(
        None,
        description="one FWHM a layer, bottom to top; None: surface, next, and interior layers as "
        "below (paper, Fig. 2d)",
    )
    planarity_surface_nm: float = Field(0.2, gt=0, description="paper: 0.1-0.4 in C1, C9")
    planarity_next_nm: float = Field(1.15, gt=0, description="paper: about 1.2 in C2, C8")
    planarity_interior_nm: float = Field(0.75, gt=0, description="paper: 0.7-1.0 in C3-C7")
    displacement_correlation: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="of neighbours' displacements as drawn; about 0.4 is left in the end (ours)",
    )
    sl_spread_in_plane_deg: float = Field(9.4, gt=0, description="95 % width of the azimuth of +A, +B (paper, Fig. 3)")
    sl_spread_out_of_plane_deg: float | None = Field(
        14.2,
        description="95 % width of their elevation (paper, Fig. 3), reached by how alike neighbours' "
        "heights are; None: not imposed",
    )
    in_plane_surface_factor: float = Field(
        0.7,
        gt=0,
        description="in-plane displacement of C1 and the top layer against interior (ours)",
    )
    looser_beside_vacancies: float = Field(
        1.0, gt=0, description="factor on displacement and scatter beside a vacancy; 1: no effect"
    )

    # --- dots ---------------------------------------------------------------------------------
    lattice_nm: float = Field(0.612, gt=0, description="PbSe, rock salt (paper)")
    edge_nm: float = Field(4.5, gt=0, description="mean edge of a dot's cube (ours)")
    edge_spread: float = Field(0.025, ge=0, le=0.1, description="relative sd per edge before whole planes (ours)")
    truncation: float = Field(0.2, ge=0, lt=0.5, description="part of the edge that a {111} corner cuts off (ours)")
    minimum_gap_nm: float = Field(0.3, gt=0, description="between facing facets of any two dots, asserted (ours: a/2)")

    # --- atomic lattices ----------------------------------------------------------------------
    common_axis: tuple[float, float, float] = Field(
        (-1.0, 2.0, 0.0), description="crystal axis of roll and of neighbours (paper, Figs. 3, 4)"
    )
    roll_deg: float = Field(8.4, description="layer mean, C2 to C6 and back by C9 (paper, Fig. 3)")
    turn_deg: tuple[float, ...] | None = Field(
        None, description="in-plane turn of each layer; None: the last three layers as below"
    )
    turn_top_deg: float = Field(
        2.6,
        description="in-plane turn of the top layer, reached over the last three (paper: several degrees, of which "
        "the in-plane spread of 3.7 leaves this)",
    )
    turn_several_deg: float | None = Field(
        3.0, description="the least that the paper's several degrees may mean (ours); only compared"
    )
    al_spread_in_plane_deg: float | None = Field(
        3.7, description="95 % width of the azimuth of a, b (paper, Fig. 3); None: not imposed"
    )
    al_spread_out_of_plane_deg: float | None = Field(
        11.3, description="95 % width of their elevation (paper, Fig. 3); None: scatter_deg is used"
    )
    scatter_deg: float = Field(2.0, gt=0, description="sd about the common axis where no spread is imposed (ours)")
    explained_variance: float = Field(
        0.89, gt=0, lt=1, description="of neighbours' rotation by the common axis (paper, Fig. 4)"
    )
    twists: tuple[float, float, float] | None = Field(
        (0.44, 0.78, 0.23),
        description="of A, B and C pairs (paper, Fig. 4); only compared, they follow from the axis, the variance it "
        "explains and the spread",
    )
    orientation_correlation: float = Field(0.3, ge=0, lt=1, description="of neighbours' scatter (ours)")
    scatter_surface_factor: float = Field(
        0.5, gt=0, description="scatter of C1 and the top layer against interior (paper, Fig. 4)"
    )
    follow_local: float = Field(
        0.0,
        ge=0,
        le=1,
        description="0: lattices know only the mean cell; 1: they follow the "
        "directions to their own neighbours (paper: mono, 0)",
    )
    mean_misorientation_deg: float | None = Field(
        2.5,
        description="to the perfect lattice (paper, Fig. 5); only compared, it follows from the roll and the spread",
    )

    # --- necks --------------------------------------------------------------------------------
    neck_fraction: float = Field(0.893, ge=0, le=1, description="of neighbour pairs (paper, Fig. 2)")
    neck_diameter_nm: float = Field(2.5, gt=0, description="mean in the lower layers (ours)")
    neck_spread_nm: float = Field(0.9, ge=0, description="sd of all diameters (paper, Fig. 2)")
    neck_minimum_nm: float = Field(0.7, gt=0, description="thinnest neck that counts as one (ours)")
    neck_upper_layer: int = Field(7, description="first layer of thinner necks (paper: above C6)")
    neck_upper_factor: float = Field(0.75, gt=0, description="their mean against below (ours)")

    # --- measured table (level: table) --------------------------------------------------------
    centre_sigma_nm: float = Field(0.1, gt=0, description="error of a centre along each axis (ours)")
    orientation_sigma_deg: float = Field(0.5, gt=0, description="rms error angle (ours)")
    neck_sigma_nm: float = Field(0.2, gt=0, description="error of a neck's diameter (ours)")

    # --- microscope (level: images); the errors of the series are never eased -----------------
    pixel_nm: float = Field(0.07, gt=0, description="paper")
    n_tilts: int = Field(180, ge=2, description="paper")
    first_tilt_deg: float = Field(-90.0, description="paper: full tilt")
    tilt_step_deg: float = Field(1.0, gt=0, description="paper")
    image_shape: tuple[int, int] | None = Field(
        None, description="rows (z), columns (u); None: what holds the needle and its drift"
    )
    margin_nm: float = Field(2.0, gt=0, description="around needle and drift (ours)")
    probe_fwhm_nm: float = Field(0.09, gt=0, description="Gaussian probe (ours)")
    blur_nm: float = Field(0.0, ge=0, description="further Gaussian sd, for a poorer microscope")
    thermal_pb_nm: float = Field(0.0140, ge=0, description="rms amplitude per axis, 300 K (ours)")
    thermal_se_nm: float = Field(0.0130, ge=0, description="rms amplitude per axis, 300 K (ours)")
    z_exponent: float = Field(1.7, gt=0, description="HAADF contrast, Z to this power (DESIGN)")
    carbon_shell_nm: float = Field(1.0, ge=0, description="carbon around and above the needle (ours)")
    carbon_atoms_per_nm3: float = Field(100.0, ge=0, description="amorphous carbon, 2 g/cm3 (ours)")
    carbon_grain_nm: float = Field(0.6, gt=0, description="size of its granularity (ours)")
    carbon_grain_fraction: float = Field(0.15, ge=0, le=1, description="of its mass (ours)")
    background: float = Field(0.02, ge=0, description="uniform signal against the brightest hundredth (ours)")
    jitter_px: float = Field(2.0, ge=0, description="rms per tilt and direction")
    drift_px: float = Field(0.5, ge=0, description="step of a random walk per tilt and direction")
    axis_offset_px: float = Field(5.0, description="of the tilt axis from the image centre")
    axis_tilt_deg: float = Field(0.5, description="of the tilt axis in the image plane")
    angle_error_deg: float = Field(0.1, ge=0, description="rms per tilt")
    image_shear_deg: float = Field(
        0.0, gt=-20, lt=20, description="of all images: drift along u while the scan proceeds along z"
    )
    image_stretch_z: float = Field(0.0, gt=-0.2, lt=0.2, description="relative error of the scale along z")
    image_stretch_u: float = Field(0.0, gt=-0.2, lt=0.2, description="relative error of the scale along u")
    specimen_shear_deg: float = Field(
        0.0, gt=-20, lt=20, description="drift along the specimen's own x while the scan proceeds along z"
    )
    dose_electrons: float = Field(400.0, gt=0, description="detected per pixel in the brightest hundredth at 0 degrees")

    @model_validator(mode="after")
    def _lists_match_layers(self) -> TwinParameters:
        for key in ("planarity_fwhm_nm", "turn_deg"):
            values = getattr(self, key)
            if values is not None and len(values) != self.layers:
                raise ValueError(f"{key} has {len(values)} values for {self.layers} layers")
        if not any(self.common_axis):
            raise ValueError("common_axis must not be [0, 0, 0]")
        return self

    def planarity(self) -> NDArray[np.float64]:
        """(layers,) FWHM of the heights of each layer, nm."""
        if self.planarity_fwhm_nm is not None:
            return np.array(self.planarity_fwhm_nm)
        fwhm = np.full(self.layers, self.planarity_interior_nm)
        fwhm[[1, -2]] = self.planarity_next_nm
        fwhm[[0, -1]] = self.planarity_surface_nm
        return fwhm

    def roll(self) -> NDArray[np.float64]:
        """(layers,) roll of the layer mean, degrees: 0 to C2, full at C6, 0 again at C9.

        Films of other thickness have the same shape, stretched.
        """
        height = np.linspace(0, 8, self.layers)
        return self.roll_deg * np.interp(height, [0, 1, 5, 8], [0, 0, 1, 0])

    def turn(self) -> NDArray[np.float64]:
        """(layers,) in-plane turn of the layer mean, degrees: grows over the last three layers."""
        if self.turn_deg is not None:
            return np.array(self.turn_deg)
        return self.turn_top_deg * np.interp(np.arange(self.layers) - self.layers, [-4, -1], [0, 1])

    def scatter_profile(self, surface: float) -> NDArray[np.float64]:
        """(layers,) factors that are 1 in interior layers and ``surface`` in the two outer ones."""
        factors = np.ones(self.layers)
        factors[[0, -1]] = surface
        return factors


def twin_parameters(block: dict[str, Any] | None) -> TwinParameters:
    """Check the ``twin:`` block of a sample file.

    Raises
    ------
    ValueError
        Unknown key, wrong type or value out of range; one line that names the key and the mend.
    """
    try:
        return TwinParameters(**(block or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ValueError(
                f"twin: unknown key {key!r}; known are {', '.join(sorted(TwinParameters.model_fields))}"
            ) from None
        name = f"twin: {key}: " if key else "twin: "
        raise ValueError(f"{name}{first['msg']}, found {first['input']!r}") from None
