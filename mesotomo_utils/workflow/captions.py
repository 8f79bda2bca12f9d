"""What each figure and film of a run shows, in one sentence for a reader of the paper."""

from __future__ import annotations

CAPTIONS = {
    # 00_sample
    "fig1_structure": "The digital twin as made, from above and from the side: its whole dots, coloured by layer, "
    "C1 (dark) at the bottom; it stands in for the microscopy of Fig. 1a–b, which cannot be re-created.",
    "true_alignment": "What the model microscope did to each image of the twin: its shift along and across the tilt "
    "axis and the error of its angle.",
    "fig1_projections": "Fig. 1c: projections at a few tilts as recorded, the tilt axis upright.",
    "brightness": "Sum of each image above the dark level against the tilt: a whole object has the same mass at "
    "every tilt.",
    "spectrum": "Fourier transform of one projection with the rings of the atomic lattice: spots lie on a ring "
    "where the beam ran along its planes.",
    "fig1_slices": "Two sections through the middle of the tomogram that was brought in.",
    "fig1_dots": "The dots of the table that was brought in, from above and from the side.",
    # 01_reconstruction
    "tilt_images": "After Fig. 1c: three images of the tilt series as the analysis reads them.",
    "alignment": "Result of the alignment, image by image: shifts, refined less nominal angles, and how far each "
    "image still lies from the reprojection of all.",
    "sinogram": "One row of the images against the tilt, as recorded and aligned: a point of the slice moves on a "
    "sinusoid.",
    "known_case": "A phantom of two discs and its filtered back-projection: a case whose answer is known.",
    "slices": "Three sections through the middle of the tomogram, across and along the tilt axis.",
    "fig_1d_tomogram": "Fig. 1d: the tomogram cut open in perspective; the upper face lies across the tilt axis.",
    "methods": "The same slice by the method of the tomogram and by SIRT.",
    "power_spectrum": "Radial power spectrum of the tomogram, taken in windows inside the needle.",
    "bragg_spots": "Bragg spots of the dot whose lattice is clearest, in reciprocal space, and their power over the "
    "noise (SI 1).",
    "fig_1e_lattice": "Fig. 1e: one dot along a cube axis of its lattice, its power spectrum, and the lattice lines "
    "of the whole tomogram beside simulated ones, each relative to its {200}; what the tilts repeat lifts {220} "
    "(notebook 01).",
    "distortion": "By how much lattice planes seem further apart than they are, by the direction of their normals "
    "in three planes: a distortion that all dots share.",
    "fourier_shell_correlation": "Fourier shell correlation of the tomograms from even and from odd tilts, with the "
    "usual thresholds (SI 1).",
    # 02_centres
    "template": "Sections through the mean dot, learnt from the tomogram itself; the line bounds its body without "
    "necks (SI 2).",
    "correlation_picks": "A section through the tomogram and its correlation with the template, with the centres "
    "found near it (SI 2).",
    "scores": "Correlation of all dots with the template, and how much of each the surface of the needle has cut off.",
    "centre_half_sets": "By how much the centres found in even and in odd tilts differ, along each axis, less one "
    "motion and one strain of all; lines: one standard deviation.",
    "lattice_sites": "The superlattice from above and from the side: dots by layer, vacancies (squares), "
    "interstitials (diamonds) and dots of no grain (crosses).",
    "neighbour_vectors": "Vectors from every dot to its +A, +B and +C neighbours, beside the vectors of the mean "
    "cell (table S2).",
    "necks": "Diameters of the necks and the share of neighbours that are joined, by direction.",
    "gaps": "Smallest sections of four gaps between neighbours, from none to the thickest neck; the dashed circle "
    "has the area that was found.",
    # 03_orientation
    "one_dot_spots": "Inset of Fig. 1e: two planes through the Fourier transform of one dot; circles are the "
    "reflections, each refined alone (SI 3).",
    "lattice_replicas": "A dot's lattice as drawn and as the tilts give it back, with its replicas along the beams, "
    "and how far dots turn when those of the others are taken off.",
    "orientation_half_sets": "Turn of every dot between the tomograms of even and of odd tilts, about each axis and "
    "against its lattice signal.",
    "orientation_trust": "Lattice signal of all dots beside that of an impossible lattice (the control) and the "
    "threshold, and the error of the orientations.",
    "sigma_maps": "Standard errors of positions and of orientations, each dot at its place, across the tilt axis "
    "and along it.",
    "atomic_axes": "Stereographic projection of the atomic axes of all dots, the film's normal in the centre, and "
    "each axis about its own mean (SI 3).",
    "lattice_parameters": "Lattice parameters a, b and c of every dot, all left free, beside the nominal one: their "
    "mean checks the pixel.",
    # 04_glyphs
    "table_s3": "After table S3: facing facets at the orientation of largest co-facial overlap, as one angle of the "
    "cell changes; colour is what two facets share.",
    "fig_s4_cofacial": "After SI 4: how the co-facial overlap falls as all dots turn away from R_mono, and how the "
    "optimum follows the angles of the cell.",
    "fig_2a": "Fig. 2a: the superlattice as cuboids with {100} faces, coloured by the angle to R_mono, and sticks "
    "as thick as the necks; beside it the odd layers pulled apart.",
    "fig_s4_layers": "After SI 4: every layer from above; cuboids coloured by the angle to R_mono, sticks by the "
    "diameter of the necks.",
    "fig_s4_sheets": "After SI 4: all (100) and (010) sheets of dots from the side, C1 at the bottom.",
    "fig_2b": "Fig. 2b: the bottom and the middle layer from above: sections of the tomogram, where there is one, "
    "alone and with the dots and necks over them.",
    "fig_2c": "Fig. 2c: two sheets of dots from the side, C1 at the bottom: sections of the tomogram, where there "
    "is one, alone and with the dots and necks over them.",
    # 05_mesoscale
    "fig_2d_planarity": "Fig. 2d: heights of the dots about the plane of their layer, and the width (FWHM) of each "
    "layer; rings: raw, diamonds: without the dots at the edge.",
    "fig_s12_plane_widths": "After Fig. S12: widths of the (100) and (010) planes of dots, layer by layer.",
    "fig_2e_necks": "Fig. 2e: share of neighbours that are joined and mean diameter of the necks, by layer and "
    "direction.",
    "fig_3_spread": "Fig. 3: directions of the atomic axes a and b (AL) and to the +A and +B neighbours (SL), in "
    "stereographic projection and as histograms about their means, in the film plane and out of it.",
    "fig_3_layers": "After Fig. 3: how each layer is rolled and turned against the mean of all dots, and the angle "
    "of its c axes to the film normal.",
    # 06_neighbours
    "fig_4_neighbours": "Fig. 4: how far neighbours are turned against each other, about which axis of the crystal, "
    "twist or bend, and misorientation and entropy of the layers.",
    # 07_kinetic_trapping
    "fig_s4_models": "After SI 4: correlation of the measured with the predicted orientations, and each dot's "
    "deviation from R_mono against two predictions: slope 0 is the mean cell, 1 its own neighbours.",
    "fig_5_trapping": "Fig. 5: misorientation of every dot from R_mono by layer, displacements from the perfect "
    "lattice, and their standard deviation in each layer.",
    # 08_report
    "errors": "Errors of centres and orientations against the truth of the twin, whole dots up to the 99th percentile.",
    "paper_and_truth": "Every value with its 95 % interval, divided by that of the paper; arrows: the interval runs "
    "on.",
    # films
    "tilt_series": "The tilt series as recorded and aligned, as in the films of the paper's SI; an image that was "
    "left out stays black.",
    "tomogram": "The tomogram slice by slice along the tilt axis, as in the films of the paper's SI.",
}


def caption(name: str) -> str:
    """The sentence for a figure or film, by its name without suffix; of one that no notebook writes, the name."""
    return CAPTIONS.get(name, name)
