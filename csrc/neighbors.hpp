// Certified exact k nearest neighbours, and ranks by counting.
//
// The neighbours of row i are the k smallest under (value of the pair, index), the value in float64 as
// neighbors_pairs.hpp defines it. Fast products only filter: every pair gets a lower and an upper bound of
// its value, and a pair is dropped only when its lower bound lies above k upper bounds. What is left is
// evaluated exactly, so that the lists are the same bits for any number of threads and any instruction set.
#pragma once

#include <functional>
#include <string>

#include "parallel.hpp"
#include "types.hpp"

namespace repgeom {

enum class Metric {
    euclidean,
    cosine,         // half the squared distance of the normalised rows: 1 - cos without cancellation
    inner_product,  // minus the inner product, so that the largest come first
    manhattan,
    chebyshev,
    minkowski,
    hamming,  // share of unequal entries
    precomputed,
};

struct NeighborOptions {
    Metric metric = Metric::euclidean;
    double exponent = 2;       // of minkowski
    bool exclude_self = true;  // by index; of no effect with queries
    int threads = 1;
    const KernelTable* kernels = nullptr;
    std::size_t memory_limit = 0;          // bytes beyond input and output; 0: none
    std::function<void(double)> progress;  // told the share that is done, on the calling thread; may throw
};

// How the lists were found and why they are right.
struct Certificate {
    std::string path;
    index_t centres = 1;
    double error_bound = 0;  // |filter's value - value| is at most this for every pair
    index_t survivors = 0;   // pairs that passed the filter, each counted at every row it passed for
    index_t survivors_max = 0;
    index_t evaluated = 0;  // of them evaluated in float64
    index_t evaluated_max = 0;
    index_t rows_resolved_early = 0;  // rows whose bounds alone could not keep their lists short
    index_t row_panels = 1;
    std::size_t bytes = 0;
};

// The k nearest rows of `reference` to every row of `queries` (null: of reference itself). distances and
// indices are [rows, k].
Certificate nearest_neighbors(const MatrixView& reference, const MatrixView* queries, index_t k,
                              const NeighborOptions& options, double* distances, index_t* indices);

// ranks[i, m] = how many rows other than i are at least as near to row i as row points[i, m], itself counted:
// 1 + #{j != i: (value(i, j), j) < (value(i, points[i, m]), points[i, m])}.
Certificate neighbor_ranks(const MatrixView& x, const index_t* points, index_t m,
                           const NeighborOptions& options, index_t* ranks);

}  // namespace repgeom
