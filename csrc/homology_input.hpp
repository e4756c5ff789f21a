// Distances as the caller has them: checked, and as float32.
#pragma once

#include <vector>

#include "types.hpp"
#include "watch.hpp"

namespace repgeom {

struct CheckedDistances {
    const float* data = nullptr;  // the caller's own array, or `copy`
    std::vector<float> copy;
    double rounding = 0;  // largest change of a distance by rounding and by asymmetry
    // Of the triples that were tested: how far, at the most, a side is longer than the two others together.
    double triangle_excess = 0;
    index_t triples = 0;
};

// A square matrix [n, n]; float32 or float64. Throws for NaN, negative distances, a diagonal other than zero
// and asymmetry beyond 1e-6 of the enclosing radius; below it the lower triangle counts. Infinite distances
// are allowed.
CheckedDistances check_square(const MatrixView& distances, const Watch& watch);

// The condensed upper triangle of n points, as one row. Throws for a length that is not n (n - 1) / 2.
CheckedDistances check_condensed(const MatrixView& distances, index_t n, const Watch& watch);

// Lengths of edges, as one row.
CheckedDistances check_lengths(const MatrixView& lengths);

// The n of n (n - 1) / 2 distances. Throws when there is none.
index_t points_of_condensed(index_t length);

}  // namespace repgeom
