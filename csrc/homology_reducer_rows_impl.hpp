// The template behind every RowKernels. Included by one translation unit per instruction set.
#pragma once

#include <bit>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "homology_reducer_rows.hpp"

namespace repgeom::reducer {
namespace {

typedef rank_t Ranks __attribute__((vector_size(64)));

#define REPGEOM_INLINE __attribute__((always_inline)) inline

REPGEOM_INLINE void load_ranks(Ranks& into, const rank_t* from) {
    __builtin_memcpy(&into, from, sizeof into);
}

REPGEOM_INLINE void largest_ranks(Ranks& largest, const rank_t* const* rows, int count, index_t column) {
    load_ranks(largest, rows[0] + column);
    for (int i = 1; i < count; ++i) {
        Ranks row;
        load_ranks(row, rows[i] + column);
        largest = row > largest ? row : largest;
    }
}

// Bit l: value l is below `bound`.
REPGEOM_INLINE std::uint32_t lanes_below(const Ranks& values, rank_t bound) {
#if defined(__AVX2__)
    // Also for AVX-512: GCC 12 can spill 16 bits of a mask register and read back 32.
    const __m256i bounds = _mm256_set1_epi32(static_cast<int>(bound));
    __m256i halves[2];
    __builtin_memcpy(halves, &values, sizeof halves);
    std::uint32_t above = 0;
    for (int i = 0; i < 2; ++i) {
        const __m256i at_least = _mm256_cmpeq_epi32(_mm256_max_epu32(halves[i], bounds), halves[i]);
        above |= static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(at_least))) << (8 * i);
    }
    return above ^ 0xFFFF;
#elif defined(__SSE2__)
    const auto below = values < bound;
    __m128i quarters[4];
    __builtin_memcpy(quarters, &below, sizeof below);
    const __m128i low = _mm_packs_epi32(quarters[0], quarters[1]);
    const __m128i high = _mm_packs_epi32(quarters[2], quarters[3]);
    return static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(low, high)));
#else
    std::uint32_t mask = 0;
    for (int lane = 0; lane < row_width; ++lane) mask |= std::uint32_t{values[lane] < bound} << lane;
    return mask;
#endif
}

index_t common_columns(const rank_t* const* rows, int count, index_t columns, rank_t from, rank_t end,
                       vertex_t* found) {
    index_t size = 0;
    for (index_t column = 0; column < columns; column += row_width) {
        Ranks largest;
        largest_ranks(largest, rows, count, column);
        largest -= from;
        for (std::uint32_t mask = lanes_below(largest, end - from); mask != 0; mask &= mask - 1)
            found[size++] = static_cast<vertex_t>(column + std::countr_zero(mask));
    }
    return size;
}

bool any_column(const rank_t* const* rows, int count, index_t columns, rank_t end) {
    for (index_t column = 0; column < columns; column += row_width) {
        Ranks largest;
        largest_ranks(largest, rows, count, column);
        const std::uint32_t mask = lanes_below(largest, end);
        if (mask != 0) return column + std::countr_zero(mask) < columns;
    }
    return false;
}

constexpr RowKernels make_rows(const char* name) { return {name, common_columns, any_column}; }

}  // namespace
}  // namespace repgeom::reducer
