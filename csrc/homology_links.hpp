// Persistent homology in dimensions 0 and 1 by the links of the edges.
#pragma once

#include <vector>

#include "homology_filtration.hpp"
#include "parallel.hpp"

namespace repgeom {

struct LinkResult {
    Bars components;                       // dimension 0
    Bars loops;                            // dimension 1
    std::vector<RootTriangle> candidates;  // triangles that create a class of dimension 2, in order of edges
    std::vector<RootTriangle> killers;     // triangles that destroy a class of dimension 1, in order of edges
};

struct LinkOptions {
    int field = 2;          // a prime up to 251
    bool loops = true;      // false: dimension 0 alone
    bool surfaces = false;  // whether candidates and killers are wanted
    const KernelTable* kernels = nullptr;
};

// `team` may be used, and gives the same result at any size.
LinkResult reduce_links(const Filtration& filtration, const LinkOptions& options, ThreadTeam& team,
                        Watch& watch);

}  // namespace repgeom
