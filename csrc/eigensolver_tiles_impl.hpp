// The template behind every BlockTiles. Included by one translation unit per
// instruction set, each compiled with its own flags. Everything is in an
// unnamed namespace, as in tile_kernels_impl.hpp.
#pragma once

#include "eigensolver_tiles.hpp"
#include "tile_kernels_impl.hpp"

namespace repgeom {
namespace {

// Rows x Vectors accumulators fill the registers; what is wider or taller is
// done in parts.
template <int Bytes, int Rows, int Vectors>
struct BlockTile {
    typedef double Vector __attribute__((vector_size(Bytes)));
    static constexpr index_t lanes = Bytes / static_cast<index_t>(sizeof(double)), part = lanes * Vectors;
    static_assert(panel_width % part == 0);

    static Vector load(const double* from) {
        Vector v;
        __builtin_memcpy(&v, from, sizeof v);
        return v;
    }

    __attribute__((always_inline)) static void multiply_part(const double* __restrict a, index_t row_step,
                                                             index_t step, const double* __restrict b,
                                                             index_t n, double* __restrict c) {
        Vector sum[Rows][Vectors];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) sum[r][v] = load(c + r * panel_width + v * lanes);
        for (index_t i = 0; i < n; ++i, a += step, b += panel_width) {
            Vector right[Vectors];
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) right[v] = load(b + v * lanes);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                const Vector left = a[r * row_step] - Vector{};
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) sum[r][v] += left * right[v];
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v)
                __builtin_memcpy(c + r * panel_width + v * lanes, &sum[r][v], sizeof(Vector));
    }

    template <index_t Total>
    static void multiply(const double* a, index_t row_step, index_t step, const double* b, index_t n,
                         double* c) {
        for (index_t r = 0; r < Total; r += Rows)
            for (index_t j = 0; j < panel_width; j += part)
                multiply_part(a + r * row_step, row_step, step, b + j, n, c + r * panel_width + j);
    }
};

template <typename Source>
void widen_row(const void* x, const double* shift, index_t n, double* __restrict out) {
    const auto* from = static_cast<const typename Source::type*>(x);
    if (shift == nullptr)
        for (index_t c = 0; c < n; ++c) out[c] = static_cast<double>(Source::widen(from[c]));
    else
        for (index_t c = 0; c < n; ++c) out[c] = static_cast<double>(Source::widen(from[c])) - shift[c];
}

template <int Bytes, int Rows, int Vectors>
constexpr BlockTiles make_tiles(const char* name) {
    return {name,
            BlockTile<Bytes, Rows, Vectors>::template multiply<tile_rows>,
            BlockTile<Bytes, 1, Vectors>::template multiply<1>,
            {widen_row<Float64>, widen_row<Float32>, widen_row<Float16>, widen_row<BFloat16>}};
}

}  // namespace
}  // namespace repgeom
