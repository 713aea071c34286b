"""Torch runs on one thread, as tests share their cores."""

import torch

torch.set_num_threads(1)
