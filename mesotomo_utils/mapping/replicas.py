"""What a finite number of tilts repeats of each dot's lattice in the dots around it, and its removal.

Tilts in steps of Δθ sample the plane of frequencies across the tilt axis along lines that lie gΔθ apart at a spatial
frequency g. Filtered back-projection therefore repeats the fringes of a dot beside it, along the beam of the tilts
that see them, every 1/(gΔθ): 12 nm for {220} of PbSe and steps of 1°, two dots on. There they stand in the windows of
others, at almost the same frequencies, and pull their spots: more than noise does. Half sets of tilts repeat at half
the distance.

The lattices that were found predict it. They are drawn as plane waves in the body of the mean dot, with the phases that
one origin of rock salt gives them, projected at the angles of the series and reconstructed again; what comes back
beyond what was drawn is subtracted from the tomogram.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from mesotomo_utils.backend import resolve_device, to_device, to_numpy
from mesotomo_utils.distribute import each_item
from mesotomo_utils.mapping.lattice_model import LatticeModel, draw_lattices
from mesotomo_utils.tomography.cutting import cube_middle_nm, cut_cubes
from mesotomo_utils.tomography.projector import Projector

# Fringes are averaged over about one period of {111} to show how strong they are.
_ENVELOPE_NM = 0.3
# Slices that are projected and reconstructed at a time. A GPU takes longer to plan a projector than to use it.
_ROWS = {"cpu": 32, "cuda": 192}
# Replicas nearer than this many times the shortest superlattice vector mix so many dots that the lattices read from the
# tomogram are no basis to remove them by: on twins with every other tilt the errors fall by a third at 0.9, and the
# largest grow at 0.6. One round is made: a second gains a fifth to a third at 1.7 to 2.2, nothing at 1.2, and spoils
# the result at 0.9.
_LEAST_DISTANCE = 0.8


@dataclass(frozen=True)
class Replicas:
    """What is to be subtracted from a tomogram.

    Attributes
    ----------
    values
        float32 [z, y, x], tomogram values.
    voxel_nm
        Edge of a voxel, nm; coarser than the tomogram's, about the same centre.
    """

    values: np.ndarray
    voxel_nm: float

    def cubes(
        self, volume: Any, voxel_nm: float, points_nm: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """What is to be subtracted around some points of a tomogram.

        Parameters
        ----------
        volume, voxel_nm
            The tomogram [z, y, x] and the edge of its voxels, nm.
        points_nm
            (D, 3) points x, y, z, nm.
        n
            Edge of the cubes, voxels of the replicas.

        Returns
        -------
        cubes
            (D, n, n, n) float32.
        away_nm
            (D, 3) by how much their middles lie beyond those of the tomogram's own cubes
            (:func:`cutting.cut_cubes`), x, y, z, nm.
        factor
            What their sums count for beside sums over the tomogram's voxels, which are smaller.
        """
        grids = (self.values.shape, self.voxel_nm), (volume.shape, voxel_nm)
        away = np.array([np.subtract(*(cube_middle_nm(*grid, point) for grid in grids)) for point in points_nm])
        return cut_cubes(self.values, self.voxel_nm, points_nm, n), away, (self.voxel_nm / voxel_nm) ** 3


def replica_distance_nm(angles_deg: np.ndarray, g_per_nm: float) -> float:
    """How far from a dot its fringes come back, nm: 1 / (g times the median step of the tilts).

    Parameters
    ----------
    angles_deg
        (T,) tilt angles, degrees, in any order.
    g_per_nm
        Spatial frequency of the fringes, 1/nm.

    Examples
    --------
    >>> round(replica_distance_nm(np.arange(-90, 90), 4.62), 1)
    12.4
    """
    steps = np.diff(np.sort(np.mod(np.asarray(angles_deg, float), 180.0)))
    return float(1 / (g_per_nm * np.deg2rad(np.median(steps[steps > 1e-3]))))


def can_be_removed(attributes: dict[str, Any], superlattice: np.ndarray, *, lattice_nm: float) -> tuple[bool, str]:
    """Can replicas be predicted for this tomogram, and told from what they fall on?

    Parameters
    ----------
    attributes
        Of the tomogram (:attr:`Tomogram.attributes`): the method and the angles of the series.
    superlattice
        (3, 3) vectors A, B, C as columns, nm.
    lattice_nm
        Cubic lattice parameter, nm.

    Returns
    -------
    (answer, reason); the reason is empty where the answer is yes.
    """
    angles = attributes.get("series", {}).get("angles_deg")
    if attributes.get("method") != "fbp" or angles is None or len(angles) < 3:
        return False, "the tomogram does not say that it is a filtered back-projection of tilts at known angles"
    distance = replica_distance_nm(angles, float(np.sqrt(8) / lattice_nm))
    least = _LEAST_DISTANCE * float(np.linalg.norm(superlattice, axis=0).min())
    if distance < least:
        return False, f"replicas stand {distance:.1f} nm away, nearer than the next dots; {least:.1f} nm are needed"
    return True, ""


def project_lattices(
    model: LatticeModel,
    angles_deg: np.ndarray,
    *,
    device: str = "cpu",
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> LatticeModel:
    """Project the lattices of a model, once for the tomogram of all tilts and for those of half of them.

    Parameters
    ----------
    model
        From :func:`lattice_model.model_lattices`.
    angles_deg
        (T,) angles of all tilts, degrees.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``: where they are drawn and projected.
    workers, dask, progress
        See :func:`distribute.map_items`.

    Returns
    -------
    The model with angles and images: 0.3 GB for 180 tilts of a tomogram of 800 x 992 x 992 voxels of 0.07 nm.
    """
    angles = np.asarray(angles_deg, float)
    where = resolve_device(device)

    def seen(first: int, last: int) -> np.ndarray:
        return to_numpy(_projector(angles, model, where).forward(draw_lattices(model, first, last, device=where)))

    images = np.zeros((len(angles), model.shape[0], model.shape[2]), np.float32)
    for part, slab in _slabs(seen, model, where, workers=workers, dask=dask, progress=progress):
        images[:, part] = slab
    return replace(model, angles_deg=angles, images=images)


def find_replicas(
    model: LatticeModel,
    angles_deg: Sequence[np.ndarray],
    *,
    device: str = "cpu",
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> list[Replicas]:
    """Reconstruct the lattices of a model from their projections, and take off what was put in.

    Parameters
    ----------
    model
        From :func:`project_lattices`.
    angles_deg
        For each tomogram, (T,) angles of the tilts that it was reconstructed from, degrees: some or all of the model's.
        A half set is aligned on its own, so its angles are somewhat others; those of all tilts together are nearer to
        what the images were taken at, and the nearest of them gives each its image.
    device, workers, dask, progress
        As there.

    Returns
    -------
    The replicas in each tomogram, in memory: 1 GB for one of 800 x 992 x 992 voxels of 0.07 nm.

    Raises
    ------
    ValueError
        The model was not projected, or not at one of the angles.
    """
    if model.angles_deg is None or model.images is None:
        raise ValueError("the model has no images: project_lattices makes them")
    sets = [(np.asarray(angles, float), _nearest(model.angles_deg, angles)) for angles in angles_deg]
    images, where = model.images, resolve_device(device)

    def beyond_drawn(first: int, last: int) -> list[np.ndarray]:
        drawn, found = draw_lattices(model, first, last, device=where), []
        for angles, nearest in sets:
            again = _projector(angles, model, where).fbp(to_device(images[nearest, first:last], where))
            again -= drawn
            found.append(to_numpy(again))
        return found

    values = [np.zeros((model.shape[0], model.shape[2], model.shape[2]), np.float32) for _ in sets]
    for part, slabs in _slabs(beyond_drawn, model, where, workers=workers, dask=dask, progress=progress):
        for whole, slab in zip(values, slabs, strict=True):
            whole[part] = slab
    return [Replicas(whole, model.voxel_nm) for whole in values]


def _nearest(projected_deg: np.ndarray, angles_deg: np.ndarray) -> np.ndarray:
    """(T,) which of the projected tilts stands for each of the angles."""
    away = np.abs(projected_deg - np.asarray(angles_deg, float)[:, None])
    far = np.flatnonzero(away.min(axis=1) > np.median(np.diff(np.sort(projected_deg))) / 2)
    if len(far):
        raise ValueError(f"the model was not projected near {angles_deg[far[0]]:.2f} degrees")
    return away.argmin(axis=1)


def fringes_of_one(model: LatticeModel, dot: int, angles_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How strong one dot's fringes are through its middle slice, as drawn and as the tilts give them back.

    Parameters
    ----------
    model
        From :func:`lattice_model.model_lattices`.
    dot
        Which of its dots.
    angles_deg
        (T,) angles of the tilts, degrees.

    Returns
    -------
    drawn, again
        (Y, X) local root mean square of either, over the largest drawn.
    """
    one = replace(
        model,
        middles_nm=model.middles_nm[[dot]],
        waves_per_nm=model.waves_per_nm[[dot]],
        amplitudes=model.amplitudes[[dot]],
    )
    middle = int(one.nearest[0, 0])
    drawn, projector = draw_lattices(one, middle, middle + 1), _projector(angles_deg, one, "cpu")
    blur = _ENVELOPE_NM / model.voxel_nm
    both = drawn[0], projector.fbp(projector.forward(drawn))[0]
    strength = [np.sqrt(ndimage.gaussian_filter(slices**2, blur)) for slices in both]
    return strength[0] / strength[0].max(), strength[1] / strength[0].max()


def _projector(angles_deg: np.ndarray, model: LatticeModel, device: str) -> Projector:
    """It belongs to one thread; made anew for a slab it costs a hundredth of its work."""
    return Projector(angles_deg, model.shape[2], device=device, threads=1)


def _slabs(
    make: Callable[[int, int], Any],
    model: LatticeModel,
    device: str,
    *,
    workers: int | None,
    dask: str | None,
    progress: str | None,
) -> Iterator[tuple[slice, Any]]:
    """What is made of each slab of slices with dots, from its first to its last (excluded), and which these are."""
    rows = _ROWS[device]
    reach = len(model.body) // 2 + 1
    z = model.nearest[:, 0]
    low, high = max(int(z.min()) - reach, 0), min(int(z.max()) + reach, model.shape[0])
    parts = [slice(first, min(first + rows, high)) for first in range(low, high, rows)]
    if workers is None and device == "cuda":
        workers = 1  # one slab keeps a GPU busy
    options: dict[str, Any] = {"workers": workers, "dask": dask, "progress": progress}
    return zip(parts, each_item(lambda part: make(part.start, part.stop), parts, **options), strict=True)
