// The edges of a Vietoris-Rips filtration in their total order, and what every pass over them shares.
//
// The complex is refined edge by edge: all simplices whose largest edge is e enter together with e. Bars are
// therefore pairs of edges, by their place in the order, and every algorithm gives the same ones.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "types.hpp"
#include "watch.hpp"

namespace repgeom {

using vertex_t = std::uint32_t;
using rank_t = std::uint32_t;  // place of an edge in the total order

inline constexpr rank_t no_rank = std::numeric_limits<rank_t>::max();

struct Edge {
    vertex_t u;  // the larger of the two
    vertex_t v;
};

// Vertices are renumbered so that those near the middle come first; `names` holds the caller's numbers.
struct Filtration {
    index_t n = 0;
    std::vector<vertex_t> names;
    std::vector<Edge> edges;                                   // by (length, then any fixed order)
    std::vector<float> lengths;                                // of the edges, ascending
    float threshold = std::numeric_limits<float>::infinity();  // no edge is longer
    bool cone = false;  // some vertex is joined to all others: nothing but one component lives for ever
};

// Distances as a square, symmetric matrix (row-major), as the condensed upper triangle
// (scipy's order), or as a graph whose other pairs are infinitely far. Infinite distances are no edges; NaN,
// negative ones and loops are the caller's to refuse. Edges longer than `threshold`, or than the enclosing
// radius where that is smaller, are left out.
Filtration filtration_of_square(const float* distances, index_t n, float threshold, const Watch& watch);
Filtration filtration_of_condensed(const float* distances, index_t n, float threshold, const Watch& watch);
Filtration filtration_of_graph(index_t n, const index_t* rows, const index_t* columns, const float* lengths,
                               index_t count, float threshold, const Watch& watch);

// Bars of one dimension: edges that create and destroy a class, and the simplices that do it. Bars of equal
// lengths but different edges are kept; death is `no_rank` for classes that live at the end. In dimension 0
// the births are the vertices themselves (rank 0, not used).
struct Bars {
    int dim = 0;
    std::vector<rank_t> births;
    std::vector<rank_t> deaths;
    std::vector<vertex_t> birth_simplices;  // dim + 1 renumbered vertices per bar
    std::vector<vertex_t> death_simplices;  // dim + 2 per bar; of no meaning where death is `no_rank`
};

// A triangle, by its largest edge and the vertex opposite to it.
struct RootTriangle {
    rank_t edge;
    vertex_t root;
};

}  // namespace repgeom
