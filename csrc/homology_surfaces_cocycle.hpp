// A 2-cocycle over Z/2 as bitsets, carried from edge to edge.
#pragma once

#include <utility>
#include <vector>

#include "homology_surfaces_space.hpp"

namespace repgeom {

// A multiple of the triangle (edge, vertex), oriented from the first to the second end of the edge to the
// vertex.
struct Triangle {
    rank_t edge;
    std::uint16_t vertex;
    std::uint16_t value;
};

class Cocycle {
  public:
    Cocycle(const Filtration& filtration, const RankTable& ranks, const SurfaceKernels& kernels)
        : filtration_(filtration),
          ranks_(ranks),
          kernels_(kernels),
          n_(filtration.n),
          span_(round_up(filtration.n, 64 * words_per_line) / 64),
          indices_(static_cast<std::size_t>(n_ * n_), 0) {
        blocks_.reserve(std::min(n_ * n_ / 2 * span_, most_reserved));
        blocks_.assign(span_);
        added_.assign(span_);
        partners_.assign(n_ * span_);
        adjacency_.assign(n_ * span_);
    }

    // The complex is that of the edges before `edge` from here on.
    void start(rank_t edge) {
        const index_t steps = edge < next_ ? next_ - edge : edge - next_;
        if (steps < n_ * n_ / 64) {
            for (rank_t k = edge; k < next_; ++k) flip_edge(k);
            for (rank_t k = next_; k < edge; ++k) flip_edge(k);
        } else {
            for (index_t a = 0; a < n_; ++a)
                kernels_.below(ranks_.row(a), ranks_.stride(), edge, adjacency_.data() + a * span_);
        }
        next_ = edge;
    }

    void add(const std::vector<Triangle>& triangles) {
        for (const Triangle& triangle : triangles) toggle(triangle);
    }

    // Goes on until nothing mends the cocycle at an edge, which it returns, or to the edge `end`, or until
    // about `budget` words have been looked at.
    rank_t advance(rank_t end, index_t budget, Conflict& conflict) {
        const index_t most = std::max<index_t>(1, budget / (n_ * span_));
        const rank_t stop = end - next_ > most ? next_ + static_cast<rank_t>(most) : end;
        while (next_ < stop) {
            conflict = {};
            const rank_t edge = kernels_.advance(view(), next_, stop, added_.data(), &conflict);
            next_ = edge;
            if (edge == stop) break;
            ++next_;
            each_bit(added_.data(), span_,
                     [&](vertex_t x) { toggle({edge, static_cast<std::uint16_t>(x), 1}); });
            if (conflict.found()) return edge;
        }
        return next_;
    }

    // What stops the cocycle at `edge`, the last one that it came to.
    Conflict conflict(rank_t edge) {
        const Edge ends = filtration_.edges[edge];
        return kernels_.conflict(view(), edge, block(ends.u, ends.v));
    }

    // The triangles of the cocycle, which is zero thereafter.
    std::vector<Triangle> take() {
        std::vector<Triangle> triangles;
        for (std::size_t i = 0; i < used_.size(); ++i) {
            const auto [a, b] = used_[i];
            const rank_t *of_a = ranks_.row(a), *of_b = ranks_.row(b), edge = of_a[b];
            each_bit(blocks_.data() + static_cast<index_t>(i + 1) * span_, span_, [&](vertex_t c) {
                if (of_a[c] < edge && of_b[c] < edge)
                    triangles.push_back({edge, static_cast<std::uint16_t>(c), 1});
            });
        }
        clear();
        return triangles;
    }

  private:
    void clear() {
        for (const auto& [a, b] : used_) {
            indices_[static_cast<std::size_t>(a * n_ + b)] = indices_[static_cast<std::size_t>(b * n_ + a)] =
                0;
            std::fill_n(partners_.data() + a * span_, span_, word_t{0});
            std::fill_n(partners_.data() + b * span_, span_, word_t{0});
        }
        used_.clear();
        blocks_.assign(span_);
    }

    CocycleView view() {
        return {n_,
                span_,
                filtration_.edges.data(),
                adjacency_.data(),
                indices_.data(),
                blocks_.data(),
                partners_.data()};
    }

    index_t place(index_t a, index_t b) const { return indices_[static_cast<std::size_t>(a * n_ + b)]; }
    const word_t* block(index_t a, index_t b) const { return blocks_.data() + place(a, b) * span_; }

    void flip_edge(rank_t edge) {
        const Edge ends = filtration_.edges[edge];
        flip_bit(adjacency_.data() + ends.u * span_, ends.v);
        flip_bit(adjacency_.data() + ends.v * span_, ends.u);
    }

    void toggle(const Triangle& triangle) {
        const Edge ends = filtration_.edges[triangle.edge];
        flip(ends.u, ends.v, triangle.vertex);
        flip(ends.u, triangle.vertex, ends.v);
        flip(ends.v, triangle.vertex, ends.u);
    }

    void flip(index_t a, index_t b, index_t c) {
        index_t at = place(a, b);
        if (at == 0) {
            used_.emplace_back(a, b);
            at = static_cast<index_t>(used_.size());
            blocks_.grow((at + 1) * span_);
            indices_[static_cast<std::size_t>(a * n_ + b)] = static_cast<std::uint32_t>(at);
            indices_[static_cast<std::size_t>(b * n_ + a)] = static_cast<std::uint32_t>(at);
            set_bit(partners_.data() + a * span_, b);
            set_bit(partners_.data() + b * span_, a);
        }
        flip_bit(blocks_.data() + at * span_, c);
    }

    // Room is asked for beforehand up to here, for growing copies; what is not used costs nothing.
    static constexpr index_t most_reserved = index_t{1} << 25;

    const Filtration& filtration_;
    const RankTable& ranks_;
    const SurfaceKernels& kernels_;
    index_t n_;
    index_t span_;
    Bits adjacency_, blocks_, partners_, added_;
    std::vector<std::uint32_t> indices_;
    std::vector<std::pair<index_t, index_t>> used_;
    rank_t next_ = 0;
};

}  // namespace repgeom
