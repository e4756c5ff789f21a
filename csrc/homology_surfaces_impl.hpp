// The template behind every SurfaceKernels. Included by one translation unit per instruction set; everything
// is in an unnamed namespace, so that no code of one of them is linked into another.
#pragma once

#include "homology_surfaces_kernels.hpp"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace repgeom {
namespace {

#define REPGEOM_INLINE __attribute__((always_inline)) inline

typedef word_t Line __attribute__((vector_size(64), may_alias));

constexpr index_t max_span = 1024;  // of 65536 vertices

REPGEOM_INLINE bool bit(const word_t* bits, index_t i) { return (bits[i >> 6] >> (i & 63)) & 1; }

REPGEOM_INLINE bool any(const Line& line) {
#if defined(__AVX512F__)
    const __m512i all = _mm512_load_si512(&line);
    return _mm512_test_epi64_mask(all, all) != 0;
#else
    return ((line[0] | line[1]) | (line[2] | line[3]) | (line[4] | line[5]) | (line[6] | line[7])) != 0;
#endif
}

REPGEOM_INLINE word_t below_word(const rank_t* row, rank_t limit) {
    word_t bits = 0;
#if defined(__AVX512F__)
    const __m512i bound = _mm512_set1_epi32(static_cast<int>(limit));
    for (int part = 0; part < 4; ++part) {
        const __mmask16 mask = _mm512_cmplt_epu32_mask(_mm512_loadu_si512(row + part * 16), bound);
        bits |= static_cast<word_t>(mask) << (part * 16);
    }
#elif defined(__AVX2__)
    // There is no unsigned comparison: the limit itself is not below, hence max(row, limit) = row fails.
    const __m256i bound = _mm256_set1_epi32(static_cast<int>(limit));
    for (int part = 0; part < 8; ++part) {
        const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + part * 8));
        const __m256i reached = _mm256_cmpeq_epi32(_mm256_max_epu32(value, bound), value);
        const auto mask = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(reached)));
        bits |= static_cast<word_t>(~mask & 0xffu) << (part * 8);
    }
#else
    for (int i = 0; i < 64; ++i) bits |= static_cast<word_t>(row[i] < limit) << i;
#endif
    return bits;
}

void below(const rank_t* row, index_t count, rank_t limit, word_t* bits) {
    for (index_t i = 0; i < count; i += 64) bits[i >> 6] = below_word(row + i, limit);
}

REPGEOM_INLINE rank_t later(rank_t a, rank_t b) { return a > b ? a : b; }
#if defined(__AVX512F__)
// The unmasked form reads a register that GCC 12 believes to be uninitialised.
REPGEOM_INLINE __m512i later(const __m512i& a, const __m512i& b) {
    return _mm512_maskz_max_epu32(0xffff, a, b);
}
#endif

index_t cofacets(const rank_t* a, const rank_t* b, const rank_t* c, index_t count, rank_t edge, rank_t low,
                 rank_t high, vertex_t* vertices, rank_t* ranks) {
    index_t found = 0;
#if defined(__AVX512F__)
    const __m512i least = _mm512_set1_epi32(static_cast<int>(edge));
    const __m512i start = _mm512_set1_epi32(static_cast<int>(low));
    const __m512i width = _mm512_set1_epi32(static_cast<int>(high - low));
    __m512i names = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (index_t i = 0; i < count; i += 16) {
        const __m512i last = later(later(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i)),
                                   later(_mm512_loadu_si512(c + i), least));
        const __mmask16 mask = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(last, start), width);
        if (mask) {
            // Compressing in a register and storing all of it is far faster than a compressing store on some
            // processors.
            _mm512_storeu_si512(vertices + found, _mm512_maskz_compress_epi32(mask, names));
            _mm512_storeu_si512(ranks + found, _mm512_maskz_compress_epi32(mask, last));
            found += __builtin_popcount(mask);
        }
        names = _mm512_add_epi32(names, _mm512_set1_epi32(16));
    }
