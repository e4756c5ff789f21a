"""The command line: parse, call, print. Heavy libraries are imported when a command needs them."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from repgeom.results import AnalysisResults

RUN_EXAMPLES = """\b
Examples:
  repgeom run                          the demo model on the demo corpus
  repgeom run gpt2 --text book.txt --max-tokens 50000
  repgeom run ./my-model --layers 0:12:2 --out runs/mine
  repgeom run gpt2 --hook-point attn_out,mlp_out --pool last,mean
  repgeom run gpt2 --metrics default,dimension,overlap --sample-limit 5000 --plot
  repgeom run --metrics default,similarity,homology --plot
  repgeom run gpt2 --first 1 --high-norm 10      without BOS and attention sinks
  repgeom run gpt2 --load my_metrics.py --metrics default,kurtosis
  repgeom run gpt2 --dry-run           what it would do, and what that costs
"""

EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="repgeom",
    help="The geometry of what happens inside transformer models. Try: repgeom run",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        import repgeom

        typer.echo(f"repgeom {repgeom.__version__}")
        raise typer.Exit


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Bad input ends with one sentence and exit code 1; anything else is a bug and keeps its traceback."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        typer.echo("repgeom: interrupted; nothing was saved", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"repgeom: error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command(epilog=RUN_EXAMPLES)
def run(
    model: Annotated[str | None, typer.Argument(help="Hub id or folder; default: the demo model.")] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="UTF-8 text file or .jsonl with 'text' fields; default: the demo corpus (Python's manual)."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Hub id or folder of the tokenizer; default: the model's own.")
    ] = None,
    layers: Annotated[str, typer.Option(help="all, 0,3,7 or 0:12:2.")] = "all",
    metrics: Annotated[
        str,
        typer.Option(
            help="default (spectrum,sample,novelty), dimension, overlap, imbalance, similarity, "
            "homology, router, those of --load."
        ),
    ] = "default",
    diagnostics: Annotated[str, typer.Option(help="normalization_ablation.")] = "",
    load: Annotated[
        Path | None, typer.Option(help="Python file that registers metrics with @repgeom.metric.")
    ] = None,
    hook_point: Annotated[
        str,
        typer.Option(
            help="One or several of residual_input, residual_output, attn_out, resid_mid, mlp_out, embed, "
            "final_norm, module_input:PATH, module_output:PATH."
        ),
    ] = "residual_input",
    tower: Annotated[
        str | None, typer.Option(help="Stack of blocks, where there are several; see repgeom sites.")
    ] = None,
    pool: Annotated[str, typer.Option(help="Keep pooled sequences: some of last,mean,first,max.")] = "",
    first: Annotated[
        int, typer.Option(min=0, help="Positions at the start of each sequence that do not count.")
    ] = 0,
    high_norm: Annotated[
        float | None,
        typer.Option(help="Tokens above this multiple of their sequence's median norm do not count."),
    ] = None,
    drop_special: Annotated[
        bool, typer.Option("--drop-special", help="BOS, EOS and separators do not count.")
    ] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Tokens with equal prefixes count once.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens that count.")] = 100_000,
    max_length: Annotated[int, typer.Option(help="Tokens per sequence.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Sequences per call of the model.")] = 8,
    batching: Annotated[
        str, typer.Option(help="order, bucketed (by length) or chunk (documents joined, no padding).")
    ] = "order",
    sample_limit: Annotated[int, typer.Option(help="Tokens whose activations are kept.")] = 512,
    novelty_k: Annotated[int, typer.Option(help="Eigenvectors compared between layers.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: a new one in repgeom-runs.")
    ] = None,
    save_mode: Annotated[str, typer.Option(help="bundle, csv or json.")] = "bundle",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: cuda if there is one.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the token sample.")] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the kernels; default: all processors.")
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(
            help="GiB for covariances; wide layers that need more are sketched. Default: what is free."
        ),
    ] = None,
    compat: Annotated[
        str | None, typer.Option(help="representation-geometry: that program's numbers where ours differ.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code of the checkpoint run.")
    ] = False,
    plot: Annotated[
        bool,
        typer.Option("--plot", help="Draw dimension.png, cka.png (with --metrics dimension, similarity)."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, with memory and time, and stop.")
    ] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Measure the geometry of the hidden states of every layer, print a table and save the results."""
    with _one_sentence():
        if progress:
            typer.echo(f"loading {model or 'the demo model'} ...", err=True)
        from repgeom.analysis import analyze_model, plan_analysis
        from repgeom.outcome import MeasurementWarning, RunInterrupted
        from repgeom.tokens import TokenPolicy

        if load is not None:
            _load(load)
        if plot:
            _check_plot(metrics)
        options: dict[str, Any] = {
            "text": text,
            "tokenizer": tokenizer,
            "layers": layers,
            "metrics": metrics,
            "diagnostics": diagnostics or None,
            "hook_point": hook_point,
            "tower": tower,
            "pool": pool or None,
            "token_policy": TokenPolicy(
                special_tokens="drop" if drop_special else "keep",
                duplicates="drop" if drop_duplicates else "keep",
                first=first,
                high_norm=high_norm,
            ),
            "max_tokens": max_tokens,
            "max_length": max_length,
            "batch_size": batch_size,
            "batching": batching,
            "sample_limit": sample_limit,
            "novelty_k": novelty_k,
            "save_dir": out or _fresh_folder(model),
            "save_mode": save_mode,
            "overwrite": overwrite,
            "device": device,
            "dtype": dtype,
            "seed": seed,
            "threads": threads,
            "memory_limit": None if memory_limit is None else round(memory_limit * 2**30),
            "compat": compat,
            "trust_remote_code": trust_remote_code,
        }
        drawn: list[Path] = []
        if dry_run:
            typer.echo(plan_analysis(model, **options))
            return
        # What it warns of is printed below the table.
        warnings.simplefilter("ignore", MeasurementWarning)
        try:
            results = analyze_model(model, progress=progress, **options)
        except RunInterrupted as interrupt:
            _show(interrupt.results)
            typer.echo(f"repgeom: {interrupt}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        if plot and results.artifact_dir is not None:
            from repgeom.figures import save_figures

            drawn = save_figures(results, results.artifact_dir)
    _show(results)
    for figure in drawn:
        typer.echo(f"Figure: {figure}")
    if _incomplete(results):
        raise typer.Exit(EXIT_INCOMPLETE)


@app.command()
def sites(
    model: Annotated[str | None, typer.Argument(help="Hub id or folder; default: the demo model.")] = None,
    tower: Annotated[
        str | None, typer.Option(help="Another stack than the one that feeds the output.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code of the checkpoint run.")
    ] = False,
) -> None:
    """Show where a model keeps its residual stream, with the proofs: whether its logits follow from it, which
    sites its blocks have, and whether padded batches give what sequences give alone."""
    with _one_sentence():
        from repgeom.anatomy import anatomy
        from repgeom.branches import branches_summary
        from repgeom.models import load_model
        from repgeom.padding import check_padding
        from repgeom.routers import find_routers, routers_summary

        loaded, _ = load_model(model, trust_remote_code=trust_remote_code)
        found = anatomy(loaded, tower=tower)
        typer.echo(found)
        if found.stream_problem is not None:
            raise typer.Exit(1)
        typer.echo(branches_summary(found))
        typer.echo(routers_summary(find_routers(loaded, found)))
        if found.token_input is not None:
            typer.echo(f"  padding      {check_padding(loaded, found)}")


@app.command()
def smoke(
    out_dir: Annotated[Path | None, typer.Option(help="Where to leave the results.")] = None,
) -> None:
    """See whether the installation works: a tiny model is measured and the numbers are checked."""
    with _one_sentence():
        import tempfile

        from repgeom.smoke import smoke as check

        with tempfile.TemporaryDirectory() as scratch:
            for line in check(out_dir or Path(scratch) / "smoke"):
                typer.echo(line)
        typer.echo(f"everything works{f'; results: {out_dir}' if out_dir else ''}")


def _check_plot(metrics: str) -> None:
    """Refuse a figure that could not be drawn before anything is measured."""
    if not {"dimension", "similarity"} & {name.strip() for name in metrics.split(",")}:
        raise ValueError(f"--plot needs --metrics with dimension or similarity, got {metrics!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib (pip install 'repgeom[plot]'), got none")


def _load(file: Path) -> None:
    """Runs a file of the user's, for the metrics that it registers."""
    if not file.is_file():
        raise ValueError(f"--load must be a Python file, got {str(file)!r}, which does not exist")
    try:
        runpy.run_path(str(file), run_name=file.stem)
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        at = getattr(error, "lineno", None) or line
        raise ValueError(f"{file}, line {at}: {type(error).__name__}: {error}") from error


def _fresh_folder(model: str | None) -> Path:
    """A folder that does not exist yet: a run never touches an earlier one."""
    name = "demo"
    if model:
        path = Path(model)
        name = (path.resolve() if path.is_dir() else path).name.lower()
    root, number = Path("repgeom-runs"), 1
    while (folder := root / f"{name}-{number}").exists():
        number += 1
    return folder


def _incomplete(results: AnalysisResults) -> bool:
    table = results.metrics
    statuses = set(table["status"]) if "status" in table else set()
    return bool(results.metadata["warnings"]) or table.empty or bool(statuses - {"ok", "rank deficient"})


def _show(results: AnalysisResults) -> None:
    from repgeom.summary import summary

    summary(results, sys.stdout)


def main() -> None:
    """Entry point of the ``repgeom`` command."""
    app()
