"""Converted models in SGLang: the plug-in that SGLang finds by the entry point `sglang.srt.plugins`.

Not run: written after SGLang 0.5.23's sources, and tested against stand-ins of what it uses of them. No server has
generated with it yet. The checkpoint alone decides what happens: nothing for a plain model, for a converted one

| file | what |
|---|---|
| `plugin.py` | what SGLang calls in each of its processes |
| `quantization.py` | a "quantisation" to SGLang, which quantises nothing and gives layers their curves |
| `linear.py` | layers with curves |
| `general.py` | any architecture: SGLang's Transformers modelling backend |

Refused: curves inside mixtures of experts, LoRA adapters beside curves, and SGLang's own model classes. vLLM serves
these.
"""
