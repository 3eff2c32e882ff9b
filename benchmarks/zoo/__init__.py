"""Every model type of the installed transformers, small, with random weights and inputs of its own modality.

`build.small_model(model_type)` gives a model that ran once together with the inputs it ran on; the survey of
architectures and any test that wants "one of each" start from there. Widths are chosen so that a mix-up shows:
hidden size d = 64, FFN width m = 160 (104 in experts), 7 tokens, batch 2.
"""
