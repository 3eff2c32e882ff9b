"""How many of a model's numbers are trained, in the line that PEFT prints."""

from torch import nn

from kansformer.conversion.plan import check_model


def print_trainable_parameters(model: nn.Module) -> None:
    """Print how many parameters of a model need a gradient, how many there are, and the share in percent.

    Args:
        model: any model; a parameter that several modules share counts once.

    Raises:
        ConfigError: it is not a model.

    Examples:
        >>> from kansformer import LearnedActivation
        >>> from kansformer.hub import print_trainable_parameters
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8).requires_grad_(False), LearnedActivation(8))
        >>> print_trainable_parameters(model)
        trainable params: 64 || all params: 104 || trainable%: 61.5385
    """
    check_model(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = 100 * trainable / max(1, total)
    print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}")
