// The micro-kernel of the eigensolvers and sketches: any float64 matrix times a
// block of columns. One template (eigensolver_tiles_impl.hpp) is compiled once
// per instruction set.
//
// A block of columns is stored in *panels* of 24 columns, one row after the
// other, zero-padded: element (i, j) of a panel is at panel[i * 24 + j].
#pragma once

#include "tile_kernels.hpp"

namespace repgeom {

constexpr index_t panel_width = 24, tile_rows = 8;

struct BlockTiles {
    const char* name;

    // c[r * 24 + j] += sum_i a[r * row_step + i * step] * b[i * 24 + j], for 8
    // rows r or for one.
    using Multiply = void (*)(const double* a, index_t row_step, index_t step, const double* b, index_t n,
                              double* c);
    Multiply multiply_rows;
    Multiply multiply_row;

    // out[c] = x[c] - shift[c] (null: 0), in float64. In the order of Dtype
    // (types.hpp).
    using Widen = void (*)(const void* x, const double* shift, index_t n, double* out);
    Widen widen[4];
};

extern const BlockTiles baseline_tiles;
#if defined(__x86_64__)
extern const BlockTiles avx2_tiles;
extern const BlockTiles avx512_tiles;
#endif

// Those of the same instruction set as the tile kernels.
const BlockTiles& block_tiles(const KernelTable& table);

}  // namespace repgeom
