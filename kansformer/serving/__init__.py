"""Converted models in inference servers. Nothing here is imported by `import kansformer`; servers find their plug-ins
through entry points."""
