"""All that kansformer raises on purpose. Each class also inherits a built-in, so `except ValueError` keeps working."""


class KansformerError(Exception):
    """Base class of all errors raised by kansformer.

    Examples:
        >>> from kansformer import KANConfig
        >>> from kansformer.errors import KansformerError
        >>> try:
        ...     KANConfig(order=-1)
        ... except KansformerError as error:
        ...     print(error)
        order of the basis 'bspline' must be a whole number from 1 to 5, got -1.
    """


class ConfigError(KansformerError, ValueError):
    """A setting has a value that no layer, basis or slot can take.

    Examples:
        >>> from kansformer import KANConfig
        >>> KANConfig(basis="splines")
        Traceback (most recent call last):
        kansformer.errors.ConfigError: Unknown basis 'splines'. Choose one of: bspline, ...
    """


class ShapeError(KansformerError, ValueError):
    """A tensor does not have the shape that a layer or function expects.

    Examples:
        >>> from kansformer import LearnedActivation
        >>> LearnedActivation(4)(torch.ones(2, 5))
        Traceback (most recent call last):
        kansformer.errors.ShapeError: LearnedActivation has curves for 4 channels, got input (2, 5).
    """


class BackendError(KansformerError, RuntimeError):
    """The backend that was asked for cannot run here, or not on these tensors.

    Examples:
        >>> from kansformer import set_backend
        >>> set_backend("cuda")
        Traceback (most recent call last):
        kansformer.errors.BackendError: Unknown backend 'cuda'. Choose one of: auto, native, cpu, triton, reference.
    """


class NoSiteError(KansformerError, ValueError):
    """The model has no feed-forward network that kansformer can convert.

    Examples:
        >>> from kansformer import convert
        >>> convert(torch.nn.Linear(4, 3))
        Traceback (most recent call last):
        kansformer.errors.NoSiteError: Linear has no feed-forward network that kansformer recognises: ...
    """


class SlotError(KansformerError, ValueError):
    """A slot was asked for that a site does not have, or that cannot take these curves.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import KANConfig, convert
        >>> convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4)), KANConfig(slots=("gate",)))
        Traceback (most recent call last):
        kansformer.errors.SlotError: The model has no slot 'gate': a feed-forward network of the kind 'plain' ...
    """


class ProofError(KansformerError, RuntimeError):
    """A site with straight curves did not reproduce the original bit for bit."""


class ConversionStateError(KansformerError, ValueError):
    """The model is already converted, or was never converted.

    Examples:
        >>> from kansformer import revert
        >>> revert(torch.nn.Linear(4, 3))
        Traceback (most recent call last):
        kansformer.errors.ConversionStateError: The model is not converted, so there is nothing to revert.
    """


class CheckpointError(KansformerError, ValueError):
    """A checkpoint's curve weights or its kansformer settings are missing, unexpected, misshapen or too new.

    Examples:
        >>> from kansformer import KANConfig
        >>> KANConfig.from_pretrained(".")
        Traceback (most recent call last):
        kansformer.errors.CheckpointError: '.' holds no settings of kansformer: there is none of kan_config.json, ...
    """


class HubError(KansformerError, ConnectionError):
    """The Hub refused a request, or the connection to it broke."""


class InterruptedRunError(KansformerError, RuntimeError):
    """A run was asked to end by SIGTERM, has saved a checkpoint, and can be resumed."""


class DataError(KansformerError, ValueError):
    """A text, dataset or batch cannot be used.

    Examples:
        >>> from kansformer.kan import create_dataset
        >>> create_dataset(torch.log, num_inputs=1)
        Traceback (most recent call last):
        kansformer.errors.DataError: The train targets are not finite in row ...
    """
