// The implicit reducer against plain reduction of the boundary matrix, at the level of pairs of edges.
#include "homology_reducer.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "cpu_dispatch.hpp"
#include "homology_links.hpp"
#include "homology_reducer_reference.hpp"
#include "homology_surfaces.hpp"

using namespace repgeom;
using namespace repgeom::test;

namespace {

Pairs pairs_of(const Bars& bars) {
    Pairs pairs;
    for (std::size_t i = 0; i < bars.births.size(); ++i) pairs.insert({bars.births[i], bars.deaths[i]});
    return pairs;
}

Vertices simplex_of(const std::vector<vertex_t>& all, std::size_t which, int count) {
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(which) * count;
    return Vertices(first, first + count);
}

bool decreasing(const Vertices& vertices) {
    return std::is_sorted(vertices.rbegin(), vertices.rend()) &&
           std::adjacent_find(vertices.begin(), vertices.end()) == vertices.end();
}

void simplices_have_the_ranks_of_bars(const Bars& bars, const Complex& complex) {
    CHECK(bars.birth_simplices.size() == bars.births.size() * (bars.dim + 1));
    CHECK(bars.death_simplices.size() == bars.deaths.size() * (bars.dim + 2));
    for (std::size_t i = 0; i < bars.births.size(); ++i) {
        const Vertices birth = simplex_of(bars.birth_simplices, i, bars.dim + 1);
        CHECK(decreasing(birth) && complex.rank(birth) == bars.births[i]);
        if (bars.deaths[i] == no_rank) continue;
        const Vertices death = simplex_of(bars.death_simplices, i, bars.dim + 2);
        CHECK(decreasing(death) && complex.rank(death) == bars.deaths[i]);
    }
}

int coboundary_at(const std::map<Vertices, int>& cochain, const Vertices& simplex, int p) {
    int sum = 0;
    for (std::size_t i = 0; i < simplex.size(); ++i) {
        Vertices facet = simplex;
        facet.erase(facet.begin() + static_cast<std::ptrdiff_t>(i));
        const auto found = cochain.find(facet);
        if (found != cochain.end()) sum += i % 2 == 0 ? found->second : p - found->second;
    }
    return sum % p;
}

Vertices rest_of(Vertices simplex, const Edge& edge) {
    std::erase_if(simplex, [&](vertex_t v) { return v == edge.u || v == edge.v; });
    return simplex;
}

// The cochain is a cocycle before the death, and has no simplex older than that of the birth: its class is
// not zero on the cycle that appears there.
void cocycles_represent_bars(const Filtration& filtration, const Bars& bars, const Cocycles& cocycles,
                             const Complex& complex, int p) {
    CHECK(cocycles.starts.size() == bars.births.size() + 1);
    for (std::size_t i = 0; i < bars.births.size(); ++i) {
        std::map<Vertices, int> cochain;
        const Vertices birth = simplex_of(bars.birth_simplices, i, bars.dim + 1);
        const Edge edge = filtration.edges[bars.births[i]];
        for (index_t k = cocycles.starts[i]; k < cocycles.starts[i + 1]; ++k) {
            const Vertices simplex =
                simplex_of(cocycles.simplices, static_cast<std::size_t>(k), bars.dim + 1);
            const int value = cocycles.coefficients[static_cast<std::size_t>(k)];
            CHECK(decreasing(simplex) && value > 0 && value < p && cochain.count(simplex) == 0);
            const rank_t rank = complex.rank(simplex);
            CHECK(rank >= bars.births[i] && rank < bars.deaths[i]);
            CHECK(rank > bars.births[i] || rest_of(simplex, edge) >= rest_of(birth, edge));
            cochain[simplex] = value;
        }
        CHECK(cochain.count(birth) == 1);
        for (const Vertices& simplex : complex.simplices(bars.dim + 1))
            if (complex.rank(simplex) < bars.deaths[i]) CHECK(coboundary_at(cochain, simplex, p) == 0);
    }
}

bool same(const Reduced& a, const Reduced& b) {
    bool equal = a.bars.size() == b.bars.size() && a.cocycles.size() == b.cocycles.size();
    for (std::size_t i = 0; equal && i < a.bars.size(); ++i)
        equal = a.bars[i].dim == b.bars[i].dim && a.bars[i].births == b.bars[i].births &&
                a.bars[i].deaths == b.bars[i].deaths &&
                a.bars[i].birth_simplices == b.bars[i].birth_simplices &&
                a.bars[i].death_simplices == b.bars[i].death_simplices;
    for (std::size_t i = 0; equal && i < a.cocycles.size(); ++i)
        equal = a.cocycles[i].starts == b.cocycles[i].starts &&
                a.cocycles[i].simplices == b.cocycles[i].simplices &&
                a.cocycles[i].coefficients == b.cocycles[i].coefficients;
    return equal;
}

Reduced reduce(const Filtration& filtration, const ReducerOptions& options, int threads = 1) {
    ThreadTeam team(threads);
    Watch watch;
    return reduce_implicit(filtration, options, team, watch);
}

std::vector<RootTriangle> killers_of(const Filtration& filtration, const Bars& loops) {
    std::vector<RootTriangle> killers;
    for (std::size_t i = 0; i < loops.deaths.size(); ++i) {
        if (loops.deaths[i] == no_rank) continue;
        const Edge edge = filtration.edges[loops.deaths[i]];
        for (const vertex_t v : simplex_of(loops.death_simplices, i, 3))
            if (v != edge.u && v != edge.v) killers.push_back({loops.deaths[i], v});
    }
    return killers;
}

void agrees(const Filtration& filtration, int max_dim, int p) {
    const std::vector<Pairs> expected = reference(filtration, max_dim, p);
    ReducerOptions options;
    options.field = p;
    options.max_dim = max_dim;
    options.representatives = true;
    options.layout = GraphLayout::dense;
    const Reduced dense = reduce(filtration, options);
    CHECK(dense.bars.size() == static_cast<std::size_t>(max_dim));
    const Complex complex(filtration, max_dim + 1);
    for (int dim = 1; dim <= max_dim; ++dim) {
        const std::size_t at = static_cast<std::size_t>(dim) - 1;
        CHECK(dense.bars[at].dim == dim);
        CHECK(pairs_of(dense.bars[at]) == expected[static_cast<std::size_t>(dim)]);
        CHECK(std::is_sorted(dense.bars[at].births.begin(), dense.bars[at].births.end()));
        simplices_have_the_ranks_of_bars(dense.bars[at], complex);
        cocycles_represent_bars(filtration, dense.bars[at], dense.cocycles[at], complex, p);
    }
    options.layout = GraphLayout::sparse;
    CHECK(same(dense, reduce(filtration, options)));
    if (max_dim < 2) return;
    const std::vector<RootTriangle> killers = killers_of(filtration, dense.bars[0]);
    options.min_dim = 2;
    options.killers = &killers;
    Reduced above = reduce(filtration, options);
    above.bars.insert(above.bars.begin(), dense.bars[0]);
    above.cocycles.insert(above.cocycles.begin(), dense.cocycles[0]);
    CHECK(same(dense, above));
}

Matrix random_case(Dice& dice, index_t kind, index_t n) {
    switch (kind) {
        case 0:
            return euclidean(dice, n, 1 + dice(4), 0);
        case 1:
            return euclidean(dice, n, 1 + dice(4), 3);
        case 2:
            return weights(dice, n, 1 << 20);
        case 3:
            return weights(dice, n, 1 + dice(5));
        case 4:
            return circulant(dice, n);
        case 5:
            return euclidean(dice, n, 2, 2);  // mostly copies
        default:
            break;
    }
    Matrix graph = weights(dice, n, 6);
    for (float& value : graph.values)
        if (value > 4) value = absent;
    return graph;
}

void random_cases_agree(std::uint64_t first, std::uint64_t count) {
    const int primes[] = {2, 3, 5, 251};
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        Dice dice{seed * 0x9E3779B97F4A7C15U};
        const int max_dim = 1 + static_cast<int>(dice(4));
        const Matrix matrix =
            random_case(dice, static_cast<index_t>(seed % 7), 3 + dice(max_dim > 2 ? 8 : 12));
        std::vector<float> lengths = matrix.values;
        std::sort(lengths.begin(), lengths.end());
        const float threshold = dice(3) == 0 ? lengths[lengths.size() * 4 / 5] : absent;
        const int before = failures();
        agrees(filtration_of(matrix, threshold), max_dim, primes[dice(4)]);
        if (failures() > before) std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    }
}

