// Loops over rows of ranks and over bitsets of vertices, once per instruction set.
#pragma once

#include "homology_filtration.hpp"
#include "tile_kernels.hpp"

namespace repgeom {

using word_t = std::uint64_t;

// Rows of ranks and bitsets are multiples of a cache line, so that loops over them have no tails.
inline constexpr index_t ranks_per_line = 16;
inline constexpr index_t words_per_line = 8;

// One 2-cocycle over Z/2 on a growing complex. The triangles {a, b, c} of a pair (a, b) are the bits c of
// block index[a][b]; block 0 is zero. Row a of `partners` tells which b have a block of their own.
struct CocycleView {
    index_t n;
    index_t span;  // words of a bitset, a multiple of words_per_line
    const Edge* edges;
    word_t* adjacency;             // n rows: which vertices are joined so far
    const std::uint32_t* indices;  // n x n
    const word_t* blocks;
    const word_t* partners;  // n rows
};

// Two vertices of the link of an edge, whose tetrahedron with that edge stops a cocycle; none where x = y.
struct Conflict {
    vertex_t x = 0;
    vertex_t y = 0;

    bool found() const { return x != y; }
};

struct SurfaceKernels {
    const char* name;

    // Bit i of `bits` tells whether row[i] < limit; `count` is a multiple of 64.
    void (*below)(const rank_t* row, index_t count, rank_t limit, word_t* bits);

    // The i with low <= max(a[i], b[i], c[i], edge) < high, ascending, and these maxima; returns how many.
    // `vertices` and `ranks` have room for a line more than `count`, a multiple of ranks_per_line.
    index_t (*cofacets)(const rank_t* a, const rank_t* b, const rank_t* c, index_t count, rank_t edge,
                        rank_t low, rank_t high, vertex_t* vertices, rank_t* ranks);

    // Adds the edges from..to-1 to the adjacency, up to and with the first at which the cocycle cannot go on
    // as it is, and returns that edge, or `to`. There it wants the triangles of the edge with the vertices
    // `added`; then `conflict` is what it cannot mend.
    rank_t (*advance)(const CocycleView& view, rank_t from, rank_t to, word_t* added, Conflict* conflict);

    // What is left at `edge` when the cocycle holds the triangles of the edge with the vertices `added`.
    Conflict (*conflict)(const CocycleView& view, rank_t edge, const word_t* added);
};

extern const SurfaceKernels baseline_surfaces;
#if defined(__x86_64__)
extern const SurfaceKernels avx2_surfaces;
extern const SurfaceKernels avx512_surfaces;
#endif

}  // namespace repgeom
