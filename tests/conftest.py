"""Triton reads this when it is imported, and torch imports it: without a GPU its kernels run in its
interpreter."""

from __future__ import annotations

import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"
