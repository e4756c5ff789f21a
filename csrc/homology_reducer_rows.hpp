// Rows of a table of ranks: which columns are below a rank in all of several rows.
#pragma once

#include "homology_filtration.hpp"

namespace repgeom::reducer {

inline constexpr index_t row_width = 16;  // rows are filled up with `no_rank` to a multiple of it
inline constexpr int max_vertices = 32;   // of a simplex

struct RowKernels {
    const char* name;

    // Columns whose maximum over the rows is in [from, end); returns how many. There is room for all.
    index_t (*common)(const rank_t* const* rows, int count, index_t columns, rank_t from, rank_t end,
                      vertex_t* found);

    // Whether a column before `columns` is below `end` in all rows.
    bool (*any)(const rank_t* const* rows, int count, index_t columns, rank_t end);
};

extern const RowKernels baseline_rows;
#if defined(__x86_64__)
extern const RowKernels avx2_rows;
extern const RowKernels avx512_rows;
#endif

// Those of the same instruction set as the tile kernels; the baseline for null.
const RowKernels& row_kernels(const KernelTable* table);

}  // namespace repgeom::reducer
