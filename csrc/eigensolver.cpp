#include "eigensolver.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace repgeom {

namespace {

constexpr double worst_ratio = 1e-7;  // of pivots: Cholesky QR loses the square of it

SmallMatrix to_matrix(const Block& block) {
    SmallMatrix out(block.rows(), block.columns());
    for (index_t i = 0; i < out.rows(); ++i)
        for (index_t j = 0; j < out.cols(); ++j) out(i, j) = block.at(i, j);
    return out;
}

Block to_block(const SmallMatrix& matrix) {
    Block out(matrix.rows(), panels_for(matrix.cols()));
    for (index_t i = 0; i < matrix.rows(); ++i)
        for (index_t j = 0; j < matrix.cols(); ++j) out.at(i, j) = matrix(i, j);
    return out;
}

Block product(Crew& crew, const Block& a, index_t panels, const Block& s) {
    Block out(a.rows(), s.panels());
    add_product(crew, a, panels, s, 1, out);
    return out;
}

// y <- y - q (q^T y), one column of a panel at a time; returns q^T y.
double remove(const double* q, double* y, index_t n) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += q[i * panel_width] * y[i * panel_width];
    for (index_t i = 0; i < n; ++i) y[i * panel_width] -= sum * q[i * panel_width];
    return sum;
}

double norm(const double* y, index_t n) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += y[i * panel_width] * y[i * panel_width];
    return std::sqrt(sum);
}

double* column(const Block& block, index_t j) { return &block.at(0, j); }

double largest_norm(const Block& y) {
    double largest = 0;
    for (index_t j = 0; j < y.columns(); ++j) {
        const double value = norm(column(y, j), y.rows());
        if (!(value <= largest)) largest = value;  // NaN stays
    }
    return largest;
}

}  // namespace

void Operator::apply(Crew& crew, const Block& block, const Block& out) const {
    if (mean == nullptr) {
        multiply(crew, matrix, block, out);
        return;
    }
    out.clear();
    ShiftedRows rows;
    rows.x = matrix;
    rows.shift = mean;
    rows.count = matrix.rows;
    multiply_covariance(crew, rows, block, out);
    for (index_t p = 0; p < out.panels(); ++p)
        for (index_t i = 0; i < out.rows() * panel_width; ++i) out.panel(p)[i] /= denominator;
}

KrylovSpace::KrylovSpace(const Operator& op, const KrylovOptions& options)
    : op_(op),
      options_(options),
      team_(std::make_unique<ThreadTeam>(options.threads)),
      crew_{*team_, block_tiles(*options.kernels)} {
    const index_t d = op.dim();
    require(options.block_panels >= 1, "a block must have at least 1 panel", options.block_panels);
    require(options.most_panels >= 2 * options.block_panels, "the basis must hold at least two blocks",
            options.most_panels);
    require((options.most_panels + options.block_panels) * panel_width <= d,
            "the basis and a block must fit in " + std::to_string(d) + " dimensions", options.most_panels);
    basis_ = Block(d, options.most_panels);
    next_ = Block(d, options.block_panels);
    projected_ = SmallMatrix::Zero(basis_.columns(), basis_.columns());
    coupling_ = SmallMatrix::Zero(next_.columns(), next_.columns());
    fill_normal(next_, next_.columns(), options.seed, options.stream + draws_++, *team_);
    random_columns_ = next_.columns();
    for (int twice = 0; twice < 2; ++twice) {
        SmallMatrix r;
        require(cholesky_pass(next_, 0, r), "a random block must have full rank", "one that has not");
    }
}

void KrylovSpace::expand() {
    require(!full(), "the basis must have room for a block", columns());
    for (index_t p = 0; p < next_.panels(); ++p)
        std::copy_n(next_.panel(p), next_.rows() * panel_width, basis_.panel(used_ + p));
    used_ += next_.panels();
    Block y(next_.rows(), next_.panels());
    op_.apply(crew_, next_, y);
    const double largest = largest_norm(y);
    require(std::isfinite(largest), "products with the matrix must be finite", largest);
    scale_ = std::max(scale_, largest);
    SmallMatrix h = project_out(y);
    coupling_ = orthonormalize(y, h);
    record(h);
    next_ = std::move(y);
}

void KrylovSpace::record(const SmallMatrix& h) {
    const index_t b = h.cols(), before = columns() - b;
    projected_.block(0, before, before, b) = h.topRows(before);
    projected_.block(before, 0, b, before) = h.topRows(before).transpose();
    const SmallMatrix own = h.bottomRows(b);
    if (before == 0) asymmetry_ = (own - own.transpose()).norm();
    projected_.block(before, before, b, b) = (own + own.transpose()) / 2;
}

// y <- y - Q Q^T y; returns Q^T y.
SmallMatrix KrylovSpace::project_out(const Block& y) {
    const Block h(columns(), y.panels());
    inner(crew_, basis_, used_, y, h);
    add_product(crew_, basis_, used_, h, -1, y);
    return to_matrix(h);
}

