"""What `serving.py` serves, by which engine, and what must be refused."""
