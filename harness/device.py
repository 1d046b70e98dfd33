"""The device that networks run on: a GPU where one can be used."""

from __future__ import annotations

import os
import socket

import torch

from harness.errors import InputError

PROMISED_GPUS = "HARNESS_GPUS_PER_NODE"
"""Environment variable: how many GPUs a job's profile gives each node."""


def best_device() -> str:
    """`cuda` where a GPU can be used, else `cpu`.

    Raises:
        InputError: a job was given GPUs, and torch can use none: it would hold them for weeks and train on the CPU.
    """
    if torch.cuda.is_available():
        return "cuda"
    promised = os.environ.get(PROMISED_GPUS, "0")
    if promised != "0":
        raise InputError(
            f"the cluster profile's gpus_per_node is {promised}, but torch {torch.__version__} can use no GPU on "
            f"{socket.gethostname()}; install a CUDA build of torch, exclude that node, or set gpus_per_node to 0."
        )
    return "cpu"
