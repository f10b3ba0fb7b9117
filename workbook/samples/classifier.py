"""A small image classifier that holds, on purpose, everything that trips a simple loader."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class DigitClassifier(nn.Module):
    """Classifies 8 x 8 digits. Each part is there for a reason:

    - ``temperature``: a parameter at the root of the module
    - ``window``: a buffer that is not persistent, so it is in no state dict
    - ``edges``: a frozen part, as a pretrained backbone would be
    - ``norm``: BatchNorm, whose running statistics are buffers
    - ``block`` and ``again``: one submodule under two names
    - ``features``: weight_norm, whose weight is computed from two other parameters
    - ``prototypes`` and ``head``: two modules with one tied weight
    - ``dropout``: acts in train mode only

    Examples
    --------
    >>> DigitClassifier().eval()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        ramp = torch.linspace(0.5, 1, 4)
        side = torch.cat([ramp, ramp.flip(0)])
        self.register_buffer("window", side[:, None] * side, persistent=False)
        self.edges = nn.Conv2d(1, 16, 3, padding=1).requires_grad_(False)
        self.norm = nn.BatchNorm2d(16)
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.again = self.block
        self.features = weight_norm(nn.Linear(16 * 4 * 4, 32))
        self.dropout = nn.Dropout(0.2)
        self.prototypes = nn.Embedding(10, 32)
        self.head = nn.Linear(32, 10, bias=False)
        self.head.weight = self.prototypes.weight

    def forward(self, images):
        """Scores of the ten digits for images of shape (batch, 1, 8, 8)."""
        x = self.again(self.block(self.norm(self.edges(images * self.window))))
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(self.dropout(torch.tanh(self.features(x)))) * self.temperature


def digits():
    """scikit-learn's digits as tensors: images from 0 to 1, labels, split in a fixed way.

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
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    first, rest = order[:1437], order[1437:]
    return (images[first], labels[first]), (images[rest], labels[rest])


def train_classifier(epochs=8, seed=0):
    """Train a `DigitClassifier`: some seconds on 2 CPU cores.

    Returns
    -------
    DigitClassifier
        In eval mode.

    Examples
    --------
    >>> accuracy(train_classifier(epochs=1)) > 0.2
    True
    """
    torch.manual_seed(seed)
    model = DigitClassifier().train()
    (images, labels), _ = digits()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


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
    >>> 0 <= accuracy(DigitClassifier().eval()) <= 1
    True
    """
    _, (images, labels) = digits()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()
