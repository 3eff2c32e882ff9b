"""The process that reads changed files: short of memory, and with an eye on everything that it should not do."""

import gc
import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOM = 1 << 30
"""Bytes that may be asked for on top of what the process has when it begins."""

SLACK, MODEL_SLACK = 16 << 20, 96 << 20
"""Bytes that reading may take on top of twice the size of the files: code that is imported late, and Python's own. A
config may ask for many more layers than there are, which transformers makes before it reads any weight."""

SUFFIXES = (".json", ".jsonl", ".yaml", ".md", ".safetensors", ".csv")
FORBIDDEN = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
}
WRITING = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
}


class Watch:
    """Notes what a case does that reading must not do."""

    def __init__(self, cache: Path) -> None:
        self.inside: Path | None = None
        self.cache = cache
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if self.inside is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {args[:2]!r:.120}")
        elif event in WRITING or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            if isinstance(args[0], int):
                return
            # `shutil.rmtree` names what it removes by its folder's descriptor.
            folder = args[1] if event in ("os.remove", "os.rmdir") and args[1] >= 0 else None
            base = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
            path = Path(os.path.abspath(os.path.join(base, os.fsdecode(args[0]))))
            if not {self.inside, self.cache} & {path, *path.parents} and path != Path(os.devnull):
                self.seen.append(f"{event} {str(path)!r:.120}")


def main() -> None:
    """Read commands `kind index seed` from stdin, a line each, and answer each with a line of JSON.

    A fork does this, after a line "ready PROCESS STATUS"; another takes its place when it dies, whose status it tells.
    The argument is a folder to work below.
    """
    sys.dont_write_bytecode = True  # of what is imported while a file is read
    gc.disable()  # until everything is imported
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    root = Path(tempfile.mkdtemp(prefix="strangers-", dir=sys.argv[1]))
    os.environ |= {"HOME": str(root), "HF_HOME": str(root / "hub"), "XDG_CACHE_HOME": str(root / "cache")}
    cache = root / "datasets"  # the one place beside the case's own folder where reading a table may write
    os.environ["HF_DATASETS_CACHE"] = str(cache)
    warnings.simplefilter("ignore")

    import torch
    from strangers.corpus import make_corpus
    from strangers.mutate import mutate
    from strangers.readers import MISDEEDS, READERS
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.CRITICAL)
    torch.set_num_threads(1)
    corpus, inside = root / "corpus", root / "around" / "case"
    make_corpus(corpus, Path(__file__).resolve().parents[2] / "scripts" / "recipes")
    for kind, read in READERS.items():  # what is imported late is imported now, and sound files must be right
        for source in sorted((corpus / kind).glob("*")) or [None]:
            if source is not None:
                read(_copied(source, inside), random.Random(0))
    readers = READERS | {misdeed.__name__: misdeed for misdeed in MISDEEDS}
    gc.freeze()
    gc.enable()
    status = 0
    while child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            shutil.rmtree(root, ignore_errors=True)
            return
    watch = Watch(cache)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    print("ready", os.getpid(), status, file=answers, flush=True)
    for line in iter(sys.stdin.readline, ""):
        kind, index, seed = line.split()
        rng = random.Random(f"{seed}-{kind}-{index}")
        sources = sorted((corpus / kind).glob("*"))
        if sources:
            folder = _copied(sources[int(index) % len(sources)], inside)
            files = sorted(p for p in folder.rglob("*") if p.is_file() and is_mutated(kind, p))
            for _ in range(rng.choice([1, 1, 1, 2])):
                try:
                    mutate(chosen := rng.choice(files), rng)
                except Exception:  # broken by an earlier change, so that no tool writes it again
                    chosen.write_bytes(chosen.read_bytes()[: rng.randrange(50)])
        answer = _outcome(readers[kind], inside, rng, watch)
        shutil.rmtree(cache, ignore_errors=True)
        answer["new"] = sorted(str(p.relative_to(root)) for p in root.rglob("*") if _is_new(p, inside, corpus, root))
        print(json.dumps(answer), file=answers, flush=True)


def is_mutated(kind: str, path: Path) -> bool:
    """Whether a file is one that kansformer, or transformers for it, reads."""
    if kind in ("card", "kan-card") and path.name == "README.md":
        return path.parent.name == "origin"
    return path.name != "generation_config.json" and path.suffix in SUFFIXES


def _copied(source: Path, inside: Path) -> Path:
    shutil.rmtree(inside.parent, ignore_errors=True)
    inside.parent.mkdir()
    return Path(shutil.copytree(source, inside))


def _is_new(path: Path, inside: Path, corpus: Path, root: Path) -> bool:
    return path not in (corpus, inside, inside.parent) and not {corpus, inside} & {*path.parents}


def _outcome(read: Any, folder: Path, rng: random.Random, watch: Watch) -> dict[str, Any]:
    from strangers.readers import LONGEST_SENTENCE, WrongError

    from kansformer.errors import KansformerError

    declared = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.exists() else 0
    before, mapped = _restart_peak(), _status("RssFile")
    watch.seen, watch.inside = [], folder
    error: BaseException | None = None
    try:
        read(folder, rng)
    except BaseException as caught:  # whatever comes out is judged
        error = caught
    watch.inside = None
    grown = (
        _peak() - before - max(0, _status("RssFile") - mapped)
    )  # less libraries' code that is used for the first time
    answer: dict[str, Any] = {"outcome": "right", "bug": "", "error": "", "grown": grown, "declared": declared}
    if error is not None:
        answer["error"] = f"{type(error).__name__}: {error!s:.300}"
        answer["outcome"] = "ours" if isinstance(error, KansformerError) else "theirs"
    if isinstance(error, WrongError):
        answer |= {"outcome": "bug", "bug": f"{error}"}
    elif answer["outcome"] == "ours" and not 10 < len(str(error)) < LONGEST_SENTENCE:
        answer |= {"outcome": "bug", "bug": f"a sentence of {len(str(error))} characters"}
    elif answer["outcome"] == "theirs" and (reason := _not_theirs(error, read)):
        answer |= {"outcome": "bug", "bug": reason}
    if watch.seen:
        answer |= {"outcome": "bug", "bug": f"did {watch.seen[0]}"}
    slack = MODEL_SLACK if read.__name__ in ("read_model", "read_family") else SLACK
    if read.__name__ != "compile_a_formula" and grown > 2 * declared + slack:
        answer |= {"outcome": "bug", "bug": f"took {grown >> 20} MB for files of {declared} bytes"}
    if answer["outcome"] == "bug" and error is not None:
        answer["trace"] = "".join(traceback.format_exception(error))[-1800:]
    return answer


def _not_theirs(error: Any, read: Any) -> str:
    """Why an error that is not ours is a bug; empty for an ordinary one of transformers on a whole model."""
    if read.__name__ not in ("read_model", "read_family"):
        return f"{type(error).__name__}: {error!s:.150}"
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if "/kansformer/" in frames[-1] and "/tests/" not in frames[-1]:
        return f"raised in our own code: {type(error).__name__}: {error!s:.150}"
    if not isinstance(error, Exception) or isinstance(error, MemoryError) or "allocate" in str(error):
        return f"{type(error).__name__}: {error!s:.150}"
    return ""


def _restart_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
