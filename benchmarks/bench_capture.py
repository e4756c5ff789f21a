"""What a capture costs: a forward with every residual site hooked beside the plain one, and its memory.

python benchmarks/bench_capture.py               both tables; --device cuda on a GPU
"""

from __future__ import annotations

import argparse
import gc
import tracemalloc
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import repgeom as rg
from timing import machine, medians

ROWS, LENGTH = 4, 256
KINDS = {
    "residual": ("resid_pre", "resid_post"),
    "all": ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"),
}


def make_model(layers: int, width: int, device: str) -> GPT2LMHeadModel:
    """The shape of GPT-2 small by default, random in weights."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=max(1, width // 64))
    return GPT2LMHeadModel(config).eval().to(device)


def make_batch(device: str) -> dict[str, torch.Tensor]:
    """Random token ids without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50257, (ROWS, LENGTH), generator=generator).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def sites_of(layers: int, kinds: tuple[str, ...]) -> list[str]:
    """These sites of every block."""
    return [f"{kind}.{layer}" for layer in range(layers) for kind in kinds]


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def report_time(model: GPT2LMHeadModel, device: str, repeats: int) -> None:
    """Median seconds of a whole forward, plain and hooked, and their ratio."""
    batch, anatomy = make_batch(device), rg.anatomy(model)

    def plain() -> None:
        with torch.no_grad():
            model(**batch)
        wait(device)

    def hooked(kinds: tuple[str, ...]) -> None:
        sites = sites_of(model.config.n_layer, kinds)
        options = {"stop_early": False, "on_activation": lambda _site, _tensor: None, "anatomy": anatomy}
        with rg.capture(model, sites, **options) as activations:
            activations.run(**batch)
        wait(device)

    calls = {"plain forward": plain}
    for name, kinds in KINDS.items():
        calls[f"{name} sites hooked ({len(sites_of(model.config.n_layer, kinds))})"] = lambda kinds=kinds: (
            hooked(kinds)
        )
    times = medians(calls, repeats)
    print("| forward | median | of the plain forward |")
    print("|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {1e3 * seconds:.1f} ms | {seconds / times['plain forward']:.3f} |")


def in_use(device: str) -> tuple[float, float]:
    """MiB that Python has allocated, and MiB resident or, on a GPU, allocated there."""
    gc.collect()
    if device == "cuda":
        other = torch.cuda.memory_allocated()
    else:
        status = Path("/proc/self/status").read_text().splitlines()
        other = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
    return tracemalloc.get_traced_memory()[0] / 2**20, other / 2**20


def report_memory(model: GPT2LMHeadModel, device: str, batches: int) -> None:
    """Memory after batches of one capture that keeps its tensors."""
    batch, anatomy = make_batch(device), rg.anatomy(model)
    sites = sites_of(model.config.n_layer, KINDS["all"])
    marks = sorted({0, 1, 2, 4, 9, 19, 29, 39, batches - 1} & set(range(batches)))
    tracemalloc.start()
    print(f"\n| after batch | Python, MiB | {'GPU' if device == 'cuda' else 'resident'}, MiB |")
    print("|---|---|---|")
    with rg.capture(model, sites, stop_early=False, anatomy=anatomy) as activations:
        for number in range(batches):
            activations.run(**batch)
            if number in marks:
                python, other = in_use(device)
                print(f"| {number + 1} | {python:.2f} | {other:.1f} |")
    tracemalloc.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    print(f"{machine()}; {where}")
    print(f"GPT-2 of {args.layers} layers, width {args.width}; batches of {ROWS} x {LENGTH}\n")
    model = make_model(args.layers, args.width, args.device)
    report_time(model, args.device, args.repeats)
    report_memory(model, args.device, args.batches)


if __name__ == "__main__":
    main()
