"""The `alknet-firewall` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import __version__
from .alarm import Alarm, AlarmLevel, Role
from .config import Config, FirewallConfig, load_config
from .errors import FirewallError
from .extras import require_extra
from .starter import UPSTREAMS, write_starter
from .terminal import LEVEL_COLOURS

if TYPE_CHECKING:
    from .codebook import Codebook
    from .model.protocol import DetectorModel

__all__ = ["main"]

EXIT_CODES = {AlarmLevel.CLEAR: 0, AlarmLevel.SUSPICIOUS: 10, AlarmLevel.DANGEROUS: 20}

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _config_option(command: _Command) -> _Command:
    return click.option(
        "--config",
        "config_path",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A TOML configuration file, such as proxy.toml.",
    )(command)


def _data_option(command: _Command) -> _Command:
    return click.option(
        "--data",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        required=True,
        help="A folder of JSON Lines files with `text`, `label`, `kind`, `role`.",
    )(command)


def _file_option(*names: str, **settings: Any) -> Callable[[_Command], _Command]:
    return click.option(*names, type=click.Path(dir_okay=False, path_type=Path), **settings)


def _folder_option(*names: str, **settings: Any) -> Callable[[_Command], _Command]:
    return click.option(*names, type=click.Path(file_okay=False, path_type=Path), **settings)


def _role_option(command: _Command) -> _Command:
    return click.option(
        "--role",
        type=click.Choice(["user", "tool"]),
        default="user",
        show_default=True,
        help="Who wrote the text: a user, or a tool (documents, mails, web pages, API results).",
    )(command)


class _Group(click.Group):
    """Turns every error of ours into one line on stderr and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FirewallError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alknet-firewall")
def main() -> None:
    """Screen untrusted text on its way into a large language model.

    A small language model's early hidden states are scored against a compiled
    codebook, on the CPU. The verdict is CLEAR, SUSPICIOUS or DANGEROUS.

    \b
    First steps:
      alknet-firewall demo                  see it work
      alknet-firewall screen "some text"    screen one text
      alknet-firewall serve --upstream URL  put the proxy in front of an API
    """


@main.command()
@click.argument("text", required=False)
@click.option(
    "--file", "file", type=click.Path(dir_okay=False, path_type=Path), help="Screen a file."
)
@_role_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole alarm as JSON.")
@click.option(
    "--jsonl",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Screen a file of JSON Lines: {"text": ..., "role": "user" or "tool", ...}.',
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Where --jsonl writes its rows."
)
@_config_option
def screen(
    text: str | None,
    file: Path | None,
    role: Role,
    as_json: bool,
    jsonl: Path | None,
    out: Path | None,
    config_path: Path | None,
) -> None:
    """Screen TEXT, a file, or standard input (TEXT is -).

    \b
    Exit status: 0 CLEAR, 10 SUSPICIOUS, 20 DANGEROUS, 2 usage or error.
    With --jsonl: 0 when every line was screened, 1 when some were bad.
    """
    if (text is not None) + (file is not None) + (jsonl is not None) != 1:
        raise click.UsageError("give one of TEXT, --file or --jsonl (TEXT may be - for stdin)")
    if (jsonl is None) != (out is None):
        raise click.UsageError("--jsonl and --out go together")
    config = _load(config_path)
    if jsonl and out:
        sys.exit(_screen_lines(config, jsonl, out, role))
    content = _read(file) if file else _stdin() if text == "-" else text or ""
    firewall = _firewall(config)
    firewall.preload()  # or the first text's time would be that of loading
    alarm = firewall.screen(content, role)
    click.echo(json.dumps(alarm.to_dict(), indent=2) if as_json else _report(alarm, content))
    sys.exit(EXIT_CODES[alarm.level])


