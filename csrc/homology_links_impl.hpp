// The template behind every LinkKernels. Everything is in an unnamed namespace, as in tile_kernels_impl.hpp.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>  // its functions are always inlined
#endif

#include "homology_links_kernels.hpp"

namespace repgeom {
namespace {

#define REPGEOM_INLINE __attribute__((always_inline)) inline

typedef std::uint64_t Bits __attribute__((vector_size(64), may_alias));
constexpr index_t bits_words = 8;

REPGEOM_INLINE bool any(const Bits& bits) {
#if defined(__AVX512F__)
    return _mm512_test_epi64_mask(reinterpret_cast<__m512i>(bits), reinterpret_cast<__m512i>(bits)) != 0;
#else
#if defined(__AVX2__)
    __m256i halves[2];
    __builtin_memcpy(halves, &bits, sizeof halves);
    const __m256i both = _mm256_or_si256(halves[0], halves[1]);
    return _mm256_testz_si256(both, both) == 0;
#else
    return ((bits[0] | bits[1]) | (bits[2] | bits[3]) | ((bits[4] | bits[5]) | (bits[6] | bits[7]))) != 0;
#endif
#endif
}

REPGEOM_INLINE index_t lowest_bit(std::uint64_t word) { return __builtin_ctzll(word); }

// The smallest element of a set that has one.
REPGEOM_INLINE index_t smallest(const Bits* set) {
    for (index_t k = 0;; ++k) {
#if defined(__AVX512F__)
        const auto bits = reinterpret_cast<__m512i>(set[k]);
        const __mmask8 mask = _mm512_test_epi64_mask(bits, bits);
        if (mask == 0) continue;
        const auto front = reinterpret_cast<Bits>(_mm512_maskz_compress_epi64(mask, bits));
        return (k * bits_words + lowest_bit(mask)) * 64 + lowest_bit(front[0]);
#else
        for (index_t j = 0; j < bits_words; ++j)
            if (set[k][j] != 0) return (k * bits_words + j) * 64 + lowest_bit(set[k][j]);
#endif
    }
}

REPGEOM_INLINE index_t count_members(const Bits* set, index_t vectors) {
    index_t count = 0;
    for (index_t k = 0; k < vectors; ++k)
        for (index_t j = 0; j < bits_words; ++j) count += __builtin_popcountll(set[k][j]);
    return count;
}

REPGEOM_INLINE void flip(std::uint64_t* set, index_t member) {
    set[member >> 6] ^= std::uint64_t{1} << (member & 63);
}

struct Rows {
    std::uint64_t* words;
    index_t row_words;

