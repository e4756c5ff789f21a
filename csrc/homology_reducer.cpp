#include "homology_reducer.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>

#include "homology_reducer_column.hpp"
#include "homology_reducer_links.hpp"

namespace repgeom {

namespace {

using namespace reducer;

constexpr index_t edges_per_task = 4096;

void check(const ReducerOptions& options) {
    const PrimeField field(options.field);  // refuses what is none
    require(options.min_dim == 1 || options.min_dim == 2, "min_dim must be 1 or 2", options.min_dim);
    require(options.min_dim == 1 || options.killers != nullptr,
            "with min_dim 2 the triangles that destroy loops must be given", "none");
}

// Bits of the key of a cofacet of dimension dim + 1.
int bits_needed(const Filtration& filtration, int dim) {
    return bits_below(static_cast<index_t>(filtration.edges.size())) + dim * bits_below(filtration.n);
}

// Whether each edge joins two components.
std::vector<bool> spanning_tree(const Filtration& filtration) {
    std::vector<vertex_t> parents(static_cast<std::size_t>(filtration.n));
    std::iota(parents.begin(), parents.end(), vertex_t{0});
    const auto root = [&](vertex_t v) {
        while (parents[v] != v) v = parents[v] = parents[parents[v]];
        return v;
    };
    std::vector<bool> tree(filtration.edges.size());
    for (std::size_t e = 0; e < tree.size(); ++e) {
        const vertex_t u = root(filtration.edges[e].u), v = root(filtration.edges[e].v);
        tree[e] = u != v;
        parents[u] = v;
    }
    return tree;
}

struct Work {
    const Filtration& filtration;
    const ReducerOptions& options;
    ThreadTeam& team;
    Watch& watch;
    PrimeField field;
    int last_dim;  // above it nothing is born
};

template <typename Graph>
struct LinksOf;
template <>
struct LinksOf<DenseGraph> {
    using type = DenseLinks;
};
template <>
struct LinksOf<SparseGraph> {
    using type = SparseLinks;
};

// Simplices of dimension `dim` whose coboundaries have to be reduced, in ascending order.
template <typename Key, typename Graph, typename Cleared>
std::vector<Key> find_columns(const Work& work, const Graph& graph, int dim, const Cleared& cleared) {
    using Links = typename LinksOf<Graph>::type;
    const index_t edges = static_cast<index_t>(work.filtration.edges.size());
    const index_t tasks = (edges + edges_per_task - 1) / edges_per_task;
    const Keys<Key> keys(work.filtration, dim - 1);
    std::vector<std::vector<Key>> found(static_cast<std::size_t>(tasks));
    std::vector<std::unique_ptr<Links>> links(static_cast<std::size_t>(work.team.size()));
    work.team.run(tasks, [&](index_t task, int thread) {
        if (!links[thread]) links[thread] = std::make_unique<Links>(work.filtration, graph);
        ColumnSearch<Links> search(*links[thread], dim - 1, work.watch);
        const index_t end = std::min(edges, (task + 1) * edges_per_task);
        for (index_t e = task * edges_per_task; e < end; ++e) {
            work.watch.check();
            const rank_t edge = static_cast<rank_t>(e);
            search.search(edge, [&](const vertex_t* rest) {
                const Key key = keys.key(edge, rest);
                if (!cleared(key)) found[task].push_back(key);
            });
        }
    });
    std::vector<Key> all;
    for (auto& some : found) {
        all.insert(all.end(), some.begin(), some.end());
        std::vector<Key>().swap(some);
    }
    return all;
}

template <typename Key>
void write_vertices(const Keys<Key>& keys, Key key, std::vector<vertex_t>& out) {
    const Simplex simplex = keys.simplex(key);
    out.insert(out.end(), simplex.vertices, simplex.vertices + simplex.count);
}

template <typename Reducer>
void write_bars(const Reducer& reducer, int dim, Reduced& reduced, bool representatives) {
    Bars bars;
    bars.dim = dim;
    Cocycles cocycles;
    cocycles.starts.push_back(0);
    for (auto column = reducer.columns().rbegin(); column != reducer.columns().rend(); ++column) {
        const rank_t birth = reducer.simplices().edge(column->birth);
        const rank_t death = column->lives ? no_rank : reducer.cofacets().edge(column->death);
        if (birth == death) continue;
        bars.births.push_back(birth);
        bars.deaths.push_back(death);
        write_vertices(reducer.simplices(), column->birth, bars.birth_simplices);
        if (column->lives)
            bars.death_simplices.resize(bars.death_simplices.size() + static_cast<std::size_t>(dim) + 2,
                                        no_rank);
        else
            write_vertices(reducer.cofacets(), column->death, bars.death_simplices);
        if (!representatives) continue;
        const auto* const terms = reducer.cochain(*column);
        for (index_t i = 0; i < column->end - column->start; ++i) {
            if (reducer.simplices().edge(terms[i].key) >= death) continue;
            write_vertices(reducer.simplices(), terms[i].key, cocycles.simplices);
            cocycles.coefficients.push_back(static_cast<std::uint8_t>(terms[i].value));
        }
        cocycles.starts.push_back(static_cast<index_t>(cocycles.coefficients.size()));
    }
    reduced.bars.push_back(std::move(bars));
    if (representatives) reduced.cocycles.push_back(std::move(cocycles));
}

template <typename Key>
PivotTable<Key> table_of(const Filtration& filtration, const std::vector<RootTriangle>& killers) {
    const Keys<Key> keys(filtration, 1);
    PivotTable<Key> table;
    for (const RootTriangle& killer : killers) table.insert(keys.key(killer.edge, &killer.root), 0);
    return table;
}

template <typename Key, bool binary, typename Graph>
void reduce_dimensions(const Work& work, const Graph& graph, Reduced& reduced) {
    using Reducer = ColumnReducer<Key, binary, Graph>;
    PivotTable<Key> pivots;
    if (work.options.min_dim == 2) pivots = table_of<Key>(work.filtration, *work.options.killers);
    for (int dim = work.options.min_dim; dim <= work.last_dim; ++dim) {
        std::vector<Key> columns;
        if (dim == 1) {
            const std::vector<bool> tree = spanning_tree(work.filtration);
            columns = find_columns<Key>(work, graph, dim, [&](Key edge) { return bool{tree[edge]}; });
        } else {
            columns = find_columns<Key>(work, graph, dim,
                                        [&](Key key) { return pivots.find(key) != PivotTable<Key>::none; });
        }
        Reducer reducer(work.filtration, graph, work.field, dim, work.watch);
        for (std::size_t left = columns.size(); left > 0; --left) {
            reducer.reduce(columns[left - 1]);
            const double share = 1 - static_cast<double>(left - 1) / static_cast<double>(columns.size());
            work.watch.report((dim - work.options.min_dim + share) /
                              (work.last_dim - work.options.min_dim + 1));
        }
        write_bars(reducer, dim, reduced, work.options.representatives);
        pivots = reducer.take_pivots();
    }
}

template <typename Graph>
void reduce_graph(const Work& work, const Graph& graph, Reduced& reduced) {
    const bool wide = bits_needed(work.filtration, work.last_dim) > 64;
    if (work.options.field == 2)
        wide ? reduce_dimensions<wide_t, true>(work, graph, reduced)
             : reduce_dimensions<std::uint64_t, true>(work, graph, reduced);
    else
        wide ? reduce_dimensions<wide_t, false>(work, graph, reduced)
             : reduce_dimensions<std::uint64_t, false>(work, graph, reduced);
}

bool dense(const Filtration& filtration, GraphLayout layout) {
    if (layout != GraphLayout::automatic) return layout == GraphLayout::dense;
    constexpr double little = 64e6;
    return DenseGraph::bytes(filtration) <= std::max(little, 4 * SparseGraph::bytes(filtration));
}

}  // namespace

Reduced reduce_implicit(const Filtration& filtration, const ReducerOptions& options, ThreadTeam& team,
                        Watch& watch) {
    check(options);
    Reduced reduced;
    const int last_dim = static_cast<int>(std::min<index_t>(options.max_dim, filtration.n - 2));
    if (last_dim >= options.min_dim && !filtration.edges.empty()) {
        int possible = last_dim;
        while (bits_needed(filtration, possible) > 128) --possible;
        require(possible == last_dim,
                "the name of a simplex has 128 bits: with " + std::to_string(filtration.n) + " points and " +
                    std::to_string(filtration.edges.size()) + " edges max_dim must be at most " +
                    std::to_string(possible),
                last_dim);
        const Work work{filtration, options, team, watch, PrimeField(options.field), last_dim};
        if (dense(filtration, options.layout))
            reduce_graph(work, DenseGraph(filtration, row_kernels(options.kernels), watch), reduced);
        else
            reduce_graph(work, SparseGraph(filtration, watch), reduced);
    }
    for (int dim = options.min_dim + static_cast<int>(reduced.bars.size()); dim <= options.max_dim; ++dim) {
        reduced.bars.emplace_back().dim = dim;
        if (options.representatives) reduced.cocycles.emplace_back().starts.push_back(0);
    }
    watch.report(1);
    return reduced;
}

}  // namespace repgeom
