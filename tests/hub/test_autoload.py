"""The loader stands in transformers' tables, once, however often it is registered."""

from functools import partial

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING, AutoHfQuantizer

from kansformer.hub import register_loader
from kansformer.hub.quantizer import CurveLoader, RecordReader


def test_registering_again_replaces():
    for _ in range(3):
        register_loader()
    assert AUTO_QUANTIZER_MAPPING["kansformer"] is CurveLoader
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["kansformer"] is RecordReader
    assert not isinstance(AutoHfQuantizer.merge_quantization_configs.args[0], partial)