// k pairs of opposite points: a sphere of dimension k - 1, from the first length to the second.
void cross_polytopes_are_spheres() {
    for (index_t pairs = 2; pairs <= 6; ++pairs) {
        const Filtration filtration = filtration_of(cross_polytope(pairs), absent);
        const rank_t first_diagonal = static_cast<rank_t>(filtration.edges.size() - pairs);
        for (const int p : {2, 3}) {
            ReducerOptions options;
            options.field = p;
            options.max_dim = static_cast<int>(pairs);
            const Reduced reduced = reduce(filtration, options);
            for (const Bars& bars : reduced.bars) {
                index_t long_bars = 0;
                for (std::size_t i = 0; i < bars.births.size(); ++i) {
                    if (filtration.lengths[bars.births[i]] == filtration.lengths[bars.deaths[i]]) continue;
                    ++long_bars;
                    CHECK(bars.deaths[i] == first_diagonal);
                }
                CHECK(long_bars == (bars.dim == pairs - 1 ? 1 : 0));
            }
        }
        for (const int p : {2, 5})
            if (pairs <= 5) agrees(filtration, static_cast<int>(std::min<index_t>(pairs, 4)), p);
    }
}

// Far apart copies of cross-polytopes among isolated vertices: keys of more than 64 bits.
void wide_keys_hold_large_simplices() {
    constexpr index_t pairs = 7, n = 3000;
    Filtration filtration;
    filtration.n = n;
    for (index_t i = 0; i < n; ++i) filtration.names.push_back(static_cast<vertex_t>(i));
    for (index_t i = 0; i < 2 * pairs; ++i)
        for (index_t j = 0; j < i; ++j)
            if (i / 2 != j / 2)
                filtration.edges.push_back(
                    {static_cast<vertex_t>(200 * i + 7), static_cast<vertex_t>(200 * j + 7)});
    filtration.lengths.assign(filtration.edges.size(), 1);
    for (const GraphLayout layout : {GraphLayout::dense, GraphLayout::sparse}) {
        for (const int p : {2, 7}) {
            ReducerOptions options;
            options.field = p;
            options.max_dim = static_cast<int>(pairs);
            options.layout = layout;
            options.representatives = true;
            const Reduced reduced = reduce(filtration, options);
            for (const Bars& bars : reduced.bars) {
                const index_t alive = std::count(bars.deaths.begin(), bars.deaths.end(), no_rank);
                CHECK(alive == (bars.dim == pairs - 1 ? 1 : 0));
            }
            const Cocycles& cocycle = reduced.cocycles[pairs - 2];
            CHECK(cocycle.simplices.size() == cocycle.coefficients.size() * pairs);
        }
    }
}

