"""Map a function over slabs or quantum dots: threads on this machine, or a Dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from mesotomo_utils.backend import cpu_count


def map_items(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> list[Any]:
    """Apply a function to every item and return the results in the order of the items.

    Parameters
    ----------
    function
        Pure function of one item. For Dask it must be picklable.
    items
        What to map over: slabs, tilts, dots.
    workers
        Threads; all cores this process may use by default. 1 runs in the calling thread.
    dask
        Address of a Dask scheduler (``tcp://host:8786``); None for threads. A worker that is lost
        costs its items' time: Dask runs them again elsewhere.
    progress
        Text of the progress bar; None shows none.

    Returns
    -------
    The results, item by item.

    Raises
    ------
    RuntimeError
        ``dask`` is given and ``distributed`` is not installed.
    Exception
        Whatever the function raised, for the first item that failed.
    """
    items = list(items)
    bar = {"total": len(items), "desc": progress, "disable": progress is None, "file": sys.stdout}
    if not sys.stdout.isatty():
        bar["mininterval"] = 15  # seconds: in a log a line now and then, no running bar
    if dask is not None:
        return _map_dask(function, items, dask, bar)
    workers = cpu_count() if workers is None else workers
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in tqdm(items, **bar)]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(tqdm(pool.map(function, items), **bar))


def _map_dask(
    function: Callable[[Any], Any], items: list[Any], address: str, bar: dict[str, Any]
) -> list[Any]:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise RuntimeError(
            f"dask={address!r} needs the package distributed; `pip install 'mesotomo[dask]'`"
        ) from error
    with Client(address, set_as_default=False) as client:
        futures = client.map(function, items, pure=False)
        for _ in tqdm(as_completed(futures), **bar):
            pass
        return client.gather(futures)
