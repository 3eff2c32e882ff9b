"""What a feed-forward network looks like inside a model: the description of a site, finding sites, proving them."""

from kansformer.sites.find import find_sites
from kansformer.sites.site import Site, Slot
from kansformer.sites.verify import Proof, prove_site

__all__ = ["Proof", "Site", "Slot", "find_sites", "prove_site"]
