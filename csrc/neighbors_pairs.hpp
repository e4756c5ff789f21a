// The canonical value of a pair of rows: what "nearer" means, to the last bit, on every machine.
//
// Entries are widened to float64 (times the factor of their row), feature c adds to lane c mod 8 in order of
// c, and the lanes are added as ((0+1)+(2+3))+((4+5)+(6+7)). Products and sums round separately: no fused
// multiply-add. One template (neighbors_pairs_impl.hpp) is compiled once per instruction set.
#pragma once

#include "tile_kernels.hpp"

namespace repgeom {

// What is summed (or maximised) over the features of two rows. It orders the pairs; distance_of gives what
// users see.
enum class Measure { squared, product, manhattan, chebyshev, minkowski, hamming };
constexpr int n_measures = 6, n_dtypes = 4;

struct RowSource {
    const void* data;
    index_t row_stride;  // in elements
    index_t columns;
    const double* factors;  // of every row, or null: 1
};

// A pair of a row that is not yet ruled out: a lower bound of its key, and where its column is.
template <typename T>
struct Candidate {
    T key;
    std::int32_t column;
};

// Tables are in the order of Measure and of Dtype (types.hpp).
struct PairKernels {
    const char* name;

    // values[m] = measure(row, row rows[m] of the source); row is widened and padded with zeros to a multiple
    // of 8. The exponent is minkowski's.
    using Evaluate = void (*)(const double* row, const RowSource& source, const index_t* rows, index_t n_rows,
                              double exponent, double* values);
    Evaluate evaluate[n_measures][n_dtypes];

    // out[c] = factor * row[c], up to a multiple of 8 and 0 beyond the columns.
    using Widen = void (*)(const void* row, index_t columns, double factor, double* out);
    Widen widen[n_dtypes];

    // Largest magnitude of n elements; NaN or infinity if there is one.
    using Largest = double (*)(const void* values, index_t n);
    Largest largest[n_dtypes];

    // out[c] = scale * (row[c] - centre[c]), the difference in float64
    void (*residual32)(const double* row, const double* centre, double scale, index_t n, float* out);
    void (*residual64)(const double* row, const double* centre, double scale, index_t n, double* out);

    // For a panel of `width` rows: squares[j] += x^2, weighted[j] += weights[k] x^2 over n features, in
    // float64.
    void (*norms32)(const float* panel, index_t width, const double* weights, index_t n, double* squares,
                    double* weighted);
    void (*norms64)(const double* panel, index_t width, const double* weights, index_t n, double* squares,
                    double* weighted);

    // A value that at least k of the n >= k upper bounds key + (own + gaps[column]) do not exceed: the k-th
    // smallest, or a little more. There is room for n values.
    float (*bound32)(const Candidate<float>* candidates, index_t n, const float* gaps, float own, index_t k,
                     float* uppers);
    double (*bound64)(const Candidate<double>* candidates, index_t n, const double* gaps, double own,
                      index_t k, double* uppers);

    // The same for upper bounds that are there already.
    float (*select32)(const float* values, index_t n, index_t k);
    double (*select64)(const double* values, index_t n, index_t k);

    // Moves those whose key is at most `limit` to the front; returns how many.
    index_t (*keep32)(Candidate<float>* candidates, index_t n, float limit);
    index_t (*keep64)(Candidate<double>* candidates, index_t n, double limit);
};

extern const PairKernels baseline_pairs;
#if defined(__x86_64__)
extern const PairKernels avx2_pairs;
extern const PairKernels avx512_pairs;
#endif

// Those of the same instruction set as the tile kernels.
const PairKernels& pair_kernels(const KernelTable& table);

}  // namespace repgeom
