"""Converted models in vLLM: the plug-in that vLLM finds by the entry point `vllm.general_plugins`.

The checkpoint alone decides what happens: nothing for a plain model, for a converted one

| file | what |
|---|---|
| `plugin.py` | what vLLM calls in each of its processes |
| `selection.py` | which model class serves a checkpoint |
| `quantization.py` | a "quantisation" to vLLM, which quantises nothing and gives layers their curves |
| `linear.py`, `experts.py` | layers with curves |
| `general.py` | any architecture: vLLM's Transformers modelling backend |
| `own_classes.py` | faster: vLLM's own classes, where their modules have transformers' names |
"""
