"""Throughput of vLLM's OpenAI server with curves, as a ratio to the same server with the plain model.

    pip install '.[vllm]'
    python benchmarks/serving_load.py                     # vLLM's own classes, then the general way
    python benchmarks/serving_load.py --mode eager --requests 500 --tokens 16

Two servers run side by side, one with the plain model and one with the converted one, and take turns: a round of
requests by 16 clients at one, then at the other; the one whose turn it is not is stopped, since its threads wait busily
for work. A ratio is formed within a round, whose first server is another one each time. Writes a row for each way to
`benchmarks/results/serving_load.csv`.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from dataclass_csv import replace_lines
from served.engine import ENVIRONMENT
from served.models import PROMPTS
from serving import ROOT, machine, make_missing

RESULTS = ROOT / "benchmarks" / "results" / "serving_load.csv"
STARTING_SECONDS = 600
WAYS = {"vLLM's own": "auto", "general": "transformers"}


@dataclass(frozen=True)
class Server:
    """A running server, which leads a process group of its own."""

    port: int
    process: subprocess.Popen

    @contextmanager
    def running(self) -> Iterator[int]:
        """The port, while the server runs; afterwards all of its processes are stopped."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield self.port
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


@contextmanager
def server(folder: Path, *, impl: str, mode: str, log: Path) -> Iterator[Server]:
    """An OpenAI server for a checkpoint, stopped as soon as it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1",
        "--port", str(port), "--served-model-name", "model", "--model-impl", impl, "--dtype", "float32",
        "--max-model-len", "256", "--max-num-seqs", "16", "--disable-uvicorn-access-log",
        *(["--enforce-eager"] if mode == "eager" else []),
    ]  # fmt: skip
    environment = os.environ | ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_for(port, process, log)
            os.killpg(process.pid, signal.SIGSTOP)
            yield Server(port, process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                process.terminate()
                process.wait(60)


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers.

    Raises:
        SystemExit: it ended, or takes longer than STARTING_SECONDS.
    """
    end = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"The server did not start:\n{log.read_text()[-3000:]}")


def complete(port: int, number: int, tokens: int) -> int:
    """Generated tokens of one request, 0 for an error."""
    body = json.dumps(
        {
            "model": "model",
            "prompt": f"# {number}\n{PROMPTS[number % len(PROMPTS)]}",
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
    )
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        return content["usage"]["completion_tokens"] if answer.status == 200 else 0
    except (OSError, ValueError, KeyError):
        return 0


def round_of(port: int, numbers: range, *, clients: int, tokens: int) -> tuple[float, int]:
    """Tokens a second and failed requests."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        counts = list(pool.map(lambda number: complete(port, number, tokens), numbers))
    return sum(counts) / (time.perf_counter() - start), counts.count(0)


def measure(folder: Path, way: str, arguments: argparse.Namespace) -> dict:
    """The row of one way."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                server(folder / name, impl=WAYS[way], mode=arguments.mode, log=folder / f"{name}-{WAYS[way]}.log")
            )
            for name in (f"{arguments.model}.plain", f"{arguments.model}.act")
        }
        per_round = arguments.requests // arguments.rounds
        rates: dict[str, list[float]] = {name: [] for name in servers}
        errors = dict.fromkeys(servers, 0)
        for number in range(-1, arguments.rounds):  # the first one warms up
            numbers = range(number * per_round, (number + 1) * per_round) if number >= 0 else range(arguments.clients)
            for name in list(servers)[:: 1 if number % 2 else -1]:
                with servers[name].running() as port:
                    rate, failed = round_of(port, numbers, clients=arguments.clients, tokens=arguments.tokens)
                if number >= 0:
                    rates[name].append(rate)
                    errors[name] += failed
                print(f"{way}, round {number}, {name}: {rate:.0f} tokens/s, {failed} errors", flush=True)
    plain, curves = rates.values()
    plain_errors, curve_errors = errors.values()
    ratios = [a / b for a, b in zip(curves, plain, strict=True)]
    return {
        "way": way,
        "model": arguments.model,
        "mode": arguments.mode,
        "clients": arguments.clients,
        "requests": per_round * arguments.rounds,
        "tokens": arguments.tokens,
        "errors_plain": plain_errors,
        "errors": curve_errors,
        "plain_tokens_per_second": round(statistics.median(plain)),
        "tokens_per_second": round(statistics.median(curves)),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": "/".join(f"{ratio:.2f}" for ratio in ratios),
    } | machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="of served/models.py, such as smollm2")
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    parser.add_argument("--way", choices=tuple(WAYS), action="append")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=500, help="of each server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        make_missing(folder, [f"{arguments.model}.plain", f"{arguments.model}.act"])
        rows = [measure(folder, way, arguments) for way in arguments.way or WAYS]
    replace_lines(RESULTS, list(rows[0]), [list(row.values()) for row in rows], ["way", "model", "mode"])


if __name__ == "__main__":
    main()
