// What a call is about, checked.
#pragma once

#include "neighbors_points.hpp"

namespace repgeom {

// Throws for shapes, values and metrics that do not go together. `largest` is the largest magnitude.
Problem make_problem(const MatrixView& reference, const MatrixView* queries, const NeighborOptions& options,
                     ThreadTeam& team, double& largest);

}  // namespace repgeom
