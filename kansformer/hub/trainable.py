"""How many of a model's numbers are trained, in the line that PEFT prints."""

from torch import nn

from kansformer.conversion.plan import check_model


def print_trainable_parameters(model: nn.Module) -> None:
    """Print how many parameters of a model need a gradient, how many there are, and the share in percent.

    Args:
        model: any model; a parameter that several modules share counts once.

    Raises:
        ConfigError: it is not a model.
    """
    check_model(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = 100 * trainable / max(1, total)
    print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}")
