"""What clients of the Hub on loopback run; each is a process, since huggingface_hub reads its address on import."""

# Several commands in one process. Between the tries of a broken upload the client waits up to 8 s; here it need not.
PROGRAM = """
import sys, time
from kansformer.cli import app
time.sleep = lambda seconds: None
for command in sys.argv[1:]:
    try:
        app(command.split(), prog_name="kansformer")
    except SystemExit as end:
        print(f"exit code {end.code}", file=sys.stderr)
"""

IMPORTS = "import torch, transformers.trainer, transformers.models.llama.modeling_llama"
"""What the process has imported from which every client is forked off."""
