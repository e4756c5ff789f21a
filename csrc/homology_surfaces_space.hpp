// What the reduction of surfaces reads: the table of ranks, and spanning forests of the links of edges.
#pragma once

#include <algorithm>
#include <vector>

#include "homology_surfaces_kernels.hpp"

namespace repgeom {

inline index_t round_up(index_t value, index_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// Words in cache lines.
class Bits {
  public:
    void assign(index_t words) { lines_.assign(static_cast<std::size_t>(words / words_per_line), {}); }
    void reserve(index_t words) { lines_.reserve(static_cast<std::size_t>(words / words_per_line)); }
    void grow(index_t words) { lines_.resize(static_cast<std::size_t>(words / words_per_line)); }
    word_t* data() { return reinterpret_cast<word_t*>(lines_.data()); }
    const word_t* data() const { return reinterpret_cast<const word_t*>(lines_.data()); }

  private:
    struct alignas(64) Line {
        word_t words[words_per_line];
    };
    std::vector<Line> lines_;
};

inline bool bit_of(const word_t* bits, index_t i) { return (bits[i >> 6] >> (i & 63)) & 1; }
inline void set_bit(word_t* bits, index_t i) { bits[i >> 6] |= word_t{1} << (i & 63); }
inline void flip_bit(word_t* bits, index_t i) { bits[i >> 6] ^= word_t{1} << (i & 63); }

template <typename Visit>
void each_bit(const word_t* bits, index_t words, Visit&& visit) {
    for (index_t t = 0; t < words; ++t)
        for (word_t rest = bits[t]; rest; rest &= rest - 1)
            visit(static_cast<vertex_t>(t * 64 + __builtin_ctzll(rest)));
}

// Where every pair of vertices is in the order of edges; `no_rank` for no edge.
class RankTable {
  public:
    RankTable(const Filtration& filtration, const Watch& watch)
        : stride_(round_up(filtration.n, 64)),
          lines_(static_cast<std::size_t>(filtration.n * stride_ / ranks_per_line)) {
        std::fill_n(row(0), filtration.n * stride_, no_rank);
        for (std::size_t k = 0; k < filtration.edges.size(); ++k) {
            if (k % 65536 == 0) watch.check();
            const Edge& edge = filtration.edges[k];
            row(edge.u)[edge.v] = row(edge.v)[edge.u] = static_cast<rank_t>(k);
        }
    }

    index_t stride() const { return stride_; }
    const rank_t* row(index_t vertex) const {
        return reinterpret_cast<const rank_t*>(lines_.data()) + vertex * stride_;
    }

  private:
    rank_t* row(index_t vertex) { return reinterpret_cast<rank_t*>(lines_.data()) + vertex * stride_; }

    struct alignas(64) Line {
        rank_t ranks[ranks_per_line];
    };
    index_t stride_;
    std::vector<Line> lines_;
};

// The spanning forest of a link: its roots are the least vertices of their components, and the least vertex
// that is reached reaches its neighbours next. Parents come before their children.
struct Forest {
    static constexpr std::uint16_t none = 0xffff;

    std::vector<std::uint16_t> order;
    std::vector<std::uint16_t> parents;  // by vertex; none for roots and for vertices outside
};

// Forests of the edges seen lately.
class Forests {
  public:
    Forests(const Filtration& filtration, const RankTable& ranks, const SurfaceKernels& kernels)
        : filtration_(filtration),
          ranks_(ranks),
          kernels_(kernels),
          words_(ranks.stride() / 64),
          slots_(filtration.edges.size(), 0) {
        for (auto* bits : {&rest_, &open_, &row_}) bits->assign(static_cast<std::size_t>(words_), 0);
    }

    // Valid until the next call.
    const Forest& of(rank_t edge) {
        if (slots_[edge] != 0) return forests_[slots_[edge] - 1];
        if (bytes_ > limit) forget();
        forests_.emplace_back();
        edges_.push_back(edge);
        slots_[edge] = static_cast<std::uint32_t>(forests_.size());
        build(edge, forests_.back());
        bytes_ += (forests_.back().order.size() + forests_.back().parents.size()) * sizeof(std::uint16_t);
        return forests_.back();
    }

  private:
    static constexpr std::size_t limit = std::size_t{64} << 20;

    void forget() {
        for (const rank_t edge : edges_) slots_[edge] = 0;
        forests_.clear();
        edges_.clear();
        bytes_ = 0;
    }

    vertex_t take_least(std::vector<word_t>& bits) const {
        index_t t = 0;
        while (bits[t] == 0)
            if (++t == words_) return no_rank;
        const auto vertex = static_cast<vertex_t>(t * 64 + __builtin_ctzll(bits[t]));
        bits[t] &= bits[t] - 1;
        return vertex;
    }

    void build(rank_t edge, Forest& forest) {
        const Edge ends = filtration_.edges[edge];
        forest.parents.assign(static_cast<std::size_t>(filtration_.n), Forest::none);
        kernels_.below(ranks_.row(ends.u), ranks_.stride(), edge, rest_.data());
        kernels_.below(ranks_.row(ends.v), ranks_.stride(), edge, row_.data());
        for (index_t t = 0; t < words_; ++t) rest_[t] &= row_[t];
        for (;;) {
            vertex_t x = take_least(open_);
            if (x == no_rank) {
                x = take_least(rest_);
                if (x == no_rank) return;
                forest.order.push_back(static_cast<std::uint16_t>(x));
            }
            kernels_.below(ranks_.row(x), ranks_.stride(), edge, row_.data());
            for (index_t t = 0; t < words_; ++t) {
                row_[t] &= rest_[t];
                rest_[t] ^= row_[t];
                open_[t] |= row_[t];
            }
            each_bit(row_.data(), words_, [&](vertex_t y) {
                forest.order.push_back(static_cast<std::uint16_t>(y));
                forest.parents[y] = static_cast<std::uint16_t>(x);
            });
        }
    }

    const Filtration& filtration_;
    const RankTable& ranks_;
    const SurfaceKernels& kernels_;
    index_t words_;
    std::vector<std::uint32_t> slots_;  // 1 + place in forests_, or 0
    std::vector<Forest> forests_;
    std::vector<rank_t> edges_;
    std::size_t bytes_ = 0;
    std::vector<word_t> rest_, open_, row_;
};

}  // namespace repgeom
