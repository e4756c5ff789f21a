#include "homology_surfaces.hpp"

#include <algorithm>
#include <string_view>

#include "homology_surfaces_column.hpp"

namespace repgeom {

namespace {

const SurfaceKernels& surface_kernels(const KernelTable* table) {
#if defined(__x86_64__)
    for (const SurfaceKernels* surfaces : {&avx2_surfaces, &avx512_surfaces})
        if (table != nullptr && std::string_view(surfaces->name) == table->name) return *surfaces;
#endif
    static_cast<void>(table);
    return baseline_surfaces;
}

}  // namespace

SurfaceReducer::SurfaceReducer(const Filtration& filtration, const RankTable& ranks,
                               const SurfaceKernels& kernels, const SurfaceOptions& options,
                               const Columns& columns, Watch& watch)
    : filtration_(filtration),
      ranks_(ranks),
      kernels_(kernels),
      columns_(columns),
      watch_(watch),
      field_(options.field),
      n_edges_(static_cast<rank_t>(filtration.edges.size())),
      budget_(options.field == 2 ? options.bitsets_after : -1),
      forests_(filtration, ranks, kernels),
      queue_(n_edges_),
      vertices_(static_cast<std::size_t>(ranks.stride() + ranks_per_line)),
      maxima_(vertices_.size()),
      values_(static_cast<std::size_t>(filtration.n), 0),
      counts_(field_.prime(), 0) {}

// Entries of the edge `here` go to the group, later ones into the queue.
void SurfaceReducer::add_coboundary(const Triangle& triangle, rank_t low, rank_t here) {
    watch_.check();
    const Edge ends = filtration_.edges[triangle.edge];
    const vertex_t u = ends.u, v = ends.v, w = triangle.vertex;
    const rank_t *of_u = ranks_.row(u), *of_v = ranks_.row(v), *of_w = ranks_.row(w);
    const index_t count = kernels_.cofacets(of_u, of_v, of_w, ranks_.stride(), triangle.edge, low, high_,
                                            vertices_.data(), maxima_.data());
    work_ += 10 + ranks_.stride() / 8 + 8 * count;
    for (index_t i = 0; i < count; ++i) {
        const vertex_t y = vertices_[i];
        const rank_t rank = maxima_[i];
        // The tetrahedron is oriented as u, v, w, y, and is to be as (its largest edge, x, z) with x < z.
        vertex_t x = w, z = y;
        bool odd = false;
        if (rank != triangle.edge) {
            const vertex_t end = of_u[y] == rank ? u : of_v[y] == rank ? v : w;
            x = end == u ? v : u;
            z = end == w ? v : w;
            odd = (end == v) != (filtration_.edges[rank].u == y);
        }
        if (x > z) {
            std::swap(x, z);
            odd = !odd;
        }
        const CochainEntry entry{x << 16 | z, odd ? triangle.value : field_.negative(triangle.value)};
        if (rank == here)
            group_.push_back(entry);
        else
            queue_.push(rank, entry);
    }
}

void SurfaceReducer::compress_group() {
    std::sort(group_.begin(), group_.end(),
              [](const CochainEntry& a, const CochainEntry& b) { return a.pair < b.pair; });
    std::size_t kept = 0;
    for (std::size_t i = 0; i < group_.size();) {
        CochainEntry sum{group_[i].pair, 0};
        for (; i < group_.size() && group_[i].pair == sum.pair; ++i) sum.value += group_[i].value;
        sum.value %= field_.prime();
        if (sum.value != 0) group_[kept++] = sum;
    }
    group_.resize(kept);
}

void SurfaceReducer::compress(Chain& chain) const {
    std::sort(chain.begin(), chain.end(), [](const Triangle& a, const Triangle& b) {
        return a.edge != b.edge ? a.edge < b.edge : a.vertex < b.vertex;
    });
    std::size_t kept = 0;
    for (std::size_t i = 0; i < chain.size();) {
        const Triangle first = chain[i];
        std::uint32_t sum = 0;
        for (; i < chain.size() && chain[i].edge == first.edge && chain[i].vertex == first.vertex; ++i)
            sum = field_.add(sum, chain[i].value);
        if (sum != 0) chain[kept++] = {first.edge, first.vertex, static_cast<std::uint16_t>(sum)};
    }
    chain.resize(kept);
}

void SurfaceReducer::normalize(Chain& chain, std::uint32_t value) const {
    if (value == 1) return;
    const std::uint32_t factor = field_.inverse(value);
    for (Triangle& triangle : chain)
        triangle.value = static_cast<std::uint16_t>(field_.product(triangle.value, factor));
}

// The next window; false if there is none. Wide enough for entries to outweigh the walk over the chain, not
// so wide that they leave the cache.
bool SurfaceReducer::widen(Chain& chain) {
    if (high_ == n_edges_) return false;
    report(high_);
    compress(chain);
    const bool sparse = queue_.pushed() < 8 * chain.size();
    queue_.clear();
    const rank_t low = high_;
    if (sparse) width_ = width_ > n_edges_ / 2 ? n_edges_ : 2 * width_;
    high_ = n_edges_ - high_ > width_ ? high_ + width_ : n_edges_;
    for (const Triangle& triangle : chain) add_coboundary(triangle, low, no_rank);
    return true;
}

// Takes triangles of the edge, so that no entry on the spanning forest of its link is left.
void SurfaceReducer::integrate(rank_t rank, Chain& chain) {
    const Forest& forest = forests_.of(rank);
    bool any = false;
    for (const CochainEntry& entry : group_) {
        const vertex_t x = entry.pair >> 16, y = entry.pair & 0xffff;
        if (forest.parents[y] == x)
            values_[y] = field_.negative(entry.value);
        else if (forest.parents[x] == y)
            values_[x] = entry.value;
        else
            continue;
        any = true;
    }
    if (!any) return;
    std::fill(counts_.begin(), counts_.end(), 0);
    for (const std::uint16_t x : forest.order) {
        const std::uint16_t parent = forest.parents[x];
        if (parent != Forest::none) values_[x] = field_.add(values_[x], values_[parent]);
        ++counts_[values_[x]];
    }
    // A constant more on the whole link is the coboundary of the edge: the fewer triangles, the better.
    const auto shift =
        static_cast<std::uint32_t>(std::max_element(counts_.begin(), counts_.end()) - counts_.begin());
    for (const std::uint16_t x : forest.order) {
        const std::uint32_t value = field_.add(values_[x], field_.negative(shift));
        values_[x] = 0;
        if (value == 0) continue;
        chain.push_back({rank, x, static_cast<std::uint16_t>(value)});
        add_coboundary(chain.back(), rank, rank);
    }
    compress_group();
}

// All entries with the largest edge `rank` at once.
Pivot SurfaceReducer::reduce_group(rank_t rank, Chain& chain) {
    group_.clear();
    queue_.drain(rank, group_);
    compress_group();
    while (!group_.empty()) {
        integrate(rank, chain);
        if (group_.empty()) break;
        const Pivot pivot{rank, group_.front().pair};
        const std::uint32_t value = group_.front().value;
        const auto found = columns_.find(pivot.key());
        if (found == columns_.end()) {
            compress(chain);
            normalize(chain, value);
            return pivot;
        }
        for (Triangle triangle : found->second) {
            triangle.value =
                static_cast<std::uint16_t>(field_.product(triangle.value, field_.negative(value)));
            chain.push_back(triangle);
            add_coboundary(triangle, rank, rank);
        }
        compress_group();
        if (chain.size() > longest_) {
            compress(chain);
            longest_ = 2 * chain.size() + min_longest;
        }
    }
    return {};
}

Pivot SurfaceReducer::reduce_entries(rank_t birth, Chain& chain) {
    for (;;) {
        const rank_t rank = queue_.top();
        // Bitsets start where every triangle of the chain has an earlier edge.
        if (budget_ >= 0 && work_ > budget_ && rank != birth)
            return reduce_bitsets(rank == no_rank ? high_ : rank, chain);
        if (rank == no_rank) {
            if (!widen(chain)) return {};
            continue;
        }
        const Pivot pivot = reduce_group(rank, chain);
        if (pivot.edge != no_rank) return pivot;
    }
}

Pivot SurfaceReducer::reduce_bitsets(rank_t edge, Chain& chain) {
    constexpr index_t words_between_checks = 10000000;
    if (!cocycle_) cocycle_.emplace(filtration_, ranks_, kernels_);
    cocycle_->start(edge);
    cocycle_->add(chain);
    while (edge < n_edges_) {
        report(edge);
        Conflict conflict;
        edge = cocycle_->advance(n_edges_, words_between_checks, conflict);
        while (conflict.found()) {
            const Pivot pivot{edge, conflict.x << 16 | conflict.y};
            const auto found = columns_.find(pivot.key());
            if (found == columns_.end()) {
                chain = cocycle_->take();
                return pivot;
            }
            watch_.check();
            cocycle_->add(found->second);
            conflict = cocycle_->conflict(edge);
        }
    }
    cocycle_->take();
    return {};
}

// A column that has come to `edge` counts as that part of a column.
void SurfaceReducer::report(rank_t edge) {
    watch_.check();
    const double part = static_cast<double>(edge) / static_cast<double>(n_edges_);
    watch_.report((done_ + part) / all_);
}

Pivot SurfaceReducer::reduce(const RootTriangle& candidate, Chain& chain, std::size_t done, std::size_t all) {
    done_ = static_cast<double>(done);
    all_ = static_cast<double>(all);
    queue_.clear();
    chain.assign(1, {candidate.edge, static_cast<std::uint16_t>(candidate.root), 1});
    work_ = 0;
    longest_ = min_longest;
    width_ = std::max<rank_t>(16, n_edges_ / 64);
    high_ = n_edges_ - candidate.edge > width_ ? candidate.edge + width_ : n_edges_;
    add_coboundary(chain.front(), candidate.edge, no_rank);
    return reduce_entries(candidate.edge, chain);
}

Bars reduce_surfaces(const Filtration& filtration, const std::vector<RootTriangle>& candidates,
                     const SurfaceOptions& options, Watch& watch) {
    require(filtration.n <= 65535, "surfaces need at most 65535 points", filtration.n);
    Bars bars;
    bars.dim = 2;
    if (candidates.empty()) return bars;
    const RankTable ranks(filtration, watch);
    Columns columns;
    SurfaceReducer reducer(filtration, ranks, surface_kernels(options.kernels), options, columns, watch);
    std::vector<Pivot> pivots(candidates.size());
    for (std::size_t i = candidates.size(); i-- > 0;) {
        Chain chain;
        pivots[i] = reducer.reduce(candidates[i], chain, candidates.size() - 1 - i, candidates.size());
        if (pivots[i].edge != no_rank) columns.emplace(pivots[i].key(), std::move(chain));
    }
    watch.report(1);
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        const Edge birth = filtration.edges[candidates[i].edge];
        const Pivot& pivot = pivots[i];
        bars.births.push_back(candidates[i].edge);
        bars.deaths.push_back(pivot.edge);
        bars.birth_simplices.insert(bars.birth_simplices.end(), {birth.u, birth.v, candidates[i].root});
        const Edge death = pivot.edge == no_rank ? birth : filtration.edges[pivot.edge];
        bars.death_simplices.insert(bars.death_simplices.end(),
                                    {death.u, death.v, pivot.pair >> 16, pivot.pair & 0xffff});
    }
    return bars;
}

}  // namespace repgeom
