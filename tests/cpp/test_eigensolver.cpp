// Blocks, Krylov spaces and sketches against Eigen in float64.
#include "eigensolver.hpp"

#include <Eigen/Dense>
#include <random>

#include "check.hpp"
#include "sketch.hpp"

using namespace repgeom;

namespace {

SmallMatrix normal_matrix(index_t rows, index_t columns, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    SmallMatrix out(rows, columns);
    for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < columns; ++j) out(i, j) = normal(engine);
    return out;
}

SmallMatrix matrix_of(const Block& block) {
    SmallMatrix out(block.rows(), block.columns());
    for (index_t i = 0; i < block.rows(); ++i)
        for (index_t j = 0; j < block.columns(); ++j) out(i, j) = block.at(i, j);
    return out;
}

Block block_of(const SmallMatrix& matrix) {
    Block out(matrix.rows(), panels_for(matrix.cols()));
    for (index_t i = 0; i < matrix.rows(); ++i)
        for (index_t j = 0; j < matrix.cols(); ++j) out.at(i, j) = matrix(i, j);
    return out;
}

bool near(const SmallMatrix& a, const SmallMatrix& b, double tolerance) {
    return a.rows() == b.rows() && a.cols() == b.cols() && (a - b).cwiseAbs().maxCoeff() <= tolerance;
}

MatrixView view(const SmallMatrix& m) { return {m.data(), Dtype::float64, m.rows(), m.cols(), m.cols()}; }

void test_products(const KernelTable& table) {
    ThreadTeam team(3);
    Crew crew{team, block_tiles(table)};
    for (const index_t d : {1, 7, 24, 101, 613}) {
        const SmallMatrix c = normal_matrix(d, d, 1), q = normal_matrix(d, 48, 2),
                          y = normal_matrix(d, 24, 3);
        const Block out(d, 2), qb = block_of(q), yb = block_of(y), h(48, 1);
        multiply(crew, view(c), qb, out);
        CHECK(near(matrix_of(out), c * q, 1e-11));
        inner(crew, qb, 2, yb, h);
        CHECK(near(matrix_of(h), q.transpose() * y, 1e-11));
        add_product(crew, qb, 2, h, -1, yb);
        CHECK(near(matrix_of(yb), y - q * (q.transpose() * y), 1e-10));
    }
}

void test_covariance_products(const KernelTable& table) {
    ThreadTeam team(2);
    Crew crew{team, block_tiles(table)};
    const SmallMatrix x = normal_matrix(301, 130, 4), q = normal_matrix(130, 24, 5);
    const Eigen::VectorXd mean = x.colwise().mean();
    const std::vector<index_t> kept{0, 5, 17, 300};
    const std::vector<double> weights{1, 0.5, 2, 3};
    ShiftedRows rows;
    rows.x = view(x);
    rows.shift = mean.data();
    rows.kept = kept.data();
    rows.weights = weights.data();
    rows.count = 4;
    const Block out(130, 1);
    std::vector<double> sums(130, 0.0);
    double squares = 0, expected_squares = 0;
    multiply_covariance(crew, rows, block_of(q), out, sums.data(), &squares);
    SmallMatrix expected = SmallMatrix::Zero(130, 130);
    Eigen::RowVectorXd expected_sums = Eigen::RowVectorXd::Zero(130);
    for (std::size_t i = 0; i < kept.size(); ++i) {
        const Eigen::RowVectorXd row = x.row(kept[i]) - mean.transpose();
        expected += weights[i] * row.transpose() * row;
        expected_sums += weights[i] * row;
        expected_squares += weights[i] * row.squaredNorm();
    }
    CHECK(near(matrix_of(out), expected * q, 1e-11));
    CHECK(test::close(squares, expected_squares, 1e-10));
    for (index_t j = 0; j < 130; ++j) CHECK(test::close(sums[j], expected_sums[j], 1e-12));
}

SmallMatrix with_values(const Eigen::VectorXd& values) {
    const Eigen::HouseholderQR<SmallMatrix> qr(normal_matrix(values.size(), values.size(), 6));
    const SmallMatrix q = qr.householderQ();
    const SmallMatrix c = q * values.asDiagonal() * q.transpose();
    return (c + c.transpose()) / 2;
}

