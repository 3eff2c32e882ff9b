"""Files by the name of a folder or of a repository on the Hub, with the arguments of the Hugging Face libraries."""

import re
from collections.abc import Collection
from pathlib import Path

from kansformer.errors import HubError

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def find_folder(
    source: str | Path,
    names: Collection[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """A folder with these files, as far as they exist: a local one, or a copy of one revision on the Hub.

    Args:
        source: a folder; if none exists at this path, "owner/name" on the Hub.
        names: of the files, at the top of the repository.
        revision: branch, tag or commit on the Hub; None is the main branch.
        cache_dir: where the Hub's files are kept; None is huggingface_hub's own cache.
        token: for private repositories; None or True is the one that is logged in, False none.
        local_files_only: take what is in the cache and do not ask the Hub.

    Returns:
        The folder, which does not exist where `source` is neither. Whether it has the files is not checked.

    Raises:
        HubError: the Hub has no such repository or revision, refused, or could not be reached.
    """
    if isinstance(source, Path) or Path(source).is_dir() or not HUB_ID.fullmatch(source):
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=list(names),
                library_name="kansformer",
            )
        )
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        raise HubError(
            f"There is no folder {source!r}, and the Hub did not give a repository of that name: {reason_of(error)}"
        ) from error


def reason_of(error: BaseException) -> str:
    """The message of an error and those of its causes: the outermost one of huggingface_hub names only the file."""
    words: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(re.sub(r"For more information check: \S+", "", str(cause)).split()).rstrip(".")
        words += [text] if text and not any(text in said for said in words) else []
        cause = cause.__cause__
    return f"{': '.join(words) or type(error).__name__}."
