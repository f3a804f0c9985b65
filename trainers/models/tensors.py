"""Writing tensors to a file, with the disk's refusals as the errors that they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_BY_THE_SYSTEM = re.compile(r"\(os error (\d+)\)")


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk refuses. Safetensors raises an error of its own then, which nobody would take for that.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        if (told := _BY_THE_SYSTEM.search(str(error))) is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error
