"""What a feed-forward network looks like inside a model: the description of a site; finding and verifying sites."""

from kansformer._moved import moved_names
from kansformer.sites.find import find_sites
from kansformer.sites.site import Site, Slot
from kansformer.sites.verify import Proof, verify_site

__all__ = ["Proof", "Site", "Slot", "find_sites", "verify_site"]

__getattr__ = moved_names(__name__, {"prove_site": "kansformer.sites.verify_site"})
