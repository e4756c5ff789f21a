// Persistent cohomology in any dimension by implicit matrix reduction, in the manner of Ripser's paper.
#pragma once

#include <vector>

#include "homology_filtration.hpp"
#include "parallel.hpp"

namespace repgeom {

// A cocycle per bar, as it is in the complex below the edge of the death: simplices of dim + 1 renumbered
// vertices and their coefficients 1..field-1, in ascending order of the reduction.
//
// The vertices of all simplices here and in the bars decrease. A cochain takes its value on a simplex
// oriented by that order: the coboundary c on (v0 > v1 > ...) is the sum of (-1)^i c(... without vi ...). In
// another order of the vertices, such as that of the caller's numbers, the value is to be multiplied by the
// sign of the permutation that takes the one to the other.
struct Cocycles {
    std::vector<index_t> starts;  // of each bar, and the end
    std::vector<vertex_t> simplices;
    std::vector<std::uint8_t> coefficients;
};

// How the graph is held; the results are the same.
enum class GraphLayout { automatic, dense, sparse };

struct ReducerOptions {
    int field = 2;  // a prime up to 251
    int min_dim = 1;
    int max_dim = 1;
    bool representatives = false;
    // Triangles that destroy a class of dimension 1; needed when min_dim is 2, then nothing is reduced in
    // dimension 1.
    const std::vector<RootTriangle>* killers = nullptr;
    const KernelTable* kernels = nullptr;
    GraphLayout layout = GraphLayout::automatic;
};

struct Reduced {
    std::vector<Bars> bars;          // of min_dim..max_dim
    std::vector<Cocycles> cocycles;  // as many, or none
};

Reduced reduce_implicit(const Filtration& filtration, const ReducerOptions& options, ThreadTeam& team,
                        Watch& watch);

}  // namespace repgeom
