// Distances of all pairs of points, and the landmarks of a cloud.
#pragma once

#include <vector>

#include "neighbors.hpp"
#include "watch.hpp"

namespace repgeom {

// Writes [n, n] float32: every distance is the float64 value of neighbors_pairs.hpp, rounded. Fast products
// decide where their error bound leaves one float32 only; all other pairs are evaluated exactly, so that the
// result is the same on every machine. Returns a bound of |written - true distance| over all pairs.
double pairwise_distances(const MatrixView& x, Metric metric, double exponent, const KernelTable& kernels,
                          ThreadTeam& team, const Watch& watch, float* distances);

struct Landmarks {
    std::vector<index_t> rows;
    double cover_radius = 0;  // no point is farther from its nearest landmark
};

// Farthest-point sampling: `first`, then always the point farthest from those chosen (Gonzalez 1985);
// fewer than `count` where they are no farther than 0 from all points.
Landmarks farthest_points(const MatrixView& x, Metric metric, double exponent, index_t count, index_t first,
                          const KernelTable& kernels, ThreadTeam& team, const Watch& watch);

}  // namespace repgeom