KrylovOptions options(int threads) {
    KrylovOptions out;
    out.most_panels = 8;
    out.threads = threads;
    out.kernels = &kernels("");
    return out;
}

// C Q = Q T + Q' R E^T, seen through Ritz pairs: the free residuals are the true ones.
void check_pairs(KrylovSpace& space, const SmallMatrix& c, double scale) {
    const auto [values, s] = space.ritz();
    const index_t k = std::min<index_t>(30, space.columns()), d = c.rows();
    const SmallMatrix leading = s.leftCols(k),
                      last = space.coupling() * leading.bottomRows(space.coupling().rows());
    SmallMatrix vectors(d, k);
    Eigen::VectorXd residuals(k);
    space.pairs(leading, values.head(k), vectors.data(), residuals.data());
    CHECK(near(vectors.transpose() * vectors, SmallMatrix::Identity(k, k), 1e-12));
    const SmallMatrix truth = c * vectors - vectors * values.head(k).asDiagonal();
    for (index_t j = 0; j < k; ++j) {
        CHECK(test::close(residuals[j], truth.col(j).norm(), 1e-12 * scale));
        CHECK(test::close(last.col(j).norm(), residuals[j], 1e-11 * scale));
    }
}

void test_krylov() {
    const index_t d = 420;
    Eigen::VectorXd decaying(d), spike = Eigen::VectorXd::Constant(d, 1), low = Eigen::VectorXd::Zero(d);
    for (index_t i = 0; i < d; ++i) decaying[i] = std::exp(-static_cast<double>(i) / 5);
    spike[0] = 1e8;
    low.head(30).setLinSpaced(30, 2, 1);
    for (const Eigen::VectorXd& values : {decaying, spike, low, Eigen::VectorXd(Eigen::VectorXd::Ones(d))}) {
        const SmallMatrix c = with_values(values);
        KrylovSpace space({view(c)}, options(2)), other({view(c)}, options(1));
        while (!space.full()) {
            space.expand();
            other.expand();
            check_pairs(space, c, values[0]);
        }
        CHECK(near(space.projected(), other.projected(), 0));
        const auto [ritz, s] = space.ritz();
        space.restart(s.leftCols(48), ritz.head(48));
        CHECK(space.columns() == 48);
        space.expand();
        check_pairs(space, c, values[0]);
    }
}

void test_refusals() {
    const SmallMatrix c = SmallMatrix::Identity(100, 100);
    KrylovOptions wide = options(1);
    int refused = 0;
    try {
        KrylovSpace({view(c)}, wide);
    } catch (const std::invalid_argument&) {
        ++refused;
    }
    SmallMatrix bad = SmallMatrix::Identity(400, 400);
    bad(3, 4) = std::nan("");
    KrylovSpace space({view(bad)}, options(1));
    try {
        space.expand();
    } catch (const std::invalid_argument&) {
        ++refused;
    }
    CHECK(refused == 2);
}

void test_sketch() {
    const SmallMatrix x = normal_matrix(90, 60, 7);
    SketchOptions with;
    with.kernels = &kernels("");
    with.threads = 2;
    CovarianceSketch sketch(60, 10, 3);
    sketch.update(view(x), nullptr, with);
    SmallMatrix omega(60, 10), product(60, 10);
    sketch.test_matrix(omega.data());
    sketch.product(product.data());
    const Eigen::Map<const Eigen::RowVectorXd> shift(sketch.shift.data(), 60);
    const SmallMatrix moved = x.rowwise() - shift;
    CHECK(near(product, moved.transpose() * (moved * omega), 1e-10));
    CHECK(test::close(sketch.squares, moved.squaredNorm(), 1e-9));
    // 600 standard normal numbers: mean and variance within five standard errors.
    CHECK(std::fabs(omega.mean()) <= 5 / std::sqrt(600.0));
    CHECK(std::fabs(omega.squaredNorm() / 600 - 1) <= 5 * std::sqrt(2.0 / 600));
}

}  // namespace

int main() {
    for (const KernelTable* table : available_kernels()) {
        test_products(*table);
        test_covariance_products(*table);
    }
    test_krylov();
    test_refusals();
    test_sketch();
    return repgeom::test::failures() != 0;
}
