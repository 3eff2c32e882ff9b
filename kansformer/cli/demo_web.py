"""`kansformer demo --web`: the page of the workbench, served to this machine only. Layout and events; no logic."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kansformer.cli.demo_web_events import PageEvents, site_choices, text_blocks
from kansformer.cli.loading import prepare_transformers
from kansformer.errors import ConfigError
from kansformer.progress import progress_lines
from kansformer.wording import counted

if TYPE_CHECKING:
    from gradio import Blocks
    from transformers import PreTrainedTokenizerBase

    from kansformer.views.workbench import Workbench

HOST = "127.0.0.1"
# Everything that the page may load or ask comes from the server itself, and no other page may show it in a frame.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"
PROMPT = "class Stack:\n    def push(self, item):\n        self."
TEXT_FILE, TEXT_CHARACTERS = 0, 1200
COVERED = 0.99


def run_web(source: str | None, port: int | None, *, browser: bool) -> None:
    """Load a model, open the page and serve it until Ctrl+C.

    Args:
        source: Hub id or folder; None is the model that comes with the package. A plain model is converted.
        port: of 127.0.0.1; None is the first free one from 7860.
        browser: whether to open the page in the browser.

    Raises:
        ImportError: gradio is not installed.
        ConfigError: the port is taken.
        KansformerError: the model cannot be loaded or has no curves that can be shown.
    """
    if port is not None:
        _check_port(port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    import gradio
    from starlette.middleware import Middleware

    from kansformer.views.workbench_html import STYLE

    bench, tokenizer, text = load_workbench(source)
    name = "the embedded model" if source is None else Path(source).name
    app = build_app(bench, tokenizer, name=name, text=text)
    system = ["system-ui", "sans-serif"]
    theme = gradio.themes.Default(font=system, font_mono=["ui-monospace", "monospace"])
    _, address, _ = app.launch(
        server_name=HOST, server_port=port, share=False, inbrowser=browser, ssr_mode=False, quiet=True,
        prevent_thread_lock=True, show_error=True, footer_links=[], theme=theme, css=STYLE,
        app_kwargs={"middleware": [Middleware(_OwnSourcesOnly)]},
    )  # fmt: skip
    typer.echo(f"Bend the curves of {name} at {address} (this machine only). Ctrl+C ends it; nothing is saved.")
    app.block_thread()


def load_workbench(source: str | None) -> tuple[Workbench, PreTrainedTokenizerBase, str]:
    """A workbench, its tokenizer and its first text, of a model as in `run_web`."""
    from kansformer.config import KANConfig
    from kansformer.conversion import convert
    from kansformer.conversion.sources import read_language_model
    from kansformer.embedded import embedded_model_path
    from kansformer.nn import update_grid
    from kansformer.nn.curves import curved_modules
    from kansformer.training.corpus import standard_library_documents
    from kansformer.views.workbench import Workbench

    prepare_transformers()
    with progress_lines(f"loading {source or 'the embedded model'}"):
        model, tokenizer = read_language_model(source or str(embedded_model_path()))
    model.eval()
    text = standard_library_documents("held_out")[TEXT_FILE][:TEXT_CHARACTERS]
    blocks_NT = text_blocks(text, model, tokenizer)
    if not list(curved_modules(model)):
        convert(model, KANConfig())
        update_grid(model, blocks_NT, quantile=COVERED)
        typer.echo("The model had no curves: its activations have straight ones now, which leave it as it was.")
    with progress_lines("scoring every curve"):
        return Workbench(model, blocks_NT), tokenizer, text


def build_app(bench: Workbench, tokenizer: PreTrainedTokenizerBase, *, name: str, text: str) -> Blocks:
    """The page as a Gradio app, not launched.

    Args:
        bench: the state. All pages that are open show this one model.
        tokenizer: of its model.
        name: of the model, for the title.
        text: that the workbench has read.
    """
    import gradio

    from kansformer.symbolic import LIBRARY
    from kansformer.views.workbench import HANDLES

    events = PageEvents(bench, tokenizer)
    with gradio.Blocks(title="kansformer workbench", analytics_enabled=False) as app:
        total = sum(slot.num_edges for slot in bench.slots)
        gradio.Markdown(
            f"## Bend the curves of {name}\n{counted(total, 'curve')} in {counted(len(bench.slots), 'slot')}. "
            "Pick one, bend it or write a formula into it, and see what the model says now. Channels come with the "
            "change of the loss that is expected without them, the largest first."
        )
        with gradio.Row():
            with gradio.Column(scale=3, min_width=320):
                with gradio.Row():
                    site_menu = gradio.Dropdown(
                        site_choices(events.sites), value=events.sites[0], label="Layer", min_width=110
                    )
                    # A layer's own choices are not those of the layer before; `pick` replaces what is not among them.
                    any_value: dict[str, Any] = {"allow_custom_value": True}
                    slots = events.slots_of(events.sites[0])
                    slot_menu = gradio.Dropdown(slots, label="Slot", min_width=90, **any_value)
                    channel_menu = gradio.Dropdown([], label="Channel", min_width=150, **any_value)
                picture = gradio.HTML()
                losses = gradio.HTML()
                with gradio.Tabs():
                    with gradio.Tab("Bend by hand"):
                        gradio.Markdown("The curve's values at its dots:")
                        with gradio.Row():
                            sliders = [gradio.Slider(label="x", min_width=200, buttons=[]) for _ in range(HANDLES)]
                    with gradio.Tab("Write a formula"):
                        gradio.Markdown(
                            "φ(x) = c · f(a · x + b) + d. The numbers offered are the closest to the curve."
                        )
                        with gradio.Row():
                            function_menu = gradio.Dropdown(list(LIBRARY.names), value="tanh", label="f", min_width=110)
                            numbers = [gradio.Number(label=letter, min_width=90) for letter in "abcd"]
                        formula_button = gradio.Button("Write the formula into the curve", variant="primary")
                with gradio.Row():
                    undo_button = gradio.Button("Undo last", interactive=False, min_width=120)
                    undo_all_button = gradio.Button("Undo all", interactive=False, min_width=120)
            with gradio.Column(scale=2, min_width=320):
                prompt_box = gradio.Textbox(PROMPT, label="Prompt", lines=3, max_lines=6)
                tokens = gradio.HTML()
                with gradio.Accordion("The text of the loss", open=False):
                    text_box = gradio.Textbox(text, show_label=False, lines=6, max_lines=10)
                    text_button = gradio.Button("Read this text")
                steps = gradio.Textbox(label="Edits", lines=2, max_lines=6, interactive=False)
        outputs = [picture, *sliders, tokens, losses, steps, undo_button, undo_all_button]
        place = [site_menu, slot_menu, channel_menu]
        menus = [slot_menu, channel_menu, *numbers]
        one_at_a_time: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
        gradio.on(
            [app.load, *(menu.input for menu in place)], events.pick, [*place, function_menu, prompt_box],
            [*menus, *outputs], **one_at_a_time,
        )  # fmt: skip
        gradio.on(
            [slider.input for slider in sliders], events.bend, [*place, prompt_box, *sliders],
            [output for output in outputs if output not in sliders],
            trigger_mode="always_last", **one_at_a_time,
        )  # fmt: skip
        function_menu.input(
            events.closest_formula, [*place, function_menu], numbers, **one_at_a_time
        )  # fmt: skip
        formula_button.click(
            events.write_formula, [*place, prompt_box, function_menu, *numbers], outputs, **one_at_a_time
        )
        prompt_box.change(events.predict, [prompt_box], [tokens], trigger_mode="always_last", **one_at_a_time)
        text_button.click(
            events.read_text, [text_box, *place, function_menu, prompt_box], [*menus, *outputs], **one_at_a_time
        )
        undo_button.click(events.undo, [*place, prompt_box], outputs, **one_at_a_time)
        undo_all_button.click(events.undo_all, [*place, prompt_box], outputs, **one_at_a_time)
    return app


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise ConfigError(f"Port {port} of {HOST} is taken. Choose another --port, or leave it out for a free one.")


class _OwnSourcesOnly:
    """ASGI middleware that forbids the page to load anything from elsewhere."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)
