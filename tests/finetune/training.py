"""A module and its pruner, steps of training, and the masks after them."""

import torch

from mlpass.finetune import MagnitudePruner, to_module
from tests.finetune.networks import FIXTURES, images

DIGITS = FIXTURES / "digits_ios15.mlpackage"


def start(config, schedule=None, path=DIGITS, **options):
    module = to_module(path)
    pruner = MagnitudePruner(module, config, schedule, **options)
    pruner.prepare()
    return module, pruner


def train(module, pruner, steps, first=0, optimizer=None, rate=1e-3):
    optimizer = optimizer or torch.optim.SGD(module.parameters(), rate, momentum=0.9)
    pixels, labels = images(64)
    for step in range(first, first + steps):
        batch = slice(8 * step, 8 * step + 8)
        logits = module(image=pixels[batch])["logits"]
        loss = torch.nn.functional.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()
    return optimizer


def masks_of(module):
    names = [name for name, _ in module.named_parameters()]
    masks = {name: module.mask_of(name) for name in names}
    return {name: mask.numpy().copy() for name, mask in masks.items() if mask is not None}