    REPGEOM_INLINE std::uint64_t* at(index_t x) const { return words + x * row_words; }
    REPGEOM_INLINE const Bits* bits(index_t x) const { return reinterpret_cast<const Bits*>(at(x)); }
};

// reached |= rest & row, rest &= ~row
REPGEOM_INLINE bool absorb(const Bits* row, Bits* reached, Bits* rest, index_t vectors) {
    Bits left{};
    for (index_t k = 0; k < vectors; ++k) {
        reached[k] |= rest[k] & row[k];
        rest[k] &= ~row[k];
        left |= rest[k];
    }
    return any(left);
}

REPGEOM_INLINE bool meets(const Bits* row, const Bits* reached, index_t vectors) {
    Bits both{};
    for (index_t k = 0; k < vectors; ++k) both |= row[k] & reached[k];
    return any(both);
}

// A component of a link that is being found: its members so far, those of them whose neighbours may be
// missing, and the vertices of the link outside.
struct Growth {
    Bits* reached;
    Bits* open;
    Bits* rest;
    index_t vectors;
};

// Every vertex outside is tested against the component. What was open before is then closed.
index_t test_rest(const Rows& rows, const Growth& growth, bool& more) {
    index_t steps = 0;
    for (index_t k = 0; k < growth.vectors; ++k) growth.open[k] = Bits{};
    auto* rest = reinterpret_cast<std::uint64_t*>(growth.rest);
    for (index_t i = 0; i < growth.vectors * bits_words && more; ++i)
        for (std::uint64_t left = rest[i]; left != 0; left &= rest[i]) {
            const Bits* row = rows.bits(i * 64 + lowest_bit(left));
            left &= left - 1;
            ++steps;
            if (!meets(row, growth.reached, growth.vectors)) continue;
            for (index_t k = 0; k < growth.vectors; ++k) growth.open[k] |= growth.rest[k] & row[k];
            more = absorb(row, growth.reached, growth.rest, growth.vectors);
        }
    return steps;
}

index_t expand_one(const Rows& rows, const Growth& growth, bool& more) {
    const index_t x = smallest(growth.open);
    flip(reinterpret_cast<std::uint64_t*>(growth.open), x);
    const Bits* row = rows.bits(x);
    for (index_t k = 0; k < growth.vectors; ++k) growth.open[k] |= growth.rest[k] & row[k];
    more = absorb(row, growth.reached, growth.rest, growth.vectors);
    return 1;
}

// Finishes the component and finds the others. Each open vertex is closed once, by its own row or by a test
// of at most as many vertices, so that no order of the vertices is slow.
__attribute__((noinline)) void find_components(LinkSpan& span, const Growth& growth) {
    const Rows rows{span.rows, span.row_words};
    const index_t vectors = growth.vectors;
    for (index_t k = 0; k < vectors; ++k) growth.open[k] = growth.reached[k];
    for (bool more = true;;) {
        for (index_t open; more && (open = count_members(growth.open, vectors)) != 0;)
            span.steps -= count_members(growth.rest, vectors) <= open ? test_rest(rows, growth, more)
                                                                      : expand_one(rows, growth, more);
        if (!more) return;
        const index_t root = smallest(growth.rest);
        span.events[span.n_events++] = {static_cast<std::uint32_t>(span.next),
                                        static_cast<std::uint32_t>(root)};
        for (index_t k = 0; k < vectors; ++k) growth.reached[k] = Bits{};
        more = absorb(rows.bits(root), growth.reached, growth.rest, vectors);
        for (index_t k = 0; k < vectors; ++k) growth.open[k] = growth.reached[k];
        flip(reinterpret_cast<std::uint64_t*>(growth.open), root);
    }
}

// The link of edge (u, v), with rows of `fixed` vectors or, where that is 0, of any number.
template <int fixed>
REPGEOM_INLINE void find_link(LinkSpan& span, const Rows& rows, index_t u, index_t v) {
    constexpr index_t local = fixed == 0 ? 1 : fixed;
    const index_t vectors = fixed == 0 ? span.row_words / bits_words : fixed;
    Bits local_reached[local], local_rest[local];
    Bits* scratch = reinterpret_cast<Bits*>(span.scratch);
    Bits* reached = fixed == 0 ? scratch : local_reached;
    Bits* rest = fixed == 0 ? scratch + vectors : local_rest;
    const Bits *row_u = rows.bits(u), *row_v = rows.bits(v);
    Bits all{};
    for (index_t k = 0; k < vectors; ++k) {
        rest[k] = row_u[k] & row_v[k];
        reached[k] = Bits{};
        all |= rest[k];
    }
    --span.steps;
    if (!any(all)) {
        span.events[span.n_events++] = {static_cast<std::uint32_t>(span.next), no_root};
        return;
    }
    const index_t root = smallest(rest);
    span.roots[u * (u - 1) / 2 + v] = static_cast<std::uint16_t>(root);
    bool more = absorb(rows.bits(root), reached, rest, vectors);
    while (more) {
        const Bits* row = rows.bits(smallest(rest));
        --span.steps;
        if (!meets(row, reached, vectors)) break;
        more = absorb(row, reached, rest, vectors);
    }
    if (!more) return;
    const Growth growth{scratch, scratch + 2 * vectors, scratch + vectors, vectors};
    for (index_t k = 0; fixed != 0 && k < vectors; ++k) {
        growth.reached[k] = reached[k];
        growth.rest[k] = rest[k];
    }
    find_components(span, growth);
}

template <int fixed>
void find(LinkSpan& span) {
    const Rows rows{span.rows, span.row_words};
    const index_t most_events = span.room - span.row_words * 64;
    for (; span.next < span.last && span.steps > 0 && span.n_events <= most_events; ++span.next) {
        const index_t u = span.ends[2 * span.next], v = span.ends[2 * span.next + 1];
        find_link<fixed>(span, rows, u, v);
        flip(rows.at(u), v);
        flip(rows.at(v), u);
    }
}

void find_any(LinkSpan& span) {
    switch (span.row_words / bits_words) {
        case 1:
            return find<1>(span);
        case 2:
            return find<2>(span);
        case 3:
            return find<3>(span);
        case 4:
            return find<4>(span);
        case 5:
            return find<5>(span);
        case 6:
            return find<6>(span);
        case 7:
            return find<7>(span);
        case 8:
            return find<8>(span);
        default:
            return find<0>(span);
    }
}

constexpr LinkKernels make_links(const char* name) { return LinkKernels{name, find_any}; }

#undef REPGEOM_INLINE

}  // namespace
}  // namespace repgeom