@main.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of JSON Lines files with `text`, `label`, `kind`, `role`.",
)
@_file_option("--screened", help="Measure rows that `--rows` or `screen --jsonl` wrote before.")
@_file_option("--report", help="Write an HTML page with plots (needs the `report` extra).")
@_file_option("--json", "json_path", help="Write the figures.")
@_file_option("--rows", help="Write the screened rows, as `screen --jsonl` does.")
@click.option(
    "--limit",
    default=0,
    show_default=True,
    help="At most this many rows of each source, label and role; 0 takes all.",
)
@click.option("--seed", default=0, show_default=True, help="Chooses the rows of --limit.")
@click.option("--loso", is_flag=True, help="Also leave each source of --train out in turn.")
@click.option("--robustness", is_flag=True, help="Also try evasions on the attacks it catches.")
@click.option(
    "--robustness-rows",
    type=click.IntRange(min=1),
    default=250,
    show_default=True,
    help="At most this many attacks, and harmless texts, of a role for each evasion.",
)
@click.option("--baselines", is_flag=True, help="Also fit baselines on --train (`report` extra).")
@_folder_option("--train", help="The folder the codebook was compiled from.")
@_folder_option("--cache", help="Activations of `compile --cache`, for --loso.")
@_folder_option("--peers", help="Verdicts of other programs (benchmarks/peers_detection.py).")
@_file_option("--ablation", help="Rows of `training/ablation.py --json`, to show in the report.")
@_config_option
def evaluate(
    report: Path | None, json_path: Path | None, config_path: Path | None, **options: Any
) -> None:
    """Measure detection on labelled text, every source counting the same."""
    from .training.evaluate import EvaluateOptions
    from .training.evaluate import evaluate as run
    from .training.summary import table

    if (options["data"] is None) == (options["screened"] is None):
        raise click.UsageError("give one of --data and --screened")
    if (options["loso"] or options["baselines"]) and not options["train"]:
        raise click.UsageError("--loso and --baselines need --train, the folder to fit on")
    for path in (report, json_path, options["rows"]):
        if path and not path.parent.is_dir():
            raise click.UsageError(f"{path}: there is no folder {path.parent}")
    if options["loso"]:
        require_extra("training", "scipy", "threadpoolctl")
    if report:
        from .training.report import render, require_packages

        require_packages()
    figures = run(_load(config_path).firewall, EvaluateOptions(**options))
    if json_path:
        _write(json_path, json.dumps(figures, indent=2) + "\n")
    if report:
        _write(report, render(figures))
    click.echo(table(figures))


@main.command()
@_config_option
def download(config_path: Path | None) -> None:
    """Fetch, verify and prepare the detector's weights, for use without a network."""
    from .model.embedded import EmbeddedModel

    config = _load(config_path).firewall
    codebook = _codebook(config, None)
    model = EmbeddedModel(
        codebook.reads,
        cache_dir=config.cache_dir,
        local_files_only=config.local_files_only,
        progress=True,
    )
    click.echo(f"ready: {model.prepare()}")


@main.command("compile")
@_data_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where the codebook is written.",
)
@click.option(
    "--model",
    "model_id",
    help="A Hugging Face model folder, or ID@REVISION; the embedded model when absent "
    "(needs the `torch` extra).",
)
@click.option("--layers", help="Extraction layers, such as 2,4,6.")
@click.option("--dimensions", default=256, show_default=True, help="SVD directions per layer.")
@click.option(
    "--limit",
    default=500,
    show_default=True,
    help="Harmless rows of each source and role; of attacks, twice as many.",
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--licences",
    type=click.Path(dir_okay=False, path_type=Path),
    help='JSON to record in the codebook: {"file.jsonl": {"origin": ..., "licence": ...}}.',
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep activations here, so that an interrupted run can be resumed.",
)
@_config_option
def compile_codebook(
    data: Path,
    out: Path,
    model_id: str | None,
    layers: str | None,
    dimensions: int,
    limit: int,
    seed: int,
    licences: Path | None,
    cache: Path | None,
    config_path: Path | None,
) -> None:
    """Compile a codebook from labelled text. The same input gives the same files."""
    require_extra("training", "scipy", "threadpoolctl")
    from .training.compiler import CompileOptions, build, open_model

    options = CompileOptions(n_dimensions=dimensions, rows_per_group=limit, seed=seed)
    model = open_model(model_id, _layers(layers), _load(config_path).firewall)
    build(data, out, model, options, _json_file(licences) if licences else None, cache)
    click.echo(f"compiled: {out}")


