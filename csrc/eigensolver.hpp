// Randomized block Krylov spaces of a symmetric operator, with an orthonormal
// basis and the operator's exact projection on it: everything of a
// Rayleigh-Ritz method but the small eigenproblem.
//
// The recurrence C Q = Q T + Q' R E^T keeps Q orthonormal by block
// Gram-Schmidt, done twice, and Cholesky QR, done twice; T = Q^T C Q is kept in
// full. Of a Ritz pair (theta, Q s) the residual is |R s_last|, s_last being
// the last entries of s. Where a block loses rank, lost columns are replaced by
// random ones.
//
// Musco and Musco (2015), arXiv 1504.05477; Tropp and Webber (2023), arXiv
// 2306.12418; Fukaya et al. (2014), "CholeskyQR2"; Wu and Simon (2000),
// "Thick-restart Lanczos method".
#pragma once

#include <Eigen/Core>
#include <memory>
#include <utility>

#include "eigensolver_blocks.hpp"

namespace repgeom {

using SmallMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A symmetric matrix [d, d] in float64, or the covariance of rows [n, d], (x -
// mean)^T (x - mean) / denominator, which is never formed.
struct Operator {
    MatrixView matrix;
    const double* mean = nullptr;  // null: the matrix itself
    double denominator = 1;

    index_t dim() const { return matrix.columns; }
    void apply(Crew& crew, const Block& block, const Block& out) const;
};

struct KrylovOptions {
    index_t block_panels = 1;  // columns of a block, in panels
    index_t most_panels = 1;   // of the basis
    std::uint64_t seed = 0;
    std::uint64_t stream = 0;
    int threads = 1;
    const KernelTable* kernels = nullptr;
};

class KrylovSpace {
  public:
    KrylovSpace(const Operator& op, const KrylovOptions& options);

    // One product with a block: the basis grows by it, and the next block is made
    // ready.
    void expand();

    // Replaces the basis by count Ritz vectors Q s; s is [columns, count], count
    // a multiple of 24. The block that expand() made ready stays.
    void restart(const SmallMatrix& s, const Eigen::VectorXd& values);

    // Ritz vectors Q s ([d, k], row after row) and the norms of C v - theta v, by
    // a product with each of them.
    void pairs(const SmallMatrix& s, const Eigen::VectorXd& values, double* vectors, double* residuals);

    index_t columns() const { return used_ * panel_width; }  // of the basis, products known
    bool full() const { return used_ + options_.block_panels > options_.most_panels; }
    index_t random_columns() const { return random_columns_; }  // drawn so far: copies of a value it can see
    double scale() const { return scale_; }                     // largest norm of C q: a lower bound of |C|
    double asymmetry() const { return asymmetry_; }             // |Q^T (C - C^T) Q|_F of the first block
    // Eigenvalues of the projection, descending, and their vectors as columns.
    std::pair<Eigen::VectorXd, SmallMatrix> ritz() const;

    SmallMatrix projected() const { return projected_.topLeftCorner(columns(), columns()); }
    const SmallMatrix& coupling() const { return coupling_; }  // R

  private:
    void record(const SmallMatrix& coefficients);
    SmallMatrix project_out(const Block& y);
    bool cholesky_pass(Block& y, double floor, SmallMatrix& r);
    void one_by_one(const Block& y, double floor, SmallMatrix& r);
    SmallMatrix orthonormalize(Block& y, SmallMatrix& h);

    Operator op_;
    KrylovOptions options_;
    std::unique_ptr<ThreadTeam> team_;
    Crew crew_;
    index_t used_ = 0, random_columns_ = 0;
    std::uint64_t draws_ = 0;
    double scale_ = 0, asymmetry_ = 0;
    Block basis_, next_;
    SmallMatrix projected_, coupling_;
};

}  // namespace repgeom
