// The micro-kernel family. One template (tile_kernels_impl.hpp) is compiled once per instruction set.
//
// A *panel* is `panel` columns of a matrix, one row after the other, zero-padded: element (k, j) of the panel
// is at panel[k * width + j]. The same panel serves as the left operand (a group of `rows` of its columns)
// and as the right operand (all of its columns), so that a symmetric product packs its data once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace repgeom {

using index_t = std::int64_t;

// Rows of a source matrix that go into panels.
struct PackSource {
    const void* data;       // element (0, first column)
    index_t row_stride;     // in elements
    const index_t* rows;    // which rows, or null: 0, 1, 2, ...
    const double* weights;  // weight of each packed row, or null: 1. Used for the column sums only.
    index_t n_rows;
    index_t columns;       // any number; the last panel is filled up with zeros
    index_t panel_stride;  // elements from one panel to the next
};

template <typename T>
using Pack = void (*)(const PackSource& source, const T* shift, T* panels, double* column_sums);

// A value v of a finished tile, in row r and column j, passes if
// v >= min(column_level[j] - row_limit[r], row_level[r] - column_limit[j]).
template <typename T>
struct Limits {
    const T* row_level;
    const T* row_limit;
    const T* column_level;
    const T* column_limit;
};

template <typename T>
using Threshold = index_t (*)(const T* a, const T* b, index_t k, const double* c, const Limits<T>& limits,
                              T* values, std::int32_t* codes);

template <typename T>
struct TileKernels {
    index_t panel;  // columns of a panel and of a micro-tile
    index_t rows;   // rows of a micro-tile; divides panel

    // c[r * panel + j] = or += sum_k a[k * panel + r] * b[k * panel + j]; the sum over k in T, the rest in
    // float64.
    void (*store)(const T* a, const T* b, index_t k, double* c);
    void (*accumulate)(const T* a, const T* b, index_t k, double* c);

    // panels[p * panel_stride + k * panel + j] = x[row k][p * panel + j] - shift[p * panel + j], and
    // column_sums[...] += weight * (x - shift), in float64. Shift and sums are as wide as whole panels.
    Pack<T> pack_float64;  // null where T is float: it would lose digits
    Pack<T> pack_float32;
    Pack<T> pack_float16;
    Pack<T> pack_bfloat16;

    // out[k * panel + j] = weights[k] * panel[k * panel + j]
    void (*scale_rows)(const T* panel, const double* weights, index_t n_rows, T* out);

    // Writes the values of c (null: 0) + sum_k a[k * panel + r] * b[k * panel + j] that pass, and of each the
    // code r * 65536 + j, in order of storage; returns how many. There is room for rows * panel of them.
    Threshold<T> threshold;
    Threshold<T> threshold_differences;  // the same for -sum_k (a - b)^2
};

struct KernelTable {
    const char* name;
    TileKernels<float> float32;
    TileKernels<double> float64;
    bool (*all_finite)(const double* values, index_t n);
    void (*add)(const double* values, index_t n, double* out);  // out[i] += values[i]
    // Runs `iterations` rounds of independent fp32 multiply-adds in registers; returns the flops done.
    double (*multiply_add_loop)(index_t iterations);
};

extern const KernelTable baseline_kernels;
#if defined(__x86_64__)
extern const KernelTable avx2_kernels;
extern const KernelTable avx512_kernels;
#endif

}  // namespace repgeom
