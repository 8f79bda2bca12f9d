"""Kernels for the notebooks of a run, each ready when its notebook comes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from mesotomo_utils.workflow.kernel_nursery import IMPORTED

KERNEL = "python3"


class Kernels:
    """Kernels for one notebook after another, each started while the notebook before it runs.

    On Linux they are forked from a process that has the libraries imported (:mod:`.kernel_nursery`), and spoken to
    through sockets in a folder of their own: a port that jupyter_client has chosen may be another's before the kernel
    takes it. Elsewhere, where the system's libraries may not outlive a fork, each imports them while it waits.

    Parameters
    ----------
    cwd
        Working directory of the kernels.

    Examples
    --------
    ::

        with Kernels(root) as kernels:
            execute(first, "first.ipynb", {}, kernels=kernels)
            execute(second, "second.ipynb", {}, kernels=kernels, last=True)
    """

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self._waiting: Any = None
        self._nursery: _Nursery | None = None
        self._sockets: tempfile.TemporaryDirectory | None = None
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._waiting is not None:
            asyncio.run(self._waiting.shutdown_kernel(now=True))
        if self._nursery is not None:
            self._nursery.close()
        if self._sockets is not None:
            self._sockets.cleanup()

    def take(self, *, last: bool) -> Any:
        """A kernel for a notebook; unless it is the last one, another is started for the next."""
        kernel = self._waiting or self._start()
        self._waiting = None if last else self._start()
        return kernel

    def _start(self) -> Any:
        from jupyter_client.manager import AsyncKernelManager

        # a notebook draws inline, whatever backend the shell has chosen
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        # the kernel of this environment, not one of the same name in the home folder
        os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
        self._started += 1
        kernel = AsyncKernelManager(kernel_name=KERNEL)
        arguments = [
            "--IPKernelApp.log_level=40",
            "--HistoryManager.hist_file=:memory:",
            # figures are laid out to their edges: cropping them would draw each once more
            "--InlineBackend.print_figure_kwargs={'bbox_inches': None}",
        ]
        if sys.platform == "linux":
            if self._nursery is None or self._sockets is None:
                self._nursery, self._sockets = _Nursery(self.cwd), tempfile.TemporaryDirectory(prefix="kernels_")
            kernel.transport, kernel.connection_file = "ipc", f"{self._sockets.name}/{self._started}.json"
            kernel.provisioner = self._nursery.provisioner(kernel)
        else:
            arguments.append(f"--IPKernelApp.exec_lines={[f'__import__({name!r});' for name in IMPORTED]}")
        asyncio.run(kernel.start_kernel(extra_arguments=arguments, cwd=str(self.cwd)))
        return kernel


class _Nursery:
    """The process that kernels are forked from; it ends with this one."""

    def __init__(self, cwd: Path) -> None:
        self._answers, theirs = os.pipe()
        command = [sys.executable, "-m", "mesotomo_utils.workflow.kernel_nursery", str(theirs)]
        options = {"cwd": cwd, "stdin": subprocess.PIPE, "pass_fds": (theirs,), "start_new_session": True}
        self._process = subprocess.Popen(command, **options)
        os.close(theirs)

    def fork(self, argv: list[str], cwd: str, env: dict[str, str]) -> _Forked:
        """A new kernel."""
        order = json.dumps({"argv": argv, "cwd": cwd, "env": env}) + "\n"
        self._process.stdin.write(order.encode())
        self._process.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n"):
            read = os.read(self._answers, 64)
            if not read:
                raise RuntimeError(f"the process that forks kernels ended with {self._process.wait()}; see above")
            answer += read
        return _Forked(int(answer))

    def provisioner(self, kernel: Any) -> Any:
        """What jupyter_client asks for the process of a kernel."""
        from jupyter_client.provisioning import LocalProvisioner

        nursery = self

        class Provisioner(LocalProvisioner):
            async def launch_kernel(self, cmd: list[str], *, cwd: str, env: dict[str, str], **_: Any) -> Any:
                argv = cmd[cmd.index("ipykernel_launcher") + 1 :]
                self.process = nursery.fork(argv, cwd, env)
                self.pid = self.pgid = self.process.pid
                return self.connection_info

        return Provisioner(kernel_id="", kernel_spec=kernel.kernel_spec, parent=kernel)

    def close(self) -> None:
        """End the process; kernels that are left follow."""
        self._process.stdin.close()
        self._process.wait()
        os.close(self._answers)


class _Forked:
    """As much of :class:`subprocess.Popen` as jupyter_client uses, for a process that is no child."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 1
        return None

    def wait(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)