#else
    for (index_t i = 0; i < count; i += 16) {
        rank_t last[16];
        word_t some = 0;
        for (int j = 0; j < 16; ++j) {
            last[j] = later(later(a[i + j], b[i + j]), later(c[i + j], edge));
            some |= last[j] - low < high - low;
        }
        if (!some) continue;
        for (int j = 0; j < 16; ++j) {
            vertices[found] = static_cast<vertex_t>(i + j);
            ranks[found] = last[j];
            found += last[j] - low < high - low;
        }
    }
#endif
    return found;
}

// The link of an edge and the 1-cochain that the cocycle has on it.
struct LinkView {
    const word_t* blocks;
    const word_t* adjacency;
    const std::uint32_t* first;  // row of the edge's ends in the table of blocks
    const std::uint32_t* second;
    const word_t* near;  // the vertices joined to both ends
    index_t span;
};

// Words of the row of x in `into`, a line at a time: which neighbours y of x in the link have a value on
// (x, y) other than that of f(x) + f(y).
REPGEOM_INLINE void defect(Line& into, const LinkView& link, index_t x, const word_t* f, index_t word) {
    const auto at = [word](const word_t* row) -> const Line& {
        return *reinterpret_cast<const Line*>(row + word);
    };
    const word_t* a = link.blocks + static_cast<index_t>(link.first[x]) * link.span;
    const word_t* b = link.blocks + static_cast<index_t>(link.second[x]) * link.span;
    const word_t flip = word_t{0} - static_cast<word_t>(bit(f, x));
    into = (at(a) ^ at(b) ^ at(f) ^ flip) & at(link.near) & at(link.adjacency + x * link.span);
}

// The least pair with a defect whose first vertex is in word t of rows; there is one.
Conflict first_defect_of(const LinkView& link, index_t t, word_t rows, const word_t* f) {
    for (; rows; rows &= rows - 1) {
        const index_t x = t * 64 + __builtin_ctzll(rows);
        for (index_t word = t / words_per_line * words_per_line; word < link.span; word += words_per_line) {
            Line part;
            defect(part, link, x, f, word);
            for (int lane = 0; lane < 8; ++lane)
                if (part[lane])
                    return {static_cast<vertex_t>(x),
                            static_cast<vertex_t>((word + lane) * 64 + __builtin_ctzll(part[lane]))};
        }
    }
    return {};
}

REPGEOM_INLINE void prefetch_rows(const LinkView& link, index_t t, word_t rows) {
    const index_t start = t / words_per_line * words_per_line;
    for (; rows; rows &= rows - 1) {
        const index_t x = t * 64 + __builtin_ctzll(rows);
        __builtin_prefetch(link.blocks + static_cast<index_t>(link.first[x]) * link.span + start);
        __builtin_prefetch(link.blocks + static_cast<index_t>(link.second[x]) * link.span + start);
    }
}

// The least pair x < y with a defect. Only rows in `rows` are looked at; others must have none.
template <index_t fixed>
REPGEOM_INLINE Conflict first_defect(const LinkView& link, const word_t* rows, const word_t* f) {
    const index_t span = fixed ? fixed : link.span;
    for (index_t t = 0; t < span; ++t) {
        const index_t start = t / words_per_line * words_per_line;  // y is larger than x
        Line all{};
        if (fixed != 8 && t + 1 < span) prefetch_rows(link, t + 1, rows[t + 1]);
        for (word_t rest = rows[t]; rest; rest &= rest - 1) {
            const index_t x = t * 64 + __builtin_ctzll(rest);
            for (index_t word = start; word < span; word += words_per_line) {
                Line part;
                defect(part, link, x, f, word);
                all |= part;
            }
        }
        if (any(all)) return first_defect_of(link, t, rows[t], f);
    }
    return {};
}