void threads_and_instruction_sets_do_not_matter() {
    Dice dice{17};
    for (const int p : {2, 3}) {
        const Filtration filtration = filtration_of(euclidean(dice, 150, 3, p == 2 ? 0 : 8), absent);
        ReducerOptions options;
        options.field = p;
        options.max_dim = 2;
        options.representatives = true;
        const Reduced expected = reduce(filtration, options);
        for (const int threads : {2, 5}) CHECK(same(expected, reduce(filtration, options, threads)));
        for (const KernelTable* kernels : available_kernels()) {
            options.kernels = kernels;
            CHECK(same(expected, reduce(filtration, options)));
        }
        options.layout = GraphLayout::sparse;
        CHECK(same(expected, reduce(filtration, options, 2)));
    }
}

// On clouds that are too large for the plain reduction.
void links_and_surfaces_agree() {
    Dice dice{29};
    for (const int p : {2, 3, 251}) {
        for (index_t kind = 0; kind < 7; ++kind) {
            const Filtration filtration = filtration_of(random_case(dice, kind, 40), absent);
            ThreadTeam team(2);
            Watch watch;
            LinkOptions links;
            links.field = p;
            links.surfaces = true;
            links.kernels = available_kernels().back();
            const LinkResult low = reduce_links(filtration, links, team, watch);
            SurfaceOptions surfaces;
            surfaces.field = p;
            surfaces.kernels = available_kernels().back();
            const Bars voids = reduce_surfaces(filtration, low.candidates, surfaces, watch);
            ReducerOptions options;
            options.field = p;
            options.max_dim = 2;
            const Reduced reduced = reduce(filtration, options);
            CHECK(pairs_of(low.loops) == pairs_of(reduced.bars[0]));
            CHECK(pairs_of(voids) == pairs_of(reduced.bars[1]));
            options.min_dim = 2;
            options.max_dim = 3;
            options.killers = &low.killers;
            const Reduced above = reduce(filtration, options);
            CHECK(pairs_of(above.bars[0]) == pairs_of(reduced.bars[1]));
            options.min_dim = 1;
            CHECK(pairs_of(above.bars[1]) == pairs_of(reduce(filtration, options).bars[2]));
        }
    }
}