@main.command()
@_file_option(
    "--normal", required=True, help='JSON Lines of normal texts: {"text": ...} or strings.'
)
@_role_option
@click.option("--fpr", type=float, required=True, help="Share of them that may be SUSPICIOUS.")
@click.option("--dangerous-fpr", type=float, help="Share that may be DANGEROUS; else it stays.")
@click.option("--regions", is_flag=True, help="Also refit what is rare and what is anomalous.")
@_folder_option("--codebook", help="The codebook to start from; else the configured one.")
@_folder_option("--out", required=True, help="Where the calibrated codebook is written.")
@_config_option
def calibrate(
    normal: Path,
    role: Role,
    fpr: float,
    dangerous_fpr: float | None,
    regions: bool,
    codebook: Path | None,
    out: Path,
    config_path: Path | None,
) -> None:
    """Set thresholds from your own normal traffic. The classifiers stay as they are.

    Writes a copy of the codebook; use it with `[firewall] codebook = "DIR"`. A
    rate needs at least 3 / rate distinct texts: 300 for 0.01.
    """
    require_extra("training", "scipy")
    from .codebook.files import write
    from .training.calibrate import CalibrationOptions, calibration_table
    from .training.calibrate import calibrate as run

    config = _load(config_path).firewall
    options = CalibrationOptions(fpr, dangerous_fpr, regions)
    calibrated, found = run(*_detector(config, codebook), config, normal, role, options)
    write(calibrated, out)
    click.echo(calibration_table(found))
    click.echo(f"\nwritten: {out}")


@main.command()
@click.argument("path", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@_file_option("--normal", help="Show how far these texts are from the codebook's normal text.")
@_role_option
@_config_option
def inspect(
    path: Path | None, as_json: bool, normal: Path | None, role: Role, config_path: Path | None
) -> None:
    """Show what a codebook holds and where it came from (the bundled one by default)."""
    from .codebook.describe import describe, summary

    config = _load(config_path).firewall
    if normal:
        require_extra("training", "scipy")
        from .training.calibrate import drift_report, traffic_drift

        found = traffic_drift(*_detector(config, path), config, normal, role)
        click.echo(json.dumps(found.to_dict(), indent=2) if as_json else drift_report(found))
        return
    codebook = _codebook(config, path)
    click.echo(json.dumps(describe(codebook), indent=2) if as_json else summary(codebook))


@main.command()
@click.option("--upstream", help="Base URL of the API behind, such as https://api.openai.com/v1.")
@click.option("--host", help="Address to listen on, or unix:PATH  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on  [default: 8080]")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, each with a detector of its own.",
)
@_config_option
def serve(
    upstream: str | None,
    host: str | None,
    port: int | None,
    workers: int,
    config_path: Path | None,
) -> None:
    """Run the proxy in front of an OpenAI-compatible API."""
    from .proxy.server import serve as run
    from .proxy.settings import Source

    run(Source(config_path, {"upstream": upstream, "host": host, "port": port}), workers)


