"""Vietoris-Rips persistence against plain reduction of boundary matrices, on as many small cases as you like.

Every case is drawn from the seed and its number: distances of a kind that is hard in its own way, a field,
a dimension, a threshold, a form of the input, threads and an instruction set. Every method must give the bars
of ``oracles.rips_bars`` bit for bit; the simplices of the bars must have their lengths, and representative
cocycles must form a basis of the cohomology at every scale. The first case that fails is printed, with what
repeats it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import oracles
import repgeom as rg

Array = oracles.Array
METHODS = ("auto", "links", "reducer")
FORMS = ("float64", "float32", "condensed", "csr", "csc", "coo")
FIELDS = (2, 2, 2, 2, 3, 3, 3, 5, 251)
SMALL = 16
LARGE_SHARE = 0.015
PROJECTIVE_PLANE = np.load(Path(__file__).parent / "data" / "homology.npz")["in.projective_plane"]
EXAMPLES = """examples:
  python tests/fuzz_homology.py                              20 000 cases, a few minutes
  python tests/fuzz_homology.py --seed 7 --minutes 60 --cases 100000000 --jobs 8
  python tests/fuzz_homology.py --case joins:123:9:3:2       one case again: kind:seed:n:field:max_dim"""


@dataclass(frozen=True)
class Case:
    """All that a case depends on; ``str`` of it is what ``--case`` takes."""

    kind: str
    seed: int
    n: int
    field: int
    max_dim: int

    def __str__(self) -> str:
        return ":".join(map(str, astuple(self)))


# --- distances


def symmetric(n: int, draw: Callable[..., Array]) -> Array:
    """``draw(size=)`` above the diagonal, the same below it, zeros on it."""
    upper = np.triu(draw(size=(n, n)), 1)
    return upper + upper.T


def euclidean(points: Array) -> Array:
    return np.sqrt(((points[:, None].astype(np.float64) - points[None]) ** 2).sum(axis=-1))


def steps_of_circle(n: int) -> Array:
    """How many steps lie between the points of a regular polygon, the shorter way round."""
    steps = np.abs(np.arange(n)[:, None] - np.arange(n))
    return np.minimum(steps, n - steps)


def grid(rng: np.random.Generator, n: int) -> Array:
    points = rng.integers(0, rng.integers(2, 5), size=(n, rng.integers(1, 5)))
    if rng.random() < 0.5:
        return euclidean(points)
    return np.abs(points[:, None] - points[None]).sum(axis=-1).astype(np.float64)


def whole_weights(rng: np.random.Generator, n: int) -> Array:
    least = int(rng.integers(0, 2))
    top = least + int(rng.integers(1, 8))
    return symmetric(n, lambda size: rng.integers(least, top + 1, size).astype(np.float64))


def duplicates(rng: np.random.Generator, n: int) -> Array:
    distances = KINDS[str(rng.choice(["euclidean", "weights", "grid"]))](rng, n)
    copies = rng.integers(0, max(1, n // 2), n)
    return distances[copies][:, copies]


def circulant(rng: np.random.Generator, n: int) -> Array:
    steps = steps_of_circle(n)
    by_step = rng.random(n) if rng.random() < 0.4 else np.sin(np.pi * np.arange(n) / n)
    by_step[0] = 0
    return by_step[steps]


def cross_polytope(rng: np.random.Generator, n: int) -> Array:
    points = np.zeros((n, (n + 1) // 2))
    points[np.arange(n), np.arange(n) // 2] = (-1.0) ** np.arange(n)
    return euclidean(points + rng.choice([0, 0, 1e-6, 0.1]) * rng.normal(size=points.shape))


def joins(rng: np.random.Generator, n: int) -> Array:
    """Polygons (two points, four and more), all of them close to each other: spheres of every dimension."""
    sizes = rng.choice([2, 2, 4, 4, 5, 6, 7], n)
    groups = np.repeat(np.arange(n), sizes)[:n]
    distances = np.full((n, n), rng.choice([0.25, 0.5, 1.0]))
    for group in range(groups.max() + 1):
        inside = np.flatnonzero(groups == group)
        part = steps_of_circle(len(inside)).astype(np.float64)
        if rng.random() < 0.3:
            part += symmetric(len(inside), rng.random)
        distances[np.ix_(inside, inside)] = part
    np.fill_diagonal(distances, 0)
    return distances


def sparse(rng: np.random.Generator, n: int) -> Array:
    distances = KINDS[str(rng.choice(["euclidean", "whole weights", "weights", "joins"]))](rng, n)
    absent = symmetric(n, lambda size: (rng.random(size) < rng.choice([0.2, 0.5, 0.8])).astype(float))
    return np.where(absent > 0, np.inf, distances)


def clusters(rng: np.random.Generator, n: int) -> Array:
    distances = KINDS[str(rng.choice(["euclidean", "grid", "circulant"]))](rng, n)
    group = rng.integers(0, 3, n)
    apart = float(rng.choice([np.inf, 40.0, distances.max()]))
    return np.where(group[:, None] == group, distances, apart)


def equal(rng: np.random.Generator, n: int) -> Array:
    length = float(rng.choice([0.0, 1.0, 0.1]))
    return symmetric(n, lambda size: np.full(size, length))


def projective_plane(rng: np.random.Generator, n: int) -> Array:
    """Torsion: over Z/2 it has bars that it does not have over other fields. Copies beyond 13 points."""
    order = np.concatenate([rng.permutation(13), rng.integers(0, 13, n)])[:n]
    noise = symmetric(n, lambda size: rng.random(size) * rng.choice([0, 0, 1e-3, 0.5]))
    return PROJECTIVE_PLANE[order][:, order] + noise


def scales(rng: np.random.Generator, n: int) -> Array:
    """From the smallest denormal number to the largest finite one."""
    return symmetric(n, lambda size: np.exp2(rng.integers(-149, 128, size).astype(np.float64)))


def last_bits(rng: np.random.Generator, n: int) -> Array:
    return symmetric(n, lambda size: 1 + rng.integers(0, 40, size) * 2.0**-23)


KINDS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "euclidean": lambda rng, n: euclidean(rng.normal(size=(n, rng.integers(1, 6)))),
    "grid": grid,
    "weights": lambda rng, n: symmetric(n, rng.random),
    "whole weights": whole_weights,
    "duplicates": duplicates,
    "circulant": circulant,
    "cross-polytope": cross_polytope,
    "joins": joins,
    "sparse": sparse,
    "clusters": clusters,
    "equal": equal,
    "projective plane": projective_plane,
    "scales": scales,
    "last bits": last_bits,
}


def drawn_case(seed: int, number: int) -> Case:
    """The case of that number, small enough for the oracle."""
    rng = np.random.default_rng([seed, number])
    if rng.random() < LARGE_SHARE:
        return large_case(rng)
    max_dim = int(rng.choice([0, 1, 1, 1, 2, 2, 2, 2, 3, 3]))
    field = int(rng.choice(FIELDS))
    most = SMALL - 2 * (max_dim > 2) - 2 * (field > 2 and max_dim > 1)
    kind = str(rng.choice(list(KINDS)))
    n = int(rng.integers(7 if max_dim > 2 else 3, most + 1))
    if max_dim > 2 and rng.random() < 0.3:
        kind = "joins"
    if rng.random() < 0.02:
        n = int(rng.integers(1, 3))
    if kind == "projective plane" and max_dim == 2 and rng.random() < 0.5:
        n = 13
    return Case(kind, int(rng.integers(2**31)), n, field, max_dim)


def large_case(rng: np.random.Generator) -> Case:
    """As many points as there are bits in a machine word, a few less and a few more."""
    kind = str(rng.choice(["euclidean", "weights", "whole weights", "circulant", "clusters"]))
    n = int(rng.choice([63, 64, 65, 66, 127, 128, 129]))
    max_dim = 1 if n > 100 else int(rng.integers(1, 3))
    return Case(kind, int(rng.integers(2**31)), n, int(rng.choice(FIELDS)), max_dim)


def distances_of(case: Case) -> Array:
    """Float64, every value one that float32 has; infinite where there is no edge."""
    return KINDS[case.kind](np.random.default_rng(case.seed), case.n).astype(np.float32).astype(np.float64)


def options_of(case: Case, distances: Array) -> tuple[str, dict[str, Any]]:
    """The form of the input, and how it is worked on."""
    rng = np.random.default_rng([case.seed, 1])
    form = str(rng.choice(FORMS)) if case.n > 1 else "float64"
    lengths = distances[np.isfinite(distances)]
    threshold: float | None = None
    if rng.random() < 0.35:
        threshold = float(
            np.float32(rng.choice(lengths) if rng.random() < 0.7 else rng.random() * lengths.max())
        )
    if case.n > SMALL and (case.field > 2 or case.max_dim > 1 or case.n > 100):
        threshold = float(np.quantile(lengths, rng.uniform(0.02, 0.3), method="lower"))
    options = {
        "metric": "precomputed",
        "threshold": threshold,
        "coefficients": case.field,
        "threads": int(rng.integers(1, 4)),
        "instruction_set": str(rng.choice(rg.cpu_instruction_sets())),
    }
    return form, options


def as_form(distances: Array, form: str) -> Any:
    """The same graph as a square, as a condensed vector or as a sparse matrix that stores its zeros."""
    if form == "condensed":
        return distances[np.triu_indices(len(distances), 1)].astype(np.float32)
    if form in ("float32", "float64"):
        return distances.astype(form)
    import scipy.sparse

    edges = np.isfinite(distances) & ~np.eye(len(distances), dtype=bool)
    matrix = scipy.sparse.coo_matrix((distances[edges], np.nonzero(edges)), shape=distances.shape)
    return matrix.asformat(form)


# --- what must hold


def bars_of(diagrams: Any, dim: int) -> oracles.Bars:
    """Finite bars as they are given, then the infinite ones."""
    finite = [(float(born), float(dies)) for born, dies in diagrams[dim]]
    return finite + [(float(born), np.inf) for born in diagrams.infinite[dim]]


def assert_bars(diagrams: Any, expected: list[oracles.Bars]) -> None:
    for dim, bars in enumerate(expected):
        assert diagrams[dim].dtype == np.float32
        assert diagrams[dim].shape == (len(diagrams[dim]), 2)
        found = bars_of(diagrams, dim)
        finite = found[: len(diagrams[dim])]
        assert finite == sorted(finite), f"H{dim} is not sorted: {finite}"
        assert sorted(found) == bars, f"H{dim}\n  found    {sorted(found)}\n  expected {bars}"


def lengths_of(distances: Array, simplices: Array) -> Array:
    """The longest edge of each simplex."""
    return distances[simplices[:, :, None], simplices[:, None, :]].max(axis=(1, 2), initial=0)


def assert_simplices(diagrams: Any, distances: Array, max_dim: int) -> None:
    """Simplices of distinct points, none in two bars, as long as births and deaths say; forests in H0."""
    for dim in range(max_dim + 1):
        for end, simplices in enumerate((diagrams.birth_simplices[dim], diagrams.death_simplices[dim])):
            assert simplices.dtype == np.int64
            assert simplices.shape == (len(diagrams[dim]), dim + 1 + end)
            sets = {frozenset(simplex) for simplex in simplices.tolist()}
            assert all(len(simplex) == dim + 1 + end for simplex in sets), f"H{dim}: {simplices.tolist()}"
            assert len(sets) == len(simplices), f"H{dim}: a simplex is in two bars: {simplices.tolist()}"
            lengths = lengths_of(distances, simplices)
            assert lengths.tolist() == diagrams[dim][:, end].tolist(), f"H{dim}: {simplices.tolist()}"
        bearers = diagrams.infinite_simplices[dim]
        assert bearers.shape == (len(diagrams.infinite[dim]), dim + 1)
        assert lengths_of(distances, bearers).tolist() == diagrams.infinite[dim].tolist()
        born = np.concatenate([diagrams.birth_simplices[dim], bearers])
        assert len(np.unique(np.sort(born, axis=1), axis=0)) == len(born), f"H{dim}: {born.tolist()}"
    for dim in range(max_dim):
        ends = {frozenset(simplex) for simplex in diagrams.death_simplices[dim].tolist()}
        both = [
            simplex for simplex in diagrams.birth_simplices[dim + 1].tolist() if frozenset(simplex) in ends
        ]
        assert not both, f"simplices that end a bar of H{dim} and begin one of H{dim + 1}: {both}"
    edges = [{int(u): 1, int(v): 1} for u, v in diagrams.death_simplices[0]]
    assert None not in oracles.pivots(edges, 2), f"the edges that end bars of H0 have a cycle: {edges}"


def cochain(
    simplices: Array, coefficients: Array, row: dict[tuple[int, ...], int], field: int
) -> oracles.Column:
    """Coefficients by the rows of the simplices, whose vertices are put in ascending order."""
    found: oracles.Column = {}
    for simplex, coefficient in zip(simplices.tolist(), coefficients.tolist(), strict=True):
        swaps = sum(a > b for a, b in itertools.combinations(simplex, 2))
        found[row[tuple(sorted(simplex))]] = coefficient * (-1) ** swaps % field
    assert len(found) == len(simplices), "a simplex is named twice"
    assert all(found.values()), "a coefficient is zero"
    return found


def coboundary_columns(
    faces: list[tuple[float, tuple[int, ...]]], row: dict[tuple[int, ...], int], field: int
) -> list[oracles.Column]:
    """One column per simplex of ``faces``: its coboundary in the simplices that ``row`` numbers."""
    columns: dict[tuple[int, ...], oracles.Column] = {simplex: {} for _, simplex in faces}
    for simplex, i in row.items():
        for sign, face in oracles.boundary(simplex):
            if face in columns:
                columns[face][i] = sign % field
    return list(columns.values())


def assert_cocycles(
    diagrams: Any, distances: Array, max_dim: int, field: int, threshold: float = np.inf
) -> None:
    """Cocycles while their bars last, and at every birth a basis of the cohomology together with the others.

    At the birth of a bar the complex has the cohomology that the bars alive there count; their cocycles,
    restricted to it, must be independent modulo coboundaries.
    """
    for dim in range(max_dim + 1):
        simplices = oracles.flag_simplices(distances, dim, threshold)
        row = {simplex: i for i, (_, simplex) in enumerate(simplices)}
        bars = bars_of(diagrams, dim)
        assert len(diagrams.cocycles[dim]) == len(bars)
        cochains = [cochain(*each, row, field) for each in diagrams.cocycles[dim]]
        cofaces = oracles.flag_simplices(distances, dim + 1, threshold)
        for (_, dies), values in zip(bars, cochains, strict=True):
            for length, simplex in cofaces:
                if length >= dies:
                    break
                total = sum(sign * values.get(row[face], 0) for sign, face in oracles.boundary(simplex))
                assert total % field == 0, f"H{dim}: not a cocycle at {simplex}, before {dies}"
        for scale in {born for born, _ in bars}:
            here = {simplex: i for simplex, i in row.items() if simplices[i][0] <= scale}
            inside = set(here.values())
            alive = [
                {i: value for i, value in values.items() if i in inside}
                for (born, dies), values in zip(bars, cochains, strict=True)
                if born <= scale < dies
            ]
            trivial = (
                coboundary_columns(oracles.flag_simplices(distances, dim - 1, scale), here, field)
                if dim
                else []
            )
            found = oracles.pivots(trivial + alive, field)
            assert None not in found[len(trivial) :], f"H{dim}: cocycles are dependent at {scale}"


def check(case: Case) -> None:
    """Raise unless every method gives what the oracle gives."""
    distances = distances_of(case)
    form, options = options_of(case, distances)
    threshold = np.inf if options["threshold"] is None else options["threshold"]
    expected = oracles.rips_bars(distances, case.max_dim, case.field, threshold)
    for method in METHODS:
        if method == "links" and case.max_dim > 2:
            continue
        represent = method != "links" and case.n <= 10 and case.seed % 4 == 0
        diagrams = rg.rips(
            as_form(distances, form), case.max_dim, method=method, representatives=represent, **options
        )
        try:
            assert_bars(diagrams, expected)
            assert_simplices(diagrams, distances, case.max_dim)
            if represent:
                assert_cocycles(diagrams, distances, case.max_dim, case.field, threshold)
        except AssertionError as error:
            raise AssertionError(f"method {method!r}: {error}") from None


# --- the script


def failure(case: Case) -> tuple[Case, str]:
    """What went wrong, empty if nothing did."""
    try:
        check(case)
    except Exception:
        return case, traceback.format_exc()
    return case, ""


def report(case: Case, problem: str) -> None:
    distances = distances_of(case)
    form, options = options_of(case, distances)
    print(f"\n{problem}\n{case}\n{form} {options}\nlower distances:")
    for i, line in enumerate(distances.tolist()):
        print("  ", line[:i])
    print(f"again: python tests/fuzz_homology.py --case '{case}'")


def outcomes(cases: Iterator[Case], jobs: int) -> Iterator[tuple[Case, str]]:
    if jobs == 1:
        yield from map(failure, cases)
        return
    with Pool(jobs) as pool:
        while batch := list(itertools.islice(cases, 64 * jobs)):
            yield from pool.imap(failure, batch, chunksize=16)


def until(cases: Iterator[Case], deadline: float, verbose: bool) -> Iterator[Case]:
    for case in cases:
        if time.monotonic() > deadline:
            return
        if verbose:
            print(case, flush=True)
        yield case


def parsed_case(text: str) -> Case:
    kind, *numbers = text.split(":")
    if kind not in KINDS or len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"kind:seed:n:field:max_dim with a kind of {', '.join(KINDS)}")
    return Case(kind, *map(int, numbers))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after so long, whatever is left")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default %(default)s)")
    parser.add_argument("--case", type=parsed_case, help="this one alone")
    parser.add_argument("--verbose", action="store_true", help="print every case before it runs (a crash)")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    drawn = (drawn_case(given.seed, number) for number in range(given.cases))
    cases = iter([given.case]) if given.case else drawn
    total = 1 if given.case else given.cases
    done = 0
    for case, problem in tqdm(
        outcomes(until(cases, deadline, given.verbose), given.jobs), total=total, unit=" cases"
    ):
        if problem:
            report(case, problem)
            return 1
        done += 1
    print(f"{done} cases, no mismatch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
