// The reduction of the columns of one dimension.
#pragma once

#include <algorithm>
#include <vector>

#include "homology_reducer_graph.hpp"
#include "homology_reducer_keys.hpp"
#include "homology_reducer_queue.hpp"

namespace repgeom::reducer {

// Columns are coboundaries of simplices of dimension `dim`, reduced from the youngest to the oldest; the
// pivot is the oldest cofacet. A cochain is kept for each, and its coboundary made anew when it is needed.
// Of a column only cofacets below a horizon are looked at; the horizon moves when there are none.
template <typename Key, bool binary, typename Graph>
class ColumnReducer {
  public:
    using Entry = Term<Key, binary>;

    struct Column {
        Key birth;
        Key death;  // the pivot, where there is one
        bool lives;
        index_t start, end;  // of its cochain
    };

    ColumnReducer(const Filtration& filtration, const Graph& graph, const PrimeField& field, int dim,
                  Watch& watch)
        : graph_(graph),
          field_(field),
          simplices_(filtration, dim - 1),
          cofacets_(filtration, dim),
          edges_(static_cast<rank_t>(filtration.edges.size())),
          watch_(watch) {}

    // The columns have to come from the youngest to the oldest.
    void reduce(Key simplex) {
        cochain_.clear();
        cochain_.emplace_back(simplex, 1);
        summed_ = 1;
        here_ = simplices_.edge(simplex);
        queue_.restart(Key{here_} << cofacets_.edge_shift());
        end_ = here_;
        window_ = std::max<rank_t>(1024, edges_ / 64);
        Entry pivot(Key{0}, 0);
        const bool dies = find_pivot(pivot);
        finish(simplex, dies, pivot);
    }

    const std::vector<Column>& columns() const { return columns_; }
    const Entry* cochain(const Column& column) const { return store_.data() + column.start; }
    PivotTable<Key> take_pivots() { return std::move(pivots_); }
    const Keys<Key>& simplices() const { return simplices_; }
    const Keys<Key>& cofacets() const { return cofacets_; }

  private:
    bool find_pivot(Entry& pivot) {
        while (true) {
            if (next(pivot)) {
                here_ = cofacets_.edge(pivot.key);
                if (!eliminate(pivot)) return true;
            } else {
                if (end_ == edges_) return false;
                move_horizon();
            }
        }
    }

    void move_horizon() {
        const rank_t from = end_;
        end_ = edges_ - end_ > window_ ? end_ + window_ : edges_;
        window_ += std::min(window_, edges_);
        sum_cochain();
        for (const Entry& entry : cochain_) add_coboundary(entry, from, Key{0});
    }

    // Takes the oldest entry that does not cancel.
    bool next(Entry& pivot) {
        while (true) {
            auto& equal = queue_.smallest();
            if (equal.empty()) return false;
            std::uint32_t sum = 0;
            for (const Entry& entry : equal) sum = field_.add(sum, entry.value);
            pivot = Entry(equal.front().key, sum);
            equal.clear();
            if (sum != 0) return true;
        }
    }

    // Adds a multiple of the column that has this pivot, if there is one.
    bool eliminate(const Entry& pivot) {
        const Simplex cofacet = cofacets_.simplex(pivot.key);
        const vertex_t smallest = cofacets_.smallest_of_rest(pivot.key);
        if (apparent(cofacet, smallest)) {
            int position = 0;
            while (cofacet.vertices[position] != smallest) ++position;
            const std::uint32_t factor = field_.with_sign(field_.negative(pivot.value), position);
            add(Entry(cofacets_.without_smallest(pivot.key), factor), pivot.key);
            return true;
        }
        const std::uint32_t found = pivots_.find(pivot.key);
        if (found == PivotTable<Key>::none) return false;
        const Column& column = columns_[found];
        const std::uint32_t factor = field_.negative(pivot.value);
        for (index_t i = column.start; i < column.end; ++i)
            add(Entry(store_[i].key, field_.product(factor, store_[i].value)), pivot.key);
        return true;
    }

    // Whether the facet without `smallest` has this as its oldest cofacet, with the same largest edge.
    bool apparent(const Simplex& cofacet, vertex_t smallest) const {
        vertex_t others[max_vertices];
        int count = 0;
        for (int i = 0; i < cofacet.count; ++i)
            if (cofacet.vertices[i] != smallest) others[count++] = cofacet.vertices[i];
        return !graph_.any_below(others, count, cofacet.edge, smallest);
    }

    void add(const Entry& entry, Key above) {
        cochain_.push_back(entry);
        add_coboundary(entry, here_, above);
        if (cochain_.size() > 2 * summed_ + 4096) sum_cochain();
    }

    void sum_cochain() {
        combine(cochain_, field_);
        summed_ = cochain_.size();
    }

    // Cofacets from rank `from` to the horizon and younger than `above`.
    void add_coboundary(const Entry& entry, rank_t from, Key above) {
        if (++steps_ % 256 == 0) watch_.check();
        const Simplex simplex = simplices_.simplex(entry.key);
        const rank_t first = simplex.edge >= from ? 0 : from;
        const auto visit = [&](vertex_t vertex, rank_t rank, int place) {
            int position = 0;
            while (position < simplex.count && simplex.vertices[position] > vertex) ++position;
            Key key = rank;
            if (rank < simplex.edge) {
                rank = simplex.edge;
                key = simplices_.with(entry.key, vertex);
            } else {
                for (int i = 0; i < simplex.count; ++i)
                    if (i != place) key = cofacets_.append(key, simplex.vertices[i]);
            }
            if (key <= above) return;
            queue_.push(Entry(key, field_.with_sign(entry.value, position)));
        };
        graph_.common(simplex.vertices, simplex.count, first, end_, scratch_, visit);
    }

    void finish(Key simplex, bool dies, const Entry& pivot) {
        sum_cochain();
        const index_t start = static_cast<index_t>(store_.size());
        const std::uint32_t factor = dies ? field_.inverse(pivot.value) : 1;
        for (const Entry& entry : cochain_)
            store_.emplace_back(entry.key, field_.product(factor, entry.value));
        if (dies) pivots_.insert(pivot.key, static_cast<std::uint32_t>(columns_.size()));
        columns_.push_back({simplex, pivot.key, !dies, start, static_cast<index_t>(store_.size())});
    }

    const Graph& graph_;
    const PrimeField& field_;
    Keys<Key> simplices_;
    Keys<Key> cofacets_;
    rank_t edges_;
    Watch& watch_;

    std::vector<Column> columns_;
    std::vector<Entry> store_;
    PivotTable<Key> pivots_;

    // Of the column that is being reduced.
    std::vector<Entry> cochain_;
    std::size_t summed_ = 0;  // its size when it was last summed up
    TermQueue<Entry> queue_;
    rank_t here_ = 0;
    rank_t end_ = 0;  // the horizon
    rank_t window_ = 0;
    Scratch scratch_;
    std::uint64_t steps_ = 0;
};

}  // namespace repgeom::reducer
