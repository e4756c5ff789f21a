// Moments against Eigen in float64, with runs and a workspace so small that a few rows make several runs,
// chunks and groups of jobs.
#include "covariance.hpp"

#include <Eigen/Core>
#include <cstring>
#include <random>

#include "check.hpp"
#include "cpu_dispatch.hpp"

using repgeom::Batch;
using repgeom::Dtype;
using repgeom::index_t;
using repgeom::MatrixView;
using repgeom::Moments;
using repgeom::Side;
using repgeom::UpdateOptions;
using repgeom::Weighting;
using repgeom::Workspace;

namespace {

template <typename T>
using Rows = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Matrix = Rows<double>;
using Vector = Eigen::VectorXd;

Matrix normal_rows(index_t rows, index_t columns, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    Matrix x(rows, columns);
    for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < columns; ++j) x(i, j) = normal(engine) + 3 * (j % 4);
    x.col(0).array() += 1000;
    return x;
}

template <typename T>
constexpr Dtype dtype = std::is_same_v<T, double>        ? Dtype::float64
                        : std::is_same_v<T, float>       ? Dtype::float32
                        : std::is_same_v<T, Eigen::half> ? Dtype::float16
                                                         : Dtype::bfloat16;

template <typename T>
MatrixView view(const Rows<T>& x, index_t first = 0, index_t rows = -1) {
    return {x.data() + first * x.cols(), dtype<T>, rows < 0 ? x.rows() : rows, x.cols(), x.cols()};
}

struct Truth {
    Vector mean_x, mean_y;
    Matrix covariance;
};

Truth truth(const Matrix& x, const Matrix& y, const Vector& weights, double denominator) {
    Truth out;
    out.mean_x = x.transpose() * weights / weights.sum();
    out.mean_y = y.transpose() * weights / weights.sum();
    const Matrix left = x.rowwise() - out.mean_x.transpose(), right = y.rowwise() - out.mean_y.transpose();
    out.covariance = left.transpose() * weights.asDiagonal() * right / denominator;
    return out;
}

Vector scale_of(const Moments& m, const Side& side, double denominator) {
    Vector scale(side.dim);
    m.error_scale(side, denominator, scale.data());
    return scale;
}

void check_within(const Matrix& found, const Matrix& expected, const Vector& left, const Vector& right) {
    for (index_t i = 0; i < found.rows(); ++i)
        for (index_t j = 0; j < found.cols(); ++j)
            CHECK(repgeom::test::close(found(i, j), expected(i, j), left[i] * right[j]));
}

void check_mean(const Moments& m, const Side& side, const Vector& expected, double tolerance) {
    Vector mean(side.dim);
    m.mean(side, mean.data());
    for (index_t j = 0; j < side.dim; ++j) CHECK(repgeom::test::close(mean[j], expected[j], tolerance));
}

void check_moments(const Moments& m, const Matrix& x, const Vector& weights) {
    const double denominator = m.denominator(1, Weighting::frequency);
    CHECK(repgeom::test::close(denominator, weights.sum() - 1, 1e-9));
    const Truth expected = truth(x, x, weights, denominator);
    Matrix found(m.x.dim, m.x.dim);
    m.covariance(denominator, found.data());
    const Vector scale = scale_of(m, m.x, denominator);
    CHECK(scale.maxCoeff() < 0.05);
    check_within(found, expected.covariance, scale, scale);
    check_mean(m, m.x, expected.mean_x, 1e-5);
}

void check_cross(const Moments& m, const Matrix& x, const Matrix& y, const Vector& weights) {
    const double denominator = m.denominator(1, Weighting::frequency);
    const Truth expected = truth(x, y, weights, denominator);
    Matrix found(m.x.dim, m.cross.dim);
    m.cross_covariance(denominator, found.data());
    check_within(found, expected.covariance, scale_of(m, m.x, denominator),
                 scale_of(m, m.cross, denominator));
    check_mean(m, m.cross, expected.mean_y, 1e-5);
}

