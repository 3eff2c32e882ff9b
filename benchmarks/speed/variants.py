"""Which variants are measured at a size."""

from kansformer.errors import BackendError, ConfigError
from kansformer.ops import available_backends, select_backend
from speed.blocks import EDGE_VARIANTS, GATED_VARIANTS, Variant, edge_kan, gated_kan, reference_variants
from speed.peers import PEERS
from speed.sizes import Size


def variants_for(size: Size, device: str, *, peers: bool = True, compiled: bool = True) -> tuple[Variant, ...]:
    """All variants of a size on a device type; the first is the baseline.

    Args:
        size, device: of the rows.
        peers: whether other packages are among them.
        compiled: whether those under `torch.compile` are; peers compile what they like.

    On a CPU a compiler traces the plain definition itself, so that its rows would only repeat `kansformer, compiled`.
    """
    rows: tuple[Variant, ...] = GATED_VARIANTS if size.gated else EDGE_VARIANTS
    if device != "cpu":
        rows += reference_variants(size)
    if peers:
        rows += tuple(peer.variant() for peer in PEERS if peer.gated == size.gated and device in peer.devices)
    return rows if compiled else tuple(row for row in rows if not row.compiled)


def backend_variants(size: Size, device: str) -> tuple[Variant, ...]:
    """Our block under every backend that runs on a device type; the first, the definition, is the baseline."""
    build = gated_kan if size.gated else edge_kan
    return tuple(Variant(name=name, build=build, backend=name) for name in backends_on(device))


def backends_on(device: str) -> list[str]:
    """Names of the backends that run on a device type, the definition first."""
    names = []
    for name in sorted(available_backends(), key=lambda name: name != "reference"):
        try:
            select_backend(name, device)
        except BackendError:
            continue
        names.append(name)
    return names


def automatic_backend(device: str) -> str:
    """Name of the backend that `auto` takes on a device type."""
    chosen = select_backend("auto", device)
    return next(name for name in backends_on(device) if select_backend(name, device) is chosen)


def find_variant(size: Size, name: str) -> Variant:
    """A variant by its name, which may be that of a backend.

    Raises:
        ConfigError: the size has no such variant.
    """
    choices = {variant.name: variant for variant in (*backend_variants(size, "cpu"), *variants_for(size, "cpu"))}
    if name not in choices:
        raise ConfigError(f"Unknown variant {name!r} at {size.name!r}. Choose one of: {', '.join(choices)}.")
    return choices[name]
