"""The pictures of the README and the documentation, each for light and dark pages: `python -m scripts.pictures`."""
