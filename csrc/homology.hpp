// Vietoris-Rips persistent homology of points, distances and graphs.
//
// Dimensions 0 and 1 by links (homology_links.hpp), 2 by cohomology on what the links leave over
// (homology_surfaces.hpp), higher ones, large sparse graphs and cocycles by implicit reduction
// (homology_reducer.hpp). All of them pair the same edges.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "neighbors.hpp"

namespace repgeom {

enum class CloudKind { points, square, condensed, graph };

// One cloud, in memory of the caller. A graph is given by the ends and the lengths of its edges, each pair
// once; its n is `vertices`.
struct Cloud {
    CloudKind kind = CloudKind::points;
    MatrixView values;  // points [n, d], distances [n, n] or [1, n (n - 1) / 2], lengths [1, edges]
    index_t vertices = 0;
    const index_t* rows = nullptr;
    const index_t* columns = nullptr;
};

enum class RipsMethod { automatic, links, reducer };

struct RipsOptions {
    Metric metric = Metric::euclidean;  // of points
    double exponent = 2;                // of minkowski
    int max_dim = 1;
    int field = 2;
    float threshold = std::numeric_limits<float>::infinity();
    float min_persistence = 0;  // bars of this length or less are left out; those of length 0 always are
    bool representatives = false;
    RipsMethod method = RipsMethod::automatic;
    const KernelTable* kernels = nullptr;
    int threads = 1;
    std::function<void(double)> progress;  // told the share that is done every 50 ms or so; may throw
};

// Vertices have the caller's numbers, those of a simplex ascending.
struct RipsDimension {
    std::vector<float> bars;      // births and deaths, by (birth, death)
    std::vector<float> infinite;  // births
    std::vector<index_t> birth_simplices, death_simplices, infinite_simplices;
    // Of the bars, then of the infinite ones.
    std::vector<index_t> cocycle_starts, cocycle_simplices, cocycle_coefficients;
};

struct RipsResult {
    index_t n = 0;
    index_t edges = 0;
    float threshold = 0;
    bool enclosing = false;  // the threshold is the enclosing radius
    double error_bound = 0;  // of every distance, hence of every birth and death
    double triangle_excess = 0;
    index_t triples = 0;
    std::string method;
    std::vector<RipsDimension> dimensions;  // 0..max_dim
};

// Clouds are worked on side by side where there are several, else one of them on all threads.
std::vector<RipsResult> rips(const std::vector<Cloud>& clouds, const RipsOptions& options);

}  // namespace repgeom
