// Sums of a covariance sketch: Y = sum w (x - s) ((x - s)^T Omega) for a random
// matrix Omega [d, l] that is made from a seed, with the first moments and the
// exact trace. One pass, memory 16 d l bytes.
//
// Tropp, Yurtsever, Udell and Cevher (2017), arXiv 1706.05736.
#pragma once

#include "eigensolver_blocks.hpp"

namespace repgeom {

struct SketchOptions {
    int threads = 1;
    const KernelTable* kernels = nullptr;
};

class CovarianceSketch {
  public:
    CovarianceSketch(index_t dim, index_t columns, std::uint64_t seed);

    // Adds rows [n, d] with weights (null: 1). Rows that hold NaN or infinity are
    // left out and counted. The first rows fix the shift.
    void update(const MatrixView& x, const double* weights, const SketchOptions& options);

    // The test matrix and the sums as [d, columns], row after row.
    void test_matrix(double* out) const { copy(test_, out); }
    void product(double* out) const { copy(product_, out); }
    void set_product(const double* values);

    const index_t dim, columns;
    const std::uint64_t seed;
    index_t count = 0, nonfinite = 0;
    double weight_sum = 0, weight_square_sum = 0,
           squares = 0;               // squares: sum w |x - s|^2
    std::vector<double> shift, sums;  // sums: sum w (x - s)

  private:
    void copy(const Block& block, double* out) const;
    std::vector<index_t> finite_rows(const MatrixView& x, const double* weights, ThreadTeam& team,
                                     const BlockTiles& tiles);
    void choose_shift(const ShiftedRows& rows, const BlockTiles& tiles);

    Block test_, product_;
};

}  // namespace repgeom
