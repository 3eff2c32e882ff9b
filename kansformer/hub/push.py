"""Upload the folder of a model with curves to the Hub, as it is, in one commit."""

import fnmatch
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from kansformer.conversion.digest import weight_files
from kansformer.errors import ConfigError, HubError
from kansformer.hub.card import is_generated, write_card
from kansformer.hub.card_metadata import CARD_FILE
from kansformer.hub.model_folder import ModelFolder
from kansformer.hub_files import reason_of

# Left on the disk: hidden files and folders, what a run is writing, its checkpoints with the pickles of its optimizer,
# and the batches of its skipped steps.
LEFT_OUT = (".*", "_partial", "checkpoint-*", "non-finite-step-*")


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What was uploaded.

    Args:
        name: the repository, with its owner.
        url: of the commit.
        files: names of the uploaded files, of the folder's own ones.
        left_out: files and folders that were not uploaded.
        size: bytes of the files.
        wrote_card: whether the card was written for this upload.
    """

    name: str
    url: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    size: int
    wrote_card: bool


def push_folder(
    folder: str | Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> PushResult:
    """Upload a folder's files as they are, in one commit, so that a broken upload leaves the old revision whole.

    Hidden files and `checkpoint-*` folders are left out, at any depth. Files of weights that the folder replaces by
    others, such as shards, are deleted there. huggingface_hub draws its bars meanwhile.

    Args:
        folder: of a converted model, or what `save_curves` or `KAN.save` wrote. Its card is written first if there is
            none, and again, with the new name, if it is one that kansformer wrote and nobody has edited.
        name: "owner/model" or, for one's own, "model"; the repository is created if it does not exist.
        private: make it a private one.
        revision: branch to commit to, made if need be; None is the main one.
        message: of the commit; None names kansformer.

    Returns:
        What was uploaded, and where to.

    Raises:
        CheckpointError: the folder holds no such model, or a file in it is broken.
        ConfigError: the name is not valid, nobody is logged in, or `private` was asked for a repository that is public.
        HubError: the Hub refused, or the connection broke. The files there are as they were.

    Examples:
        >>> from torch.nn import Linear, Sequential, SiLU
        >>> from kansformer import convert, save_curves
        >>> from kansformer.hub import push_folder
        >>> folder = save_curves(convert(Sequential(Linear(4, 8), SiLU(), Linear(8, 4))), "curves")
        >>> push_folder(folder, "me/curves", private=True).url  # doctest: +SKIP
        'https://huggingface.co/me/curves/commit/...'
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
    from huggingface_hub.utils import validate_repo_id

    folder = Path(folder)
    ModelFolder.read(folder)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is not a name for a repository: write owner/model. {error}") from None
    if get_token() is None:
        raise ConfigError("There is no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi(library_name="kansformer")
    try:
        full_name = api.create_repo(name, private=private or None, exist_ok=True).repo_id
        if private and not api.model_info(full_name).private:
            raise ConfigError(
                f"{full_name} exists already and is public, so --private would be ignored. Make it private in its "
                "settings first, or choose another name."
            )
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(full_name, branch=revision, exist_ok=True)
        wrote_card = _renew_card(folder, full_name)
        files, left_out = _files_of(folder)
        weights = weight_files(None)  # a file of all weights would be read before the shards of newer ones
        replaced = [path for path in api.list_repo_files(full_name, revision=revision) if weights.fullmatch(path)]
        replaced = [path for path in replaced if path not in files and any(map(weights.fullmatch, files))]
        # Not upload_folder: with Xet it makes several commits, and a broken one would leave a mixture behind.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*commit a data file")  # an audit's table of edges
            commit = api.create_commit(
                full_name,
                [
                    *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path) for path in files),
                    *(CommitOperationDelete(path_in_repo=path) for path in replaced),
                ],
                commit_message=message or "Upload with kansformer",
                revision=revision,
            )
    except (HfHubHTTPError, HTTPError, RuntimeError) as error:
        raise HubError(
            f"{name} was not uploaded: {reason_of(error)} An upload is one commit, all or nothing; the same command "
            "tries again."
        ) from error
    size = sum((folder / path).stat().st_size for path in files)
    return PushResult(
        name=full_name, url=commit.commit_url, files=files, left_out=left_out, size=size, wrote_card=wrote_card
    )


def _renew_card(folder: Path, name: str) -> bool:
    card = folder / CARD_FILE
    before = card.read_text(encoding="utf-8", errors="replace") if card.exists() else None
    if before is not None and not is_generated(before):
        return False
    write_card(folder, name=name)
    return card.read_text(encoding="utf-8") != before


def _files_of(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files to upload, and what is left out, as paths in the folder."""
    files: list[str] = []
    left_out: list[str] = []
    for place, folders, names in os.walk(folder):
        here = Path(place).relative_to(folder)
        for name in sorted([*folders, *names]):
            if any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT):
                left_out.append((here / name).as_posix())
            elif name in names:
                files.append((here / name).as_posix())
        folders[:] = sorted(name for name in folders if (here / name).as_posix() not in left_out)
    return tuple(files), tuple(left_out)
