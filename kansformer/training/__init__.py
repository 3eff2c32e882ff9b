"""Text, blocks and training loops for language models on one machine."""