// y = q r with q in the place of y, if the pivots allow it.
bool KrylovSpace::cholesky_pass(Block& y, double floor, SmallMatrix& r) {
    const Block gram(y.columns(), y.panels());
    inner(crew_, y, y.panels(), y, gram);
    const Eigen::LLT<SmallMatrix, Eigen::Upper> cholesky(to_matrix(gram));
    if (cholesky.info() != Eigen::Success) return false;
    const SmallMatrix upper = cholesky.matrixU();
    const double least = upper.diagonal().minCoeff();
    if (!(least > floor && least > worst_ratio * upper.diagonal().maxCoeff())) return false;
    const SmallMatrix inverse =
        upper.triangularView<Eigen::Upper>().solve(SmallMatrix::Identity(upper.rows(), upper.cols()));
    y = product(crew_, y, y.panels(), to_block(inverse));
    r = upper;
    return true;
}

// Gram-Schmidt inside the block, column by column and as often as it takes: y =
// q r with q in the place of y. A column that is no longer than `floor` is
// rounding noise: a random one, of length 1 and not yet orthogonal, takes its
// place.
void KrylovSpace::one_by_one(const Block& y, double floor, SmallMatrix& r) {
    const index_t d = y.rows();
    r = SmallMatrix::Zero(y.columns(), y.columns());
    Block fresh;
    for (index_t j = 0; j < y.columns(); ++j) {
        double* v = column(y, j);
        double before = norm(v, d), after = before;
        for (bool again = true; again && after > floor; before = after) {
            for (index_t i = 0; i < j; ++i)
                if (r(i, i) > 0) r(i, j) += remove(column(y, i), v, d);
            after = norm(v, d);
            again = !(after > 0.7 * before);
        }
        if (after > floor) {
            r(j, j) = after;
        } else {
            if (fresh.rows() == 0) {
                fresh = Block(d, y.panels());
                fill_normal(fresh, fresh.columns(), options_.seed, options_.stream + draws_++, *team_);
            }
            for (index_t i = 0; i < d; ++i) v[i * panel_width] = fresh.at(i, j);
            after = norm(v, d);
            ++random_columns_;
        }
        for (index_t i = 0; i < d; ++i) v[i * panel_width] /= after;
    }
}

// y, orthogonal to the basis but for rounding, becomes an orthonormal block;
// returns R and adds to h what was still found of the basis.
SmallMatrix KrylovSpace::orthonormalize(Block& y, SmallMatrix& h) {
    const double floor =
        10 * std::numeric_limits<double>::epsilon() * std::sqrt(static_cast<double>(y.rows())) * scale_;
    SmallMatrix all, more;
    if (!cholesky_pass(y, floor, all)) one_by_one(y, floor, all);
    while (true) {
        h += project_out(y) * all;
        if (cholesky_pass(y, 0.1, more)) return more * all;
        one_by_one(y, 1e-3, more);  // of columns of length 1
        all = more * all;
    }
}

std::pair<Eigen::VectorXd, SmallMatrix> KrylovSpace::ritz() const {
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(projected());
    require(solver.info() == Eigen::Success, "the projected eigenproblem must converge", "one that does not");
    return {solver.eigenvalues().reverse(), solver.eigenvectors().rowwise().reverse()};
}

void KrylovSpace::restart(const SmallMatrix& s, const Eigen::VectorXd& values) {
    require(s.rows() == columns(), "a restart needs as many rows as the basis has columns", s.rows());
    require(s.cols() % panel_width == 0 && s.cols() < columns() && s.cols() == values.size(),
            "a restart must keep fewer columns, a multiple of 24", s.cols());
    const Block kept = product(crew_, basis_, used_, to_block(s));
    used_ = kept.panels();
    for (index_t p = 0; p < used_; ++p)
        std::copy_n(kept.panel(p), kept.rows() * panel_width, basis_.panel(p));
    projected_.topLeftCorner(columns(), columns()) = values.asDiagonal();
}

void KrylovSpace::pairs(const SmallMatrix& s, const Eigen::VectorXd& values, double* vectors,
                        double* residuals) {
    require(s.rows() == columns(), "Ritz vectors need as many rows as the basis has columns", s.rows());
    const index_t d = op_.dim(), k = s.cols();
    const Block v = product(crew_, basis_, used_, to_block(s));
    const Block cv(d, v.panels());
    op_.apply(crew_, v, cv);
    for (index_t j = 0; j < k; ++j) {
        double squares = 0;
        for (index_t i = 0; i < d; ++i) {
            vectors[i * k + j] = v.at(i, j);
            const double difference = cv.at(i, j) - values[j] * v.at(i, j);
            squares += difference * difference;
        }
        residuals[j] = std::sqrt(squares);
    }
}

}  // namespace repgeom