@main.command()
@click.argument("upstream", type=click.Choice([*UPSTREAMS]))
@click.option("--base-url", help="Of the upstream, where it is not the usual one.")
@_file_option("--out", default="proxy.toml", show_default=True, help="The file to write.")
def init(upstream: str, base_url: str | None, out: Path) -> None:
    """Write a commented configuration for an UPSTREAM, to begin with.

    An existing file is never overwritten.
    """
    write_starter(out, upstream, base_url)
    click.echo(f"written: {out}\nrun it:  alknet-firewall serve --config {out}")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a SHELL complete this command, for its startup file.

    \b
      bash:  eval "$(alknet-firewall completion bash)"
      zsh:   eval "$(alknet-firewall completion zsh)"
      fish:  alknet-firewall completion fish | source
    """
    from click.shell_completion import get_completion_class

    if found := get_completion_class(shell):
        name, variable = "alknet-firewall", "_ALKNET_FIREWALL_COMPLETE"
        click.echo(found(main, {}, name, variable).source())


@main.command()
@click.option("--once", is_flag=True, help="Stop after the three requests.")
@click.option("--port", default=8080, show_default=True, help="Port of the proxy; 0 takes any.")
def demo(once: bool, port: int) -> None:
    """Start a proxy with a small echo upstream and send three requests through it."""
    from .demo import run_demo

    sys.exit(run_demo(once=once, port=port))


@main.group("config")
def config_group() -> None:
    """Work with configuration files."""


@config_group.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def config_check(file: Path) -> None:
    """Check a TOML configuration FILE; every problem is named with its key."""
    load_config(file)
    click.echo(f"{file}: ok")


@config_group.command("show")
@_config_option
@_role_option
@click.option("--route", default="/v1/chat/completions", show_default=True)
@click.option("--model", help="The name of a model, such as gpt-4o.")
@click.option("--client", help="The name of a [[client]].")
@click.option("--key-env", help="Or the environment variable with the client's key.")
def config_show(
    config_path: Path | None,
    role: Role,
    route: str,
    model: str | None,
    client: str | None,
    key_env: str | None,
) -> None:
    """Show what the policy does to a text, and which rules say so."""
    from .proxy.explain import explain
    from .proxy.settings import Source

    click.echo(explain(Source(config_path).load(), role, route, model, client, key_env))


def _load(path: Path | None) -> Config:
    return load_config(path) if path else Config()


def _firewall(config: Config) -> Any:
    from .firewall import Firewall

    return Firewall(config, progress=True)


def _codebook(config: FirewallConfig, path: Path | None) -> Codebook:
    """The codebook in a directory, else the configured one, else the bundled one."""
    from .codebook import Codebook

    chosen = path or (Path(config.codebook) if config.codebook else None)
    return Codebook.load(chosen) if chosen else Codebook.bundled()


def _detector(config: FirewallConfig, path: Path | None) -> tuple[Codebook, DetectorModel]:
    """A codebook and a model for it that runs texts side by side."""
    from .training.compiler import open_model

    codebook = _codebook(config, path)
    return codebook, open_model(None, codebook.layers, config)


def _layers(value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.UsageError(f"--layers takes numbers such as 2,4,6, not {value!r}") from error


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise click.UsageError(f"{file}: cannot be read ({error.strerror})") from error


def _json_file(file: Path) -> Any:
    try:
        return json.loads(_read(file))
    except ValueError as error:
        raise click.UsageError(f"{file}: is not valid JSON ({error})") from error


def _stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _report(alarm: Alarm, text: str) -> str:
    level = click.style(alarm.level.name, fg=LEVEL_COLOURS[alarm.level], bold=True)
    reading = "" if alarm.reading == "raw" else f"reading {alarm.reading}  "
    head = (
        f"{level}  score {alarm.score:.4f}  role {alarm.role}  {reading}tokens {alarm.tokens}  "
        f"{alarm.elapsed * 1000:.1f} ms"
    )
    return f"{head}\n{_marked(text, alarm)}" if alarm.spans else head


def _marked(text: str, alarm: Alarm) -> str:
    """The text with every span between » and «, in the level's colour."""
    pieces = []
    position = 0
    for span in alarm.spans:
        marked = click.style(f"»{text[span.start : span.end]}«", fg=LEVEL_COLOURS[alarm.level])
        pieces += [text[position : span.start], marked]
        position = span.end
    return "".join([*pieces, text[position:]]).encode("utf-8", "replace").decode()


def _screen_lines(config: Config, source: Path, out: Path, role: Role) -> int:
    from .lines import screen_lines

    def complain(number: int, problem: str) -> None:
        click.echo(f"{source}, line {number}: {problem}", err=True)

    try:
        bad = screen_lines(_firewall(config), source, out, role, complain)
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
    return 1 if bad else 0
