// The hot loop over the edges of a dense filtration. One template (homology_links_impl.hpp) is compiled once
// per instruction set; no library header is included here, for the reason given there.
#pragma once

#include "tile_kernels.hpp"

namespace repgeom {

inline constexpr std::uint32_t no_root = 0xffffffffu;

// Something that H0 or H1 has to look at: an edge whose link is empty (root is no_root), or the smallest
// vertex of a component of the link other than the first.
struct LinkEvent {
    std::uint32_t edge;
    std::uint32_t root;
};

// Row x is the set of vertices that an earlier edge joins to x, and x itself. Rows are multiples of 64 bytes,
// aligned to 64.
struct LinkSpan {
    const std::uint32_t* ends = nullptr;  // u > v of every edge
    std::uint64_t* rows = nullptr;
    index_t row_words = 0;
    std::uint64_t* scratch = nullptr;  // three rows
    std::uint16_t* roots = nullptr;  // of pair (u, v), at u (u - 1) / 2 + v: the smallest vertex of the link
    LinkEvent* events = nullptr;
    index_t n_events = 0;
    index_t room = 0;   // for events; at least 64 row_words
    index_t next = 0;   // the edge to go on with
    index_t last = 0;   // one after the last
    index_t steps = 0;  // rows that may still be read before the kernel comes back
};

struct LinkKernels {
    const char* name;

    // Finds the links of the edges from `next`, each before it enters the rows. Comes back when `last` is
    // reached, when there may be no room for the events of another edge, or when `steps` are used up.
    void (*find)(LinkSpan& span);
};

extern const LinkKernels baseline_links;
#if defined(__x86_64__)
extern const LinkKernels avx2_links;
extern const LinkKernels avx512_links;
#endif

// Those of the same instruction set as the tile kernels.
const LinkKernels& link_kernels(const KernelTable& table);

}  // namespace repgeom
