// Reduction of one column: the coboundary of a candidate, made to vanish edge by edge until it cannot.
#pragma once

#include <optional>
#include <unordered_map>
#include <vector>

#include "homology_field.hpp"
#include "homology_surfaces.hpp"
#include "homology_surfaces_cocycle.hpp"
#include "homology_surfaces_queue.hpp"

namespace repgeom {

// A tetrahedron by its largest edge and its two other vertices.
struct Pivot {
    rank_t edge = no_rank;
    std::uint32_t pair = 0;

    std::uint64_t key() const { return static_cast<std::uint64_t>(edge) << 32 | pair; }
};

using Chain = std::vector<Triangle>;

// Reduced columns by their pivots, where they are scaled to have the value 1.
using Columns = std::unordered_map<std::uint64_t, Chain>;

class SurfaceReducer {
  public:
    SurfaceReducer(const Filtration& filtration, const RankTable& ranks, const SurfaceKernels& kernels,
                   const SurfaceOptions& options, const Columns& columns, Watch& watch);

    // The pivot of the column of `candidate`, with edge `no_rank` where nothing is left; `chain` gets the
    // triangles of the reduced column. `done` of `all` columns are done.
    Pivot reduce(const RootTriangle& candidate, Chain& chain, std::size_t done, std::size_t all);

  private:
    Pivot reduce_entries(rank_t birth, Chain& chain);
    Pivot reduce_bitsets(rank_t edge, Chain& chain);
    Pivot reduce_group(rank_t rank, Chain& chain);
    bool widen(Chain& chain);
    void integrate(rank_t rank, Chain& chain);
    void add_coboundary(const Triangle& triangle, rank_t low, rank_t here);
    void compress(Chain& chain) const;
    void compress_group();
    void report(rank_t edge);
    void normalize(Chain& chain, std::uint32_t value) const;

    const Filtration& filtration_;
    const RankTable& ranks_;
    const SurfaceKernels& kernels_;
    const Columns& columns_;
    Watch& watch_;
    PrimeField field_;
    rank_t n_edges_;
    index_t budget_;
    Forests forests_;
    RankQueue queue_;
    std::optional<Cocycle> cocycle_;

    rank_t high_ = 0;   // edges from here on are still to be looked at
    rank_t width_ = 0;  // of the window below high_
    index_t work_ = 0;
    // A chain grows by repetitions, too, and is freed of them when it is longer than this.
    static constexpr std::size_t min_longest = 65536;
    std::size_t longest_ = min_longest;
    double done_ = 0;
    double all_ = 1;
    std::vector<CochainEntry> group_;
    std::vector<vertex_t> vertices_;
    std::vector<rank_t> maxima_;
    std::vector<std::uint32_t> values_, counts_;
};

}  // namespace repgeom
