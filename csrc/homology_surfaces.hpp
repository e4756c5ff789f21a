// Persistent homology in dimension 2 by cohomology on the extra component roots of the links.
#pragma once

#include <vector>

#include "homology_filtration.hpp"
#include "parallel.hpp"

namespace repgeom {

struct SurfaceOptions {
    int field = 2;  // a prime up to 251
    const KernelTable* kernels = nullptr;
    // Over Z/2 a class that takes more work than this many units (about a nanosecond each) goes on as bitsets
    // of all its triangles, which may need n^3 / 16 bytes; below 0: never. The bars do not depend on it.
    index_t bitsets_after = 30000;
};

// `candidates` as reduce_links() gives them: every triangle (edge, root) creates a class of dimension 2, and
// the root is the smallest vertex of its component of the link.
Bars reduce_surfaces(const Filtration& filtration, const std::vector<RootTriangle>& candidates,
                     const SurfaceOptions& options, Watch& watch);

}  // namespace repgeom
