// A priority queue over the ranks of edges: entries of one rank come out together.
#pragma once

#include <array>
#include <vector>

#include "homology_filtration.hpp"

namespace repgeom {

// A tetrahedron by its largest edge (kept elsewhere) and the two other vertices, the smaller one first.
struct CochainEntry {
    std::uint32_t pair;  // smaller vertex << 16 | larger vertex
    std::uint32_t value;
};

class RankQueue {
  public:
    explicit RankQueue(index_t ranks) : heads_(static_cast<std::size_t>(ranks), none) {
        for (auto& level : levels_) {
            ranks = ranks / 64 + 1;
            level.assign(static_cast<std::size_t>(ranks), 0);
        }
    }

    void push(rank_t rank, CochainEntry entry) {
        std::uint32_t& head = heads_[rank];
        if (head == none) raise(rank);
        if (head == none || nodes_[head].count == per_node) {
            nodes_.emplace_back();
            nodes_.back().next = head;
            head = static_cast<std::uint32_t>(nodes_.size() - 1);
        }
        Node& node = nodes_[head];
        node.entries[node.count++] = entry;
        ++pushed_;
    }

    // The least rank with an entry, or `no_rank`.
    rank_t top() const {
        std::size_t at = 0;
        for (std::size_t level = n_levels; level-- > 0;) {
            const std::uint64_t word = levels_[level][at];
            if (word == 0) return no_rank;
            at = at * 64 + static_cast<std::size_t>(__builtin_ctzll(word));
        }
        return static_cast<rank_t>(at);
    }

    // Appends the entries of `rank`, which then has none.
    void drain(rank_t rank, std::vector<CochainEntry>& into) {
        for (std::uint32_t node = heads_[rank]; node != none; node = nodes_[node].next)
            into.insert(into.end(), nodes_[node].entries, nodes_[node].entries + nodes_[node].count);
        heads_[rank] = none;
        lower(rank);
    }

    void clear() {
        for (rank_t rank = top(); rank != no_rank; rank = top()) {
            heads_[rank] = none;
            lower(rank);
        }
        nodes_.clear();
        pushed_ = 0;
    }

    // Entries since the last clear(), taken out or not.
    std::size_t pushed() const { return pushed_; }

  private:
    static constexpr std::uint32_t none = 0xffffffffu;
    static constexpr std::size_t n_levels = 6;  // 64^6 > 2^32

    static constexpr std::uint32_t per_node = 7;

    // A cache line, for following a list waits for memory at every node.
    struct alignas(64) Node {
        CochainEntry entries[per_node];
        std::uint32_t next = none;
        std::uint32_t count = 0;
    };

    void raise(rank_t rank) {
        std::size_t at = rank;
        for (auto& level : levels_) {
            std::uint64_t& word = level[at >> 6];
            const bool known = word != 0;
            word |= std::uint64_t{1} << (at & 63);
            if (known) return;
            at >>= 6;
        }
    }

    void lower(rank_t rank) {
        std::size_t at = rank;
        for (auto& level : levels_) {
            std::uint64_t& word = level[at >> 6];
            word &= ~(std::uint64_t{1} << (at & 63));
            if (word != 0) return;
            at >>= 6;
        }
    }

    std::vector<std::uint32_t> heads_;
    std::vector<Node> nodes_;
    std::size_t pushed_ = 0;
    std::array<std::vector<std::uint64_t>, n_levels> levels_;
};

}  // namespace repgeom
