// The graph of a filtration as the implicit reducer asks about it: dense (a table of ranks) or sparse (sorted
// lists of neighbours). Both give the same answers.
#pragma once

#include <algorithm>
#include <bit>
#include <vector>

#include "homology_filtration.hpp"
#include "homology_reducer_rows.hpp"

namespace repgeom::reducer {

using Scratch = std::vector<vertex_t>;

class DenseGraph {
  public:
    DenseGraph(const Filtration& filtration, const RowKernels& kernels, const Watch& watch)
        : kernels_(&kernels),
          n_(filtration.n),
          stride_((filtration.n + row_width - 1) / row_width * row_width),
          ranks_(static_cast<std::size_t>(n_ * stride_), no_rank) {
        for (std::size_t e = 0; e < filtration.edges.size(); ++e) {
            if (e % 4096 == 0) watch.check();
            const Edge edge = filtration.edges[e];
            row(edge.u)[edge.v] = row(edge.v)[edge.u] = static_cast<rank_t>(e);
        }
    }

    static double bytes(const Filtration& filtration) {
        return static_cast<double>(filtration.n) * static_cast<double>(filtration.n) * sizeof(rank_t);
    }

    // Calls visit(vertex, rank, place) for the vertices joined to all `count` vertices, in ascending order,
    // where the largest of those edges, the one to vertices[place], has a rank in [from, end).
    template <typename Visit>
    void common(const vertex_t* vertices, int count, rank_t from, rank_t end, Scratch& scratch,
                const Visit& visit) const {
        const rank_t* rows[max_vertices];
        for (int i = 0; i < count; ++i) rows[i] = row(vertices[i]);
        if (static_cast<index_t>(scratch.size()) < stride_) scratch.resize(static_cast<std::size_t>(stride_));
        const index_t size = kernels_->common(rows, count, stride_, from, end, scratch.data());
        for (index_t i = 0; i < size; ++i) {
            const vertex_t vertex = scratch[i];
            int place = 0;
            for (int k = 1; k < count; ++k) place = rows[k][vertex] > rows[place][vertex] ? k : place;
            visit(vertex, rows[place][vertex], place);
        }
    }

    // Whether a vertex below `bound` is joined to all by edges below `end`.
    bool any_below(const vertex_t* vertices, int count, rank_t end, vertex_t bound) const {
        const rank_t* rows[max_vertices];
        for (int i = 0; i < count; ++i) rows[i] = row(vertices[i]);
        return kernels_->any(rows, count, bound, end);
    }

  private:
    rank_t* row(vertex_t v) { return ranks_.data() + static_cast<index_t>(v) * stride_; }
    const rank_t* row(vertex_t v) const { return ranks_.data() + static_cast<index_t>(v) * stride_; }

    const RowKernels* kernels_;
    index_t n_;
    index_t stride_;
    std::vector<rank_t> ranks_;
};

class SparseGraph {
  public:
    struct Entry {
        vertex_t vertex;
        rank_t rank;
    };

    SparseGraph(const Filtration& filtration, const Watch& watch)
        : starts_(static_cast<std::size_t>(filtration.n) + 1), entries_(2 * filtration.edges.size()) {
        for (const Edge edge : filtration.edges) ++starts_[edge.u + 1], ++starts_[edge.v + 1];
        for (std::size_t v = 1; v < starts_.size(); ++v) starts_[v] += starts_[v - 1];
        std::vector<index_t> ends(starts_.begin(), starts_.end() - 1);
        for (std::size_t e = 0; e < filtration.edges.size(); ++e) {
            if (e % 4096 == 0) watch.check();
            const Edge edge = filtration.edges[e];
            entries_[static_cast<std::size_t>(ends[edge.u]++)] = {edge.v, static_cast<rank_t>(e)};
            entries_[static_cast<std::size_t>(ends[edge.v]++)] = {edge.u, static_cast<rank_t>(e)};
        }
        for (std::size_t v = 0; v + 1 < starts_.size(); ++v) {
            watch.check();
            std::sort(entries_.begin() + starts_[v], entries_.begin() + starts_[v + 1],
                      [](const Entry& a, const Entry& b) { return a.vertex < b.vertex; });
        }
    }

    static double bytes(const Filtration& filtration) {
        return static_cast<double>(filtration.edges.size()) * 2 * sizeof(Entry) +
               static_cast<double>(filtration.n) * sizeof(index_t);
    }

    const Entry* begin(vertex_t v) const { return entries_.data() + starts_[v]; }
    const Entry* end(vertex_t v) const { return entries_.data() + starts_[v + 1]; }
    index_t degree(vertex_t v) const { return starts_[v + 1] - starts_[v]; }

    // The first entry from `first` on whose vertex is at least `vertex`: near ones are looked for one by one.
    static const Entry* seek(const Entry* first, const Entry* last, vertex_t vertex) {
        constexpr index_t near = 8;
        const Entry* const stop = last - first > near ? first + near : last;
        while (first != stop && first->vertex < vertex) ++first;
        if (first != stop || stop == last) return first;
        index_t step = near;
        while (last - first > step && first[step].vertex < vertex) first += step, step *= 2;
        return std::lower_bound(first, std::min(last, first + step + 1), vertex,
                                [](const Entry& entry, vertex_t v) { return entry.vertex < v; });
    }

    template <typename Visit>
    void common(const vertex_t* vertices, int count, rank_t from, rank_t end, Scratch&,
                const Visit& visit) const {
        walk(vertices, count, end, no_rank, [&](vertex_t vertex, rank_t rank, int place) {
            if (rank >= from) visit(vertex, rank, place);
            return true;
        });
    }

    bool any_below(const vertex_t* vertices, int count, rank_t end, vertex_t bound) const {
        bool any = false;
        walk(vertices, count, end, bound, [&](vertex_t, rank_t, int) {
            any = true;
            return false;
        });
        return any;
    }

  private:
    // Until visit() returns false.
    template <typename Visit>
    void walk(const vertex_t* vertices, int count, rank_t limit, vertex_t bound, const Visit& visit) const {
        const Entry* at[max_vertices];
        int least = 0;
        for (int i = 0; i < count; ++i) {
            at[i] = begin(vertices[i]);
            if (degree(vertices[i]) < degree(vertices[least])) least = i;
        }
        for (const Entry* entry = at[least]; entry != end(vertices[least]) && entry->vertex < bound;
             ++entry) {
            rank_t rank = entry->rank;
            int place = least;
            bool joined = entry->rank < limit;
            for (int i = 0; joined && i < count; ++i) {
                if (i == least) continue;
                const Entry* const last = end(vertices[i]);
                at[i] = seek(at[i], last, entry->vertex);
                if (at[i] == last) return;
                joined = at[i]->vertex == entry->vertex && at[i]->rank < limit;
                if (joined && at[i]->rank > rank) rank = at[i]->rank, place = i;
            }
            if (joined && !visit(entry->vertex, rank, place)) return;
        }
    }

    std::vector<index_t> starts_;
    std::vector<Entry> entries_;
};

}  // namespace repgeom::reducer
