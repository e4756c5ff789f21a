// The link of an edge in the complex of the smaller edges, as bitsets, for one edge after the other.
#pragma once

#include <algorithm>
#include <bit>
#include <vector>

#include "homology_reducer_graph.hpp"

namespace repgeom::reducer {

using word_t = std::uint64_t;

inline index_t words_for(index_t bits) { return (bits + 63) / 64; }

// Bit w of row v: v and w are joined by an edge of a smaller rank. Edges may be opened in any order; in
// ascending order it is cheap.
class DenseLinks {
  public:
    DenseLinks(const Filtration& filtration, const DenseGraph&)
        : edges_(filtration.edges),
          words_(words_for(filtration.n)),
          rows_(static_cast<std::size_t>(filtration.n * words_)),
          members_(static_cast<std::size_t>(words_)) {}

    // Whether the link has a vertex.
    bool open(rank_t edge) {
        while (now_ < edge) flip(edges_[now_++]);
        while (now_ > edge) flip(edges_[--now_]);
        const word_t* const u = row(edges_[edge].u);
        const word_t* const v = row(edges_[edge].v);
        word_t any = 0;
        for (index_t i = 0; i < words_; ++i) any |= members_[i] = u[i] & v[i];
        return any != 0;
    }

    bool any(rank_t edge) { return open(edge); }

    index_t words() const { return words_; }
    const word_t* members() const { return members_.data(); }
    const word_t* row(index_t member) const { return rows_.data() + member * words_; }
    vertex_t name(index_t member) const { return static_cast<vertex_t>(member); }

  private:
    void flip(const Edge& edge) {
        rows_[edge.u * words_ + (edge.v >> 6)] ^= word_t{1} << (edge.v & 63);
        rows_[edge.v * words_ + (edge.u >> 6)] ^= word_t{1} << (edge.u & 63);
    }

    const std::vector<Edge>& edges_;
    index_t words_;
    rank_t now_ = 0;  // edges below it are in the rows
    std::vector<word_t> rows_;
    std::vector<word_t> members_;
};

// The same for sparse graphs, with bits for the vertices of the link alone; rows are made when asked for.
class SparseLinks {
  public:
    SparseLinks(const Filtration& filtration, const SparseGraph& graph)
        : edges_(filtration.edges), graph_(graph) {}

    bool open(rank_t edge) {
        edge_ = edge;
        const vertex_t ends[2] = {edges_[edge].u, edges_[edge].v};
        found_.clear();
        graph_.common(ends, 2, 0, edge, found_, [&](vertex_t v, rank_t, int) { found_.push_back(v); });
        const index_t size = static_cast<index_t>(found_.size());
        words_ = words_for(size);
        members_.assign(static_cast<std::size_t>(words_), ~word_t{0});
        if (size % 64 != 0) members_.back() = (word_t{1} << size % 64) - 1;
        made_.assign(static_cast<std::size_t>(size), no_rank);
        rows_.clear();
        return size != 0;
    }

    // The same answer without the link.
    bool any(rank_t edge) const {
        const vertex_t ends[2] = {edges_[edge].u, edges_[edge].v};
        return graph_.any_below(ends, 2, edge, no_rank);
    }

    index_t words() const { return words_; }
    const word_t* members() const { return members_.data(); }
    vertex_t name(index_t member) const { return found_[member]; }

    // Stays where it is until other rows are asked for.
    const word_t* row(index_t member) {
        if (made_[member] == no_rank) make(member);
        return rows_.data() + static_cast<index_t>(made_[member]) * words_;
    }

  private:
    void make(index_t member) {
        made_[member] = words_ == 0 ? 0 : static_cast<rank_t>(rows_.size() / words_);
        rows_.resize(rows_.size() + words_, 0);
        word_t* const bits = rows_.data() + rows_.size() - words_;
        const SparseGraph::Entry* at = graph_.begin(name(member));
        const SparseGraph::Entry* const last = graph_.end(name(member));
        for (std::size_t i = 0; i < found_.size(); ++i) {
            at = SparseGraph::seek(at, last, found_[i]);
            if (at == last) return;
            if (at->vertex == found_[i] && at->rank < edge_) bits[i >> 6] |= word_t{1} << (i & 63);
        }
    }

