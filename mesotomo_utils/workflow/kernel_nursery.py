"""A process that has imported the libraries of the notebooks, and forks a kernel for each of them.

Imports take three seconds of every kernel, nine times a run. Here they are made once: a fork has
them at once, and nothing else of another notebook. :mod:`.kernels` runs this file as a program;
an order is a line of JSON on its standard input (``argv``, ``cwd``, ``env``), the answer is a line
with the number of the process on the file descriptor that is its argument.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from importlib import import_module

IMPORTED = (
    *("numpy", "pandas", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "seaborn", "pydantic", "yaml"),
    *("scipy.ndimage", "scipy.signal", "scipy.spatial.transform", "zarr", "ome_zarr_models.v05", "ipykernel.kernelapp"),
)
"""What nearly every notebook needs. None of them starts a thread that a fork would miss."""


def _draw_once() -> None:
    """Find the fonts and build the parser of formulae, which the first figure would have to."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    figure.subplots().set_xlabel("$q$ (nm$^{-1}$)")
    for kind in ("svg", "png"):
        figure.savefig(io.BytesIO(), format=kind)


def _await_order(answers: int) -> dict:
    """Fork for every order; returns, with the order, in the children only."""
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        os.write(answers, b"%d\n" % child)
    sys.exit()  # the run has ended


def _become_kernel(order: dict) -> None:
    from ipykernel.kernelapp import IPKernelApp

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # ^C is for the runner, which ends its kernels
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    IPKernelApp.launch_instance(order["argv"])


def main() -> None:
    """Import, then fork until standard input is closed."""
    answers = int(sys.argv[1])
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # a kernel ends with its nursery, the nursery with the runner
    for name in IMPORTED:
        import_module(name)
    _draw_once()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the kernels: the system takes them away
    order = _await_order(answers)
    os.close(answers)
    _become_kernel(order)


if __name__ == "__main__":
    main()
