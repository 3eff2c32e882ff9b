"""All that kansformer raises on purpose. Each class also inherits a built-in, so `except ValueError` keeps working."""


class KansformerError(Exception):
    """Base class of all errors raised by kansformer."""


class ConfigError(KansformerError, ValueError):
    """A setting has a value that no layer, basis or slot can take."""


class ShapeError(KansformerError, ValueError):
    """A tensor does not have the shape that a layer or function expects."""


class BackendError(KansformerError, RuntimeError):
    """The backend that was asked for cannot run here, or not on these tensors."""


class NoSiteError(KansformerError, ValueError):
    """The model has no feed-forward network that kansformer can convert."""


class SlotError(KansformerError, ValueError):
    """A slot was asked for that a site does not have, or that cannot take these curves."""


class ProofError(KansformerError, RuntimeError):
    """A site with straight curves did not reproduce the original bit for bit."""


class ConversionStateError(KansformerError, ValueError):
    """The model is already converted, or was never converted."""


class CheckpointError(KansformerError, ValueError):
    """A checkpoint's curve weights or its kansformer settings are missing, unexpected, misshapen or too new."""


class HubError(KansformerError, ConnectionError):
    """The Hub refused a request, or the connection to it broke."""


class InterruptedRunError(KansformerError, RuntimeError):
    """A run was asked to end by SIGTERM, has saved a checkpoint, and can be resumed."""


class DataError(KansformerError, ValueError):
    """A text, dataset or batch cannot be used."""