    const std::vector<Edge>& edges_;
    const SparseGraph& graph_;
    rank_t edge_ = 0;
    index_t words_ = 0;
    std::vector<vertex_t> found_;
    std::vector<word_t> members_;
    std::vector<rank_t> made_;  // which row is the member's
    std::vector<word_t> rows_;
};

// Finds the simplices of one dimension that are neither the facet nor the cofacet of an apparent pair.
//
// With the largest edge and all vertices of the rest but its smallest given, N the vertices of the link that
// are joined to them: the smallest of N belongs to an apparent cofacet; of the others, those have an apparent
// cofacet that are joined to a smaller vertex of N.
template <typename Links>
class ColumnSearch {
  public:
    ColumnSearch(Links& links, int rest, const Watch& watch)
        : links_(links), rest_(rest), watch_(watch), sets_(static_cast<std::size_t>(rest)) {}

    // Calls found(vertices of the rest, decreasing) for those of an edge, in ascending order.
    template <typename Found>
    void search(rank_t edge, const Found& found) {
        if (rest_ == 0) {
            if (!links_.any(edge)) found(vertices_);
            return;
        }
        if (!links_.open(edge)) return;
        for (auto& set : sets_) set.resize(static_cast<std::size_t>(links_.words()));
        std::copy_n(links_.members(), links_.words(), sets_[0].begin());
        descend(0, links_.words() * 64, found);
    }

  private:
    // sets_[depth] holds the common neighbours of the first `depth` vertices; the next is below `bound`.
    template <typename Found>
    void descend(int depth, index_t bound, const Found& found) {
        watch_.check();
        if (depth == rest_ - 1) return minima(bound, found);
        const std::vector<word_t>& set = sets_[depth];
        std::vector<word_t>& next = sets_[depth + 1];
        for (index_t at = 0; at < words_for(bound); ++at) {
            for (word_t left = below(set[at], at, bound); left != 0; left &= left - 1) {
                const index_t vertex = at * 64 + std::countr_zero(left);
                const word_t* const row = links_.row(vertex);
                for (index_t i = 0; i <= at; ++i) next[i] = set[i] & row[i];
                vertices_[depth] = links_.name(vertex);
                descend(depth + 1, vertex, found);
            }
        }
    }

    template <typename Found>
    void minima(index_t bound, const Found& found) {
        const std::vector<word_t>& set = sets_[rest_ - 1];
        const index_t words = words_for(bound);
        index_t at = 0;
        while (at < words && set[at] == 0) ++at;
        if (at == words || below(set[at], at, bound) == 0) return;
        index_t vertex = at * 64 + std::countr_zero(set[at]);
        left_.resize(set.size());
        std::copy(set.begin() + at, set.begin() + words, left_.begin() + at);
        left_[words - 1] = below(left_[words - 1], words - 1, bound);
        left_[at] &= left_[at] - 1;
        for (bool first = true;; first = false) {
            const word_t* const row = links_.row(vertex);
            if (!first && !joined_below(set, row, vertex)) {
                vertices_[rest_ - 1] = links_.name(vertex);
                found(vertices_);
            }
            for (index_t i = at; i < words; ++i) left_[i] &= ~row[i];
            while (at < words && left_[at] == 0) ++at;
            if (at == words) return;
            vertex = at * 64 + std::countr_zero(left_[at]);
            left_[at] &= left_[at] - 1;
        }
    }

    static bool joined_below(const std::vector<word_t>& set, const word_t* row, index_t bound) {
        const index_t last = bound >> 6;
        for (index_t i = 0; i < last; ++i)
            if ((set[i] & row[i]) != 0) return true;
        return below(set[last] & row[last], last, bound) != 0;
    }

    static word_t below(word_t word, index_t at, index_t bound) {
        return bound - at * 64 >= 64 ? word : word & ((word_t{1} << (bound - at * 64)) - 1);
    }

    Links& links_;
    int rest_;
    const Watch& watch_;
    std::vector<std::vector<word_t>> sets_;
    std::vector<word_t> left_;
    vertex_t vertices_[max_vertices] = {};
};

}  // namespace repgeom::reducer