// f with f(x) + f(y) = the cochain on the edges of the spanning forest: the roots are the least vertices of
// their components, and the least vertex that is reached reaches its neighbours next.
template <index_t fixed>
REPGEOM_INLINE void integrate(const LinkView& link, word_t* f) {
    const index_t span = fixed ? fixed : link.span;
    alignas(64) word_t open[fixed ? fixed : max_span], rest[fixed ? fixed : max_span];
    for (index_t t = 0; t < span; ++t) f[t] = open[t] = 0;
    for (index_t t = 0; t < span; ++t) rest[t] = link.near[t];
    for (;;) {
        index_t x = -1;
        for (index_t t = 0; t < span && x < 0; ++t)
            if (open[t]) x = t * 64 + __builtin_ctzll(open[t]);
        if (x < 0) {
            for (index_t t = 0; t < span && x < 0; ++t)
                if (rest[t]) x = t * 64 + __builtin_ctzll(rest[t]);
            if (x < 0) return;
            rest[x >> 6] &= ~(word_t{1} << (x & 63));
        } else {
            open[x >> 6] &= ~(word_t{1} << (x & 63));
        }
        const word_t* a = link.blocks + static_cast<index_t>(link.first[x]) * span;
        const word_t* b = link.blocks + static_cast<index_t>(link.second[x]) * span;
        const word_t* joined = link.adjacency + x * span;
        const word_t flip = word_t{0} - static_cast<word_t>(bit(f, x));
        word_t left = 0;
        for (index_t t = 0; t < span; ++t) {
            const word_t reached = rest[t] & joined[t];
            f[t] |= (a[t] ^ b[t] ^ flip) & reached;
            open[t] |= reached;
            rest[t] ^= reached;
            left |= rest[t];
        }
        if (!left) return;
    }
}

// Adding a constant to f changes the cocycle by the coboundary of the edge: the fewer triangles, the better.
REPGEOM_INLINE void take_fewer(const word_t* near, word_t* f, index_t span) {
    index_t all = 0, ones = 0;
    for (index_t t = 0; t < span; ++t) {
        all += __builtin_popcountll(near[t]);
        ones += __builtin_popcountll(f[t]);
    }
    if (2 * ones > all)
        for (index_t t = 0; t < span; ++t) f[t] ^= near[t];
}

template <index_t fixed>
REPGEOM_INLINE bool link_of(const CocycleView& view, const Edge& edge, LinkView& link, word_t* near) {
    const index_t span = fixed ? fixed : view.span, u = edge.u, v = edge.v;
    const word_t *a = view.adjacency + u * span, *b = view.adjacency + v * span;
    word_t some = 0;
    for (index_t t = 0; t < span; ++t) some |= near[t] = a[t] & b[t];
    link = {view.blocks, view.adjacency, view.indices + u * view.n, view.indices + v * view.n, near, span};
    return some != 0;
}

template <index_t fixed>
rank_t advance_by(const CocycleView& view, rank_t from, rank_t to, word_t* added, Conflict* conflict) {
    const index_t span = fixed ? fixed : view.span;
    alignas(64) word_t near[fixed ? fixed : max_span], rows[fixed ? fixed : max_span];
    for (rank_t k = from; k < to; ++k) {
        const index_t u = view.edges[k].u, v = view.edges[k].v;
        LinkView link;
        const bool linked = link_of<fixed>(view, view.edges[k], link, near);
        view.adjacency[u * span + (v >> 6)] |= word_t{1} << (v & 63);
        view.adjacency[v * span + (u >> 6)] |= word_t{1} << (u & 63);
        if (!linked) continue;
        const word_t *a = view.partners + u * span, *b = view.partners + v * span;
        word_t some = 0;
        for (index_t t = 0; t < span; ++t) some |= rows[t] = (a[t] | b[t]) & near[t];
        if (!some) continue;
        for (index_t t = 0; t < span; ++t) added[t] = 0;
        if (!first_defect<fixed>(link, rows, added).found()) continue;
        integrate<fixed>(link, added);
        take_fewer(near, added, span);
        *conflict = first_defect<fixed>(link, near, added);
        return k;
    }
    return to;
}

rank_t advance(const CocycleView& view, rank_t from, rank_t to, word_t* added, Conflict* conflict) {
    if (view.span == 8) return advance_by<8>(view, from, to, added, conflict);
    if (view.span == 16) return advance_by<16>(view, from, to, added, conflict);
    return advance_by<0>(view, from, to, added, conflict);
}

Conflict conflict_at(const CocycleView& view, rank_t edge, const word_t* added) {
    alignas(64) word_t near[max_span];
    LinkView link;
    link_of<0>(view, view.edges[edge], link, near);
    return first_defect<0>(link, near, added);
}

constexpr SurfaceKernels make_surfaces(const char* name) {
    return {name, below, cofacets, advance, conflict_at};
}

}  // namespace
}  // namespace repgeom
