// Simplices as numbers whose order is that of the reduction.
//
// A simplex is its largest edge and the rest of its vertices in decreasing order. Simplices of one dimension
// are ordered by the rank of that edge, then lexicographically by the rest. In this order the oldest cofacet
// with the same largest edge adds the smallest common neighbour, and the youngest facet with the same largest
// edge leaves out the smallest vertex of the rest.
#pragma once

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "homology_filtration.hpp"
#include "homology_reducer_rows.hpp"

namespace repgeom::reducer {

__extension__ typedef unsigned __int128 wide_t;

// Bits for a vertex, and for the rank of an edge; at least 1, so that no shift is as wide as the key.
inline int bits_below(index_t count) {
    return count <= 2 ? 1 : static_cast<int>(std::bit_width(static_cast<std::uint64_t>(count - 1)));
}

struct Simplex {
    rank_t edge;
    int count;
    vertex_t vertices[max_vertices];  // all of them, decreasing
};

template <typename Key>
class Keys {
  public:
    // Of simplices with `rest` vertices besides those of the largest edge.
    Keys(const Filtration& filtration, int rest)
        : edges_(filtration.edges.data()), bits_(bits_below(filtration.n)), rest_(rest) {}

    int edge_shift() const { return bits_ * rest_; }
    rank_t edge(Key key) const { return static_cast<rank_t>(key >> edge_shift()); }

    Simplex simplex(Key key) const {
        Simplex simplex{edge(key), rest_ + 2, {}};
        Edge edge = edges_[simplex.edge];
        int at = simplex.count;
        const auto put = [&](vertex_t v) { simplex.vertices[--at] = v; };
        for (int i = 0; i < rest_; ++i, key >>= bits_) {
            const vertex_t v = static_cast<vertex_t>(key) & mask();
            if (edge.v < v) put(std::exchange(edge.v, no_rank));
            if (edge.v == no_rank && edge.u < v) put(std::exchange(edge.u, no_rank));
            put(v);
        }
        if (edge.v != no_rank) put(edge.v);
        if (edge.u != no_rank) put(edge.u);
        return simplex;
    }

    // The key of a simplex by its largest edge and its other vertices, decreasing.
    Key key(rank_t edge, const vertex_t* rest) const {
        Key key = edge;
        for (int i = 0; i < rest_; ++i) key = append(key, rest[i]);
        return key;
    }

    Key append(Key key, vertex_t vertex) const { return key << bits_ | vertex; }

    vertex_t smallest_of_rest(Key key) const { return static_cast<vertex_t>(key) & mask(); }
    Key without_smallest(Key key) const { return key >> bits_; }  // the key of that facet

    // The key of a cofacet with the same largest edge: `vertex` is put in order among the rest.
    Key with(Key key, vertex_t vertex) const {
        int behind = 0;
        while (behind < rest_ && (static_cast<vertex_t>(key >> (bits_ * behind)) & mask()) < vertex) ++behind;
        const int shift = bits_ * behind;
        const Key low = key & ((Key{1} << shift) - 1);
        return ((key >> shift << bits_ | vertex) << shift) | low;
    }

  private:
    vertex_t mask() const { return static_cast<vertex_t>((std::uint64_t{1} << bits_) - 1); }

    const Edge* edges_;
    int bits_;
    int rest_;
};

// Mixes all bits into the upper ones of a word.
inline std::uint64_t hash_of(std::uint64_t key) {
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15U;
    key ^= key >> 29;
    return key * 0xBF58476D1CE4E5B9U;
}
inline std::uint64_t hash_of(wide_t key) {
    return hash_of(static_cast<std::uint64_t>(key) ^ hash_of(static_cast<std::uint64_t>(key >> 64)));
}

// From pivots to the numbers of the columns that have them: open addressing, at most half full.
template <typename Key>
class PivotTable {
  public:
    static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();

    std::uint32_t find(Key key) const {
        if (slots_.empty()) return none;
        for (std::size_t at = start(key);; at = (at + 1) & (slots_.size() - 1))
            if (slots_[at].column == none || slots_[at].key == key) return slots_[at].column;
    }

    void insert(Key key, std::uint32_t column) {
        if (2 * (size_ + 1) > slots_.size()) grow();
        ++size_;
        put({key, column});
    }

  private:
    struct Slot {
        Key key;
        std::uint32_t column;
    };

    std::size_t start(Key key) const { return hash_of(key) >> shift_; }

    void put(const Slot& slot) {
        std::size_t at = start(slot.key);
        while (slots_[at].column != none) at = (at + 1) & (slots_.size() - 1);
        slots_[at] = slot;
    }

    void grow() {
        const std::vector<Slot> old = std::exchange(slots_, {});
        slots_.assign(std::max<std::size_t>(64, 2 * old.size()), {Key{0}, none});
        shift_ = 64 - std::countr_zero(slots_.size());
        for (const Slot& slot : old)
            if (slot.column != none) put(slot);
    }

    std::vector<Slot> slots_;
    std::size_t size_ = 0;
    int shift_ = 0;
};

}  // namespace repgeom::reducer
