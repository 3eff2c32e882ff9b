"""The modelling file of a checkpoint: `trust_remote_code=True` finds it, and it imports kansformer."""

from pathlib import Path

from torch import nn

from kansformer.conversion.record import get_setting

MODULE_NAME = "modeling_kansformer"

HEADER = '''"""Opens this checkpoint, whose feed-forward networks have KAN curves, with trust_remote_code=True.

Needs `pip install kansformer`. Each class stands for transformers' own of the same name and loads that.
"""

import kansformer  # noqa: F401 (registers the loader)
import transformers
'''

CLASS = """

class {name}(transformers.{name}):
    from_pretrained = transformers.{name}.from_pretrained
"""


def auto_map_of(model: nn.Module) -> dict[str, str]:
    """The `auto_map` entries of a converted model's config.

    Returns:
        Name of each Auto class that knows the config's type, to the class in the modelling file. Empty for a model
        whose class is not transformers' own: that one brings its code itself.
    """
    if not type(model).__module__.startswith("transformers."):
        return {}
    import transformers
    from transformers.models.auto import modeling_auto

    entries = {}
    for name, auto_class in vars(modeling_auto).items():
        mapping = get_setting(auto_class, "_model_mapping")
        if not name.startswith("Auto") or mapping is None or type(model.config) not in mapping:
            continue
        target = mapping[type(model.config)]
        if isinstance(target, tuple):  # several heads for one config, e.g. BERT's two pre-training classes
            target = type(model) if type(model) in target else target[0]
        if get_setting(transformers, target.__name__) is target:
            entries[name] = f"{MODULE_NAME}.{target.__name__}"
    return entries


def write_modeling_file(model: nn.Module, directory: str | Path) -> None:
    """Write the file that the config's `auto_map` names; nothing where it names none."""
    targets = (get_setting(model.config, "auto_map") or {}).values()
    names = sorted({target.removeprefix(f"{MODULE_NAME}.") for target in targets if is_ours(target)})
    if names:
        text = HEADER + "".join(CLASS.format(name=name) for name in names)
        Path(directory, f"{MODULE_NAME}.py").write_text(text, encoding="utf-8")


def is_ours(target: object) -> bool:
    """Whether an `auto_map` entry points to this package's modelling file, in the same or in another repository."""
    return isinstance(target, str) and target.split("--")[-1].startswith(f"{MODULE_NAME}.")
