"""What all tests share: the same examples each time in CI, and Ctrl-C as a terminal's commands know it."""

from __future__ import annotations

import os
import shutil
import signal

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: the files that run at once share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if shutil.which("nvidia-smi") is None:  # as soon: without a GPU Triton's kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")

from hypothesis import settings

settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what runs in the background so, and every command that is tested would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
