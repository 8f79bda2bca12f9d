"""Map a function over slabs or quantum dots: threads on this machine, or a Dask cluster."""

from __future__ import annotations

import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from mesotomo_utils.backend import cpu_count, free_memory, resolve_device

_AHEAD = 3
"""Items handed to a cluster for each of its threads: one at work, the others on their way."""
_DOTS_TOGETHER = {"cpu": 8, "cuda": 32}
"""Dots at once: enough that Python's own time counts little; few enough that their transforms, 4 MB each, stay near."""
_THREADS_TO_A_GPU, _BYTES_A_THREAD = 4, 1.2e9
"""While one waits for the GPU others cut out their dots; as far as its memory allows."""
_CONNECT_S, _WORKERS_S = 10, 60
"""How long a scheduler may take to answer, and its first worker to come, seconds."""


def chunk_depth(array: Any, axis: int = 0) -> int:
    """How many slices along an axis share the chunks of a Zarr array: read apart, each would read them anew; else 1."""
    return array.chunks[axis] if hasattr(array, "chunks") else 1


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
        Pure function of one item. For Dask it must be picklable; it travels once to each worker.
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
        ``dask`` is given and ``distributed`` is not installed, or no scheduler or no worker answers.
    Exception
        Whatever the function raised, for the first item that failed; the items after it are given up.
    """
    return list(each_item(function, items, workers=workers, dask=dask, progress=progress))


def map_dots(
    function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    count: int,
    *,
    device: str,
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> tuple[np.ndarray, ...]:
    """Apply a function to quantum dots, several at a time.

    Parameters
    ----------
    function
        Takes the rows (D,) of some dots, in order, and returns arrays of D rows.
    count
        How many dots there are.
    device
        Where the function works; it decides how many dots are taken together.
    workers, dask, progress
        As for :func:`map_items`.

    Returns
    -------
    The arrays of all dots.
    """
    where = resolve_device(device)
    together = _DOTS_TOGETHER[where]
    if where == "cuda" and workers is None:
        workers = max(1, min(_THREADS_TO_A_GPU, cpu_count(), int(free_memory() // _BYTES_A_THREAD)))
    batches = np.split(np.arange(count), range(together, count, together))
    text = None if progress is None else f"{progress}, {together} dots each"
    parts = map_items(function, batches, workers=workers, dask=dask, progress=text)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def each_item(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> Iterator[Any]:
    """As :func:`map_items`, but yield each result when its turn comes: they need not fit in memory together.

    A cluster is handed a few items per thread at a time, so that large ones do not pile up there either.
    """
    items = list(items)
    bar = {"total": len(items), "desc": progress, "disable": progress is None, "file": sys.stdout}
    if not sys.stdout.isatty():
        bar["mininterval"] = 15  # seconds: in a log a line now and then, no running bar
    workers = cpu_count() if workers is None else workers
    if dask is not None:
        with connect(dask) as client, _on_every_worker(client, function) as name:
            ahead = _AHEAD * sum(client.nthreads().values())
            results = _in_order(lambda item: client.submit(_apply, name, item, pure=False), items, ahead)
            yield from tqdm(results, **bar)
    else:
        with _one_blas_thread_each():
            if workers <= 1 or len(items) <= 1:
                yield from tqdm(map(function, items), **bar)
                return
            with ThreadPoolExecutor(max_workers=workers) as pool:
                yield from tqdm(_in_order(lambda item: pool.submit(function, item), items, len(items)), **bar)


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """A client of a Dask cluster that has a worker or more.

    Parameters
    ----------
    address
        Of the scheduler, such as ``tcp://host:8786``.

    Yields
    ------
    distributed.Client
        Closed at the end; what it still had to do is given up.

    Raises
    ------
    RuntimeError
        ``distributed`` is not installed; no scheduler answers there; it has no worker.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise RuntimeError(f"dask={address!r} needs the package distributed; `pip install 'mesotomo[dask]'`") from error
    try:
        client = Client(address, set_as_default=False, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"no Dask scheduler answers at {address!r} ({' '.join(str(error).split())}); start `dask scheduler`, "
            "give the address it prints, and start `dask worker ADDRESS` on each machine"
        ) from error
    # the images of a slab are meant to travel with their task: lost with a worker, they are sent again
    with client, dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError as error:
            raise RuntimeError(
                f"the Dask scheduler at {address!r} has no worker; start `dask worker {address}` on each machine"
            ) from error
        yield client


@cache
def _libraries(with_scipy: bool) -> ThreadpoolController:
    """The BLAS of NumPy, and SciPy's own once that is loaded; looking for them takes milliseconds."""
    return ThreadpoolController()


_blas_lock = threading.Lock()
_blas_users = 0
_blas_limit: Any = None


@contextmanager
def _one_blas_thread_each() -> Iterator[None]:
    """Keep BLAS from dividing each small product among all cores, where each core has an item of its own.

    A single thread is held to it as well: how BLAS divides a product shows in the last digit of the result, which
    should not depend on the number of workers. The limit is the process's: the first who needs it sets it, the last one
    lifts it.
    """
    global _blas_users, _blas_limit
    with _blas_lock:
        _blas_users += 1
        if _blas_users == 1:
            _blas_limit = _libraries("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.restore_original_limits()


def _in_order(submit: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Results in the order of the items, with at most ``ahead`` items under way; the rest is cancelled at the end."""
    waiting: deque[Any] = deque()
    try:
        for item in items:
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(submit(item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def _on_every_worker(client: Any, function: Callable[[Any], Any]) -> Iterator[str]:
    """Have each worker hold a function, those too that come later; yields the name it has there.

    As a task's result it would lie on one worker, and the others would fetch it from there: should that one die at that
    moment, they may wait for it for ever.
    """
    from distributed import WorkerPlugin

    class Held(WorkerPlugin):
        def __init__(self) -> None:
            self.function = function

    name = f"mesotomo-{uuid.uuid4()}"
    client.register_plugin(Held(), name=name)
    try:
        yield name
    finally:
        client.unregister_worker_plugin(name)


def _apply(name: str, item: Any) -> Any:
    """On a worker: the function that it holds under a name."""
    from distributed import get_worker

    return get_worker().plugins[name].function(item)
