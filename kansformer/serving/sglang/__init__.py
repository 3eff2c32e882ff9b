"""Converted models in SGLang: the plug-in that SGLang finds by the entry point `sglang.srt.plugins`.

Never run on a GPU. SGLang 0.5.23's engine was run on a CPU, on one rank, with an empty module in place of its kernels
(`benchmarks/served/sglang_engine.py`); the tests use stand-ins of SGLang. The checkpoint alone decides what happens:
nothing for a plain model, for a converted one

| file | what |
|---|---|
| `plugin.py` | what SGLang calls in each of its processes |
| `quantization.py` | a "quantisation" to SGLang, which quantises nothing and gives layers their curves |
| `linear.py` | layers with curves |
| `general.py` | any architecture: SGLang's Transformers modelling backend |

Refused: curves inside mixtures of experts, LoRA adapters beside curves, and SGLang's own model classes. vLLM serves
these.
"""
