"""The recipes that come with kansformer, installed as `kansformer.recipes`; `kansformer recipes` lists them."""
