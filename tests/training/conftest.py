from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

# tiny_training.py is imported by the tests and run as a script by some of them.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