void small_and_empty_inputs_have_no_bars() {
    for (index_t n = 0; n <= 3; ++n) {
        for (const float length : {1.0F, absent}) {
            Matrix matrix(n);
            std::fill(matrix.values.begin(), matrix.values.end(), length);
            ReducerOptions options;
            options.max_dim = 3;
            options.representatives = true;
            const Reduced reduced = reduce(filtration_of(matrix, absent), options);
            CHECK(reduced.bars.size() == 3 && reduced.cocycles.size() == 3);
            for (const Bars& bars : reduced.bars) CHECK(bars.births.empty());
        }
    }
}

void is_refused(const Filtration& filtration, const ReducerOptions& options, const std::string& rule) {
    bool refused = false;
    try {
        reduce(filtration, options);
    } catch (const std::invalid_argument& error) {
        refused = std::string(error.what()).find(rule) != std::string::npos;
    }
    CHECK(refused);
}

void bad_options_are_refused() {
    Dice dice{3};
    const Filtration filtration = filtration_of(euclidean(dice, 40, 3, 0), absent);
    ReducerOptions options;
    for (const int field : {-3, 0, 1, 4, 253, 257}) {
        options.field = field;
        is_refused(filtration, options, "coefficients must be a prime up to 251");
    }
    options.field = 2;
    for (const int dim : {0, 3}) {
        options.min_dim = dim;
        is_refused(filtration, options, "min_dim must be 1 or 2");
    }
    options.min_dim = 2;
    is_refused(filtration, options, "triangles that destroy loops");
    options.min_dim = 1;
    options.max_dim = 30;
    is_refused(filtration, options, "the name of a simplex has 128 bits");
}

void stops_when_told_to() {
    Dice dice{5};
    const Filtration filtration = filtration_of(euclidean(dice, 30, 3, 0), absent);
    ThreadTeam team(2);
    Watch watch;
    watch.stop = true;
    bool stopped = false;
    try {
        reduce_implicit(filtration, {}, team, watch);
    } catch (const Stopped&) {
        stopped = true;
    }
    CHECK(stopped);
}

}  // namespace

// Arguments: the first seed and the number of random cases.
int main(int count, char** arguments) {
    const std::uint64_t first = count > 2 ? std::stoull(arguments[1]) : 0;
    random_cases_agree(first, count > 2 ? std::stoull(arguments[2]) : 400);
    cross_polytopes_are_spheres();
    wide_keys_hold_large_simplices();
    threads_and_instruction_sets_do_not_matter();
    links_and_surfaces_agree();
    small_and_empty_inputs_have_no_bars();
    bad_options_are_refused();
    stops_when_told_to();
    return failures() != 0;
}
