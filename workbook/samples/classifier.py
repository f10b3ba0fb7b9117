"""Handwritten digits, a loop that trains a classifier of them, and its score. Notebook 04 brings the classifier."""

import torch
from torch import nn


def digits():
    """scikit-learn's digits as tensors: grey values from 0 to 16 and labels, split in a fixed way.

    Returns
    -------
    train, test : tuple of torch.Tensor
        Images (n, 1, 8, 8) and labels (n,); 1,437 and 360 of them.

    Examples
    --------
    >>> train, test = digits()
    >>> len(train[0]), len(test[0])
    (1437, 360)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    first, rest = order[:1437], order[1437:]
    return (images[first], labels[first]), (images[rest], labels[rest])


def train_classifier(model, epochs=8, seed=0):
    """Train a classifier of the digits in place: some seconds on 2 CPU cores.

    Parameters
    ----------
    model : torch.nn.Module
        Gives scores of the ten digits for images of shape (n, 1, 8, 8). Frozen parameters stay as they are.
        It is in eval mode afterwards.
    epochs : int
        How often each image is seen.
    seed : int
        Of the order of the images, and of dropout.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> train_classifier(model, epochs=1)
    >>> model.training, accuracy(model) > 0.2
    (False, True)
    """
    torch.manual_seed(seed)
    model.train()
    (images, labels), _ = digits()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()


def accuracy(model):
    """Share of the test digits that a model names right.

    Parameters
    ----------
    model : torch.nn.Module
        Used in the mode it is in.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> 0 <= accuracy(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))) <= 1
    True
    """
    _, (images, labels) = digits()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()
