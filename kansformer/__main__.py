"""`python -m kansformer` is the program `kansformer`."""

from kansformer.cli import main

main()
