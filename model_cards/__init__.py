"""The template of model cards, installed as `kansformer.cards`, and the cards of models that the project ships."""