UpdateOptions options_of(const char* set, int threads, index_t run, std::size_t bytes) {
    UpdateOptions options;
    options.threads = threads;
    options.kernels = &repgeom::kernels(set);
    options.run = run;
    options.workspace_bytes = bytes;
    return options;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

bool same(const Side& a, const Side& b) {
    return same_bits(a.shift, b.shift) && same_bits(a.sum, b.sum) && same_bits(a.square, b.square) &&
           same_bits(a.error, b.error);
}

bool same(const Moments& a, const Moments& b) {
    return a.count == b.count && a.nonfinite == b.nonfinite && a.weight_sum == b.weight_sum &&
           same(a.x, b.x) && same(a.cross, b.cross) && same_bits(a.second, b.second) &&
           same_bits(a.cross_second, b.cross_second);
}

// Four layers of all types, one with a second stream, in two calls.
struct Layers {
    Matrix source = normal_rows(311, 130, 1);
    Rows<float> a = source.leftCols(61).cast<float>();
    Rows<double> b = source.middleCols(3, 97);
    Rows<Eigen::half> c = source.rightCols(9).cast<Eigen::half>();
    Rows<Eigen::bfloat16> d = source.middleCols(60, 49).cast<Eigen::bfloat16>();
    Rows<Eigen::half> y = source.rightCols(50).cast<Eigen::half>();
    Vector weights = Vector::Ones(311);

    std::vector<Moments> moments() const { return {Moments(61), Moments(97), Moments(9), Moments(49, 50)}; }

    void update(std::vector<Moments>& out, const UpdateOptions& options, bool weighted) const {
        Workspace workspace;
        std::vector<Moments*> pointers;
        for (Moments& m : out) pointers.push_back(&m);
        for (const auto& [first, rows] : {std::pair<index_t, index_t>{0, 120}, {120, 191}}) {
            const double* w = weighted ? weights.data() + first : nullptr;
            const std::vector<Batch> batches{{view(a, first, rows), {}, w},
                                             {view(b, first, rows), {}, w},
                                             {view(c, first, rows), {}, w},
                                             {view(d, first, rows), view(y, first, rows), w}};
            const auto dropped = repgeom::update(pointers, batches, options, workspace);
            CHECK(dropped == std::vector<index_t>(4, 0));
        }
    }

    void check(const std::vector<Moments>& found) const {
        check_moments(found[0], a.cast<double>(), weights);
        check_moments(found[1], b, weights);
        check_moments(found[2], c.cast<double>(), weights);
        check_moments(found[3], d.cast<double>(), weights);
        check_cross(found[3], d.cast<double>(), y.cast<double>(), weights);
    }
};

void check_layers(const char* set, index_t run, std::size_t bytes, bool weighted) {
    Layers layers;
    for (index_t i = 0; weighted && i < 311; ++i) layers.weights[i] = 0.5 * static_cast<double>(i % 4);
    std::vector<Moments> one = layers.moments();
    layers.update(one, options_of(set, 1, run, bytes), weighted);
    layers.check(one);
    for (const int threads : {2, 3}) {
        std::vector<Moments> other = layers.moments();
        layers.update(other, options_of(set, threads, run, bytes), weighted);
        for (std::size_t i = 0; i < one.size(); ++i) CHECK(same(one[i], other[i]));
    }
}

Moments moments_of(const Rows<float>& x, index_t first, index_t rows) {
    Moments m(x.cols());
    Workspace workspace;
    const std::vector<Moments*> moments{&m};
    const std::vector<Batch> batches{{view(x, first, rows), {}, nullptr}};
    repgeom::update(moments, batches, options_of("", 2, 32, 4096), workspace);
    return m;
}

void merging() {
    const Rows<float> x = normal_rows(400, 37, 2).cast<float>();
    const Matrix wide = x.cast<double>();
    Moments left = moments_of(x, 0, 1), right = moments_of(x, 1, 250);
    const Moments last = moments_of(x, 251, 149);
    right.merge(last);
    left.merge(right);
    CHECK(left.count == 400);
    check_moments(left, wide, Vector::Ones(400));
    bool caught = false;
    try {
        left.merge(Moments(38));
    } catch (const std::invalid_argument& error) {
        caught = std::strcmp(error.what(), "both moments must have dim 37, got 38") == 0;
    }
    CHECK(caught);
}

// After a far first row, moving the shift must bring the bound down and leave the numbers.
void recentring() {
    Rows<float> x = normal_rows(300, 12, 3).cast<float>();
    x.row(0).array() += 1e4f;
    Moments m = moments_of(x, 0, 1);
    m.merge(moments_of(x, 1, 299));
    check_moments(m, x.cast<double>(), Vector::Ones(300));
    m.recentred = 0;
    m.recentre();
    check_moments(m, x.cast<double>(), Vector::Ones(300));
    for (index_t j = 0; j < 12; ++j) {
        const double mean = m.x.sum[j] / 300, variance = m.x.square[j] / 300 - mean * mean;
        CHECK(mean * mean <= 16 * variance * (1 + 1e-9));
    }
}

void shifts_are_rounded_to_the_spread() {
    CHECK(repgeom::rounded_shift(1000.3, 0) == 1000.3);
    CHECK(repgeom::rounded_shift(1000.3, 1.5) == 1000);
    CHECK(repgeom::rounded_shift(1000.3, 0.3) == 1000.25);
    CHECK(repgeom::rounded_shift(-7, 5) == -8);
    for (const double centre : {1e39, -1e200, 1.7e308}) {
        // Beyond float32 too, the shift must be a number to subtract.
        CHECK(std::isfinite(repgeom::rounded_shift(centre, 0)));
        CHECK(std::isfinite(repgeom::rounded_shift(centre, centre > 0 ? centre / 10 : 1)));
    }
}

void bad_rows_are_dropped_in_every_chunk() {
    Rows<float> x = normal_rows(200, 20, 4).cast<float>();
    Matrix good(0, 20);
    for (index_t i = 0; i < 200; ++i) {
        if (i % 31 == 0 || (i >= 64 && i < 128)) {
            x(i, i % 20) = i % 2 == 0 ? std::nanf("") : INFINITY;
            continue;
        }
        good.conservativeResize(good.rows() + 1, 20);
        good.bottomRows(1) = x.row(i).cast<double>();
    }
    Moments m(20);
    Workspace workspace;
    const std::vector<Moments*> moments{&m};
    const std::vector<Batch> batches{{view(x), {}, nullptr}};
    const auto dropped = repgeom::update(moments, batches, options_of("", 2, 32, 1), workspace);
    CHECK(dropped[0] == 200 - good.rows());
    CHECK(m.nonfinite == dropped[0]);
    check_moments(m, good, Vector::Ones(good.rows()));
}

void one_statistic_twice_is_refused() {
    Moments m(3);
    const Rows<float> x = Rows<float>::Ones(4, 3);
    Workspace workspace;
    const std::vector<Moments*> moments{&m, &m};
    const std::vector<Batch> batches(2, Batch{view(x), {}, nullptr});
    bool caught = false;
    try {
        repgeom::update(moments, batches, options_of("", 1, 32, 1), workspace);
    } catch (const std::invalid_argument&) {
        caught = true;
    }
    CHECK(caught);
    CHECK(m.count == 0);
}

}  // namespace

int main() {
    for (const repgeom::KernelTable* table : repgeom::available_kernels())
        for (const auto& [run, bytes] :
             {std::pair<index_t, std::size_t>{16, 1}, {16, 40'000}, {7, 1}, {512, 1 << 24}})
            for (const bool weighted : {false, true}) check_layers(table->name, run, bytes, weighted);
    merging();
    recentring();
    shifts_are_rounded_to_the_spread();
    bad_rows_are_dropped_in_every_chunk();
    one_statistic_twice_is_refused();
    return repgeom::test::failures() != 0;
}
