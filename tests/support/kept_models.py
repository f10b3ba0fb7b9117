"""The models of tests/helpers/saved_before: how they are built, and the facts by which they are compared."""

import hashlib
import json

import torch
from torch import nn

PASSPHRASE = "for the tests alone"


class Small(nn.Module):
    """Everything that a state dict does not say: a tie, a frozen parameter, a transient buffer, an attribute."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.rand(6), requires_grad=False)
        self.register_buffer("table", torch.rand(6), persistent=False)
        self.offsets = torch.rand(6)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))) * self.scale + self.table + self.offsets


def plain():
    """What a file alone can say: parameters and buffers, no ties, no attributes."""
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).eval()


def llama(dtype):
    """A tied language model with a generation configuration of its own."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM._from_config(config, dtype=dtype).eval()
    model.generation_config.max_new_tokens = 7
    return model


def unet():
    """The smallest UNet that draws."""
    import diffusers

    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).eval()


def ddpm():
    """A pipeline around that UNet."""
    import diffusers

    return diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(num_train_timesteps=10))


def estimator():
    """A fitted pipeline of two steps."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(*load_iris(return_X_y=True))


def facts(model):
    """What must be the same after a load, as JSON has it.

    Returns
    -------
    dict
        The class, the SHA-256 of every tensor's bytes, ties, frozen parameters, modes, the numbers that
        a fixed input gives, and how close they must come: another processor rounds otherwise.
    """
    found = {"class": f"{type(model).__module__}.{type(model).__qualname__}"}
    if hasattr(model, "steps"):
        arrays = [(f"{name}.{key}", value) for name, step in model.steps for key, value in vars(step).items()]
        found["tensors"] = {name: _sha256(array) for name, array in arrays if hasattr(array, "tobytes")}
    else:
        parts = getattr(model, "components", {"": model})
        modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        found["tensors"] = {
            f"{part}.{name}".lstrip("."): _sha256(
                tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
            )
            for part, module in modules.items()
            for name, tensor in _tensors(module)
        }
        found["tied"] = sorted(name for module in modules.values() for name in _tied(module))
        found["frozen"] = sorted(
            name for m in modules.values() for name, p in m.named_parameters() if not p.requires_grad
        )
        found["training"] = [module.training for module in modules.values()]
    if generation := getattr(model, "generation_config", None):
        found["max_new_tokens"] = generation.max_new_tokens
    found["output"] = _output(model)
    found["tolerance"] = 0.02 if getattr(model, "dtype", None) == torch.bfloat16 else 1e-4
    return json.loads(json.dumps(found))


def _sha256(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def _tensors(module):
    for prefix, part in module.named_modules():
        held = {**part._parameters, **part._buffers}
        held |= {name: value for name, value in vars(part).items() if isinstance(value, torch.Tensor)}
        for name, tensor in held.items():
            if tensor is not None:
                yield f"{prefix}.{name}".lstrip("."), tensor


def _tied(module):
    once = {name for name, _ in module.named_parameters()}
    return [name for name, _ in module.named_parameters(remove_duplicate=False) if name not in once]


@torch.inference_mode()
def _output(model):
    if isinstance(model, Small | nn.Sequential):
        return model(torch.arange(6.0)[None]).flatten().tolist()
    if hasattr(model, "steps"):
        return model.predict_proba([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]).flatten().tolist()
    if hasattr(model, "components"):
        drawn = model(generator=torch.Generator().manual_seed(0), num_inference_steps=2, output_type="np")
        return drawn.images.flatten().tolist()
    if hasattr(model, "generation_config"):
        return model(input_ids=torch.arange(8)[None]).logits[0, -1].tolist()
    sample = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    return model(sample, 3).sample.flatten().tolist()
