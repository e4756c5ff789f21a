#include "covariance.hpp"

#include <unistd.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

namespace repgeom {

double rounded_shift(double centre, double spread) {
    if (!(spread > 0)) return centre;
    const double grid = std::exp2(std::floor(std::log2(spread)));
    return std::nearbyint(centre / grid) * grid;
}

namespace {

constexpr double unit64 = std::numeric_limits<double>::epsilon() / 2;

index_t triangle(index_t rows) { return rows * (rows + 1) / 2; }

std::vector<double> difference(const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> out(a.size());
    for (std::size_t j = 0; j < a.size(); ++j) out[j] = a[j] - b[j];
    return out;
}

// The diagonal bounds every other entry.
void require_finite(const Side& side) {
    const auto finite = [](double square) { return std::isfinite(square); };
    require(std::all_of(side.square.begin(), side.square.end(), finite),
            "second moments must be finite in float64", "an overflow");
}

bool any_nonzero(const std::vector<double>& values) {
    return std::any_of(values.begin(), values.end(), [](double v) { return v != 0; });
}

// The sums of `side`, whose shift is `delta` above the wanted one, about the wanted one.
void shift_side(Side& side, const std::vector<double>& delta, double weight, index_t count) {
    for (std::size_t j = 0; j < delta.size(); ++j) {
        if (delta[j] == 0) continue;
        const double moved = side.square[j] + delta[j] * (2 * side.sum[j] + weight * delta[j]);
        side.error[j] += unit64 * ((64 + static_cast<double>(count)) * std::max(0.0, side.square[j]) +
                                   8 * std::abs(moved));
        side.square[j] = moved;
        side.sum[j] += weight * delta[j];
        side.shift[j] -= delta[j];
    }
}

void add_side(Side& into, const Side& from) {
    for (std::size_t j = 0; j < into.sum.size(); ++j) {
        into.sum[j] += from.sum[j];
        into.square[j] += from.square[j];
        into.error[j] += from.error[j];
    }
}

}  // namespace

Side::Side(index_t d)
    : dim(d),
      shift(static_cast<std::size_t>(d)),
      sum(static_cast<std::size_t>(d)),
      square(static_cast<std::size_t>(d)),
      error(static_cast<std::size_t>(d)) {}

Moments::Moments(index_t dim, index_t cross_dim)
    : x((require(dim >= 1, "dim must be at least 1", dim), dim)),
      cross((require(cross_dim >= 0, "cross_dim must not be negative", cross_dim), cross_dim)),
      second(static_cast<std::size_t>(triangle(dim))),
      cross_second(static_cast<std::size_t>(dim * cross_dim)) {}

double Moments::denominator(double ddof, Weighting weighting) const {
    const double lost = weighting == Weighting::frequency ? ddof : ddof * weight_square_sum / weight_sum;
    const double left = weight_sum - lost;
    // Weights that sum to 1 leave rounding noise here, not a denominator.
    require(count >= 1 && left > 1e-9 * weight_sum,
            "a covariance needs more weight than ddof takes away (weights that are no counts: "
            "weighting='reliability')",
            left);
    return left;
}

void Moments::mean(const Side& side, double* out) const {
    require(weight_sum > 0, "a mean needs at least one row", count);
    for (index_t j = 0; j < side.dim; ++j) out[j] = side.shift[j] + side.sum[j] / weight_sum;
}

void Moments::variance(double denominator, double* out) const {
    require_finite(x);
    for (index_t j = 0; j < x.dim; ++j)
        out[j] = std::max(0.0, (x.square[j] - x.sum[j] * x.sum[j] / weight_sum) / denominator);
}

void Moments::covariance(double denominator, double* out) const {
    require_finite(x);
    for (index_t i = 0; i < x.dim; ++i) {
        const double* row = second.data() + triangle(i);
        const double mean_i = x.sum[i] / weight_sum;
        for (index_t j = 0; j <= i; ++j) out[i * x.dim + j] = (row[j] - mean_i * x.sum[j]) / denominator;
        out[i * x.dim + i] = std::max(0.0, out[i * x.dim + i]);
    }
    using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    Eigen::Map<Matrix> full(out, x.dim, x.dim);
    full.triangularView<Eigen::StrictlyUpper>() = full.transpose();
}

void Moments::cross_covariance(double denominator, double* out) const {
    require(cross.dim > 0, "a cross-covariance needs cross_dim >= 1", cross.dim);
    require_finite(x);
    require_finite(cross);
    for (index_t i = 0; i < x.dim; ++i) {
        const double mean_i = x.sum[i] / weight_sum;
        for (index_t j = 0; j < cross.dim; ++j) {
            const index_t at = i * cross.dim + j;
            out[at] = (cross_second[at] - mean_i * cross.sum[j]) / denominator;
        }
    }
}

void Moments::error_scale(const Side& side, double denominator, double* out) const {
    const double float64_part = unit64 * (64 + static_cast<double>(count));
    for (index_t j = 0; j < side.dim; ++j)
        out[j] = std::sqrt((side.error[j] + float64_part * std::max(0.0, side.square[j])) / denominator);
}

namespace {

void require_same_dims(const Moments& a, const Moments& b) {
    require(a.x.dim == b.x.dim, "both moments must have dim " + std::to_string(a.x.dim), b.x.dim);
    require(a.cross.dim == b.cross.dim, "both moments must have cross_dim " + std::to_string(a.cross.dim),
            b.cross.dim);
}

// S2 += w-weighted rank-two correction that moves sums about s + delta to sums about s.
void shift_second(std::vector<double>& second, const Side& x, const std::vector<double>& delta,
                  double weight) {
    for (index_t i = 0; i < x.dim; ++i) {
        double* row = second.data() + triangle(i);
        const double sum_i = x.sum[i] + weight * delta[i];
        for (index_t j = 0; j <= i; ++j) row[j] += delta[i] * x.sum[j] + sum_i * delta[j];
    }
}

void shift_cross_second(std::vector<double>& second, const Side& x, const Side& y,
                        const std::vector<double>& delta_x, const std::vector<double>& delta_y,
                        double weight) {
    for (index_t i = 0; i < x.dim; ++i) {
        double* row = second.data() + i * y.dim;
        const double sum_i = x.sum[i] + weight * delta_x[i];
        for (index_t j = 0; j < y.dim; ++j) row[j] += delta_x[i] * y.sum[j] + sum_i * delta_y[j];
    }
}

void add_to(std::vector<double>& into, const std::vector<double>& from) {
    for (std::size_t k = 0; k < into.size(); ++k) into[k] += from[k];
}

// All sums about shifts that lie delta below the present ones.
void shift_moments(Moments& m, const std::vector<double>& delta_x, const std::vector<double>& delta_y) {
    if (any_nonzero(delta_x)) shift_second(m.second, m.x, delta_x, m.weight_sum);
    if (any_nonzero(delta_x) || any_nonzero(delta_y))
        shift_cross_second(m.cross_second, m.x, m.cross, delta_x, delta_y, m.weight_sum);
    shift_side(m.x, delta_x, m.weight_sum, m.count);
    shift_side(m.cross, delta_y, m.weight_sum, m.count);
}

// So that float32 batches can use the common shift as it is.
double float32_if_possible(double shift) {
    return std::abs(shift) < std::numeric_limits<float>::max()
               ? static_cast<double>(static_cast<float>(shift))
               : shift;
}

// How far the shift of `side` should move down to sit on the mean; 0 where it is close enough already.
std::vector<double> distance_to_mean(const Side& side, double weight) {
    std::vector<double> delta(side.sum.size());
    for (std::size_t j = 0; j < delta.size(); ++j) {
        const double mean = side.sum[j] / weight;
        const double variance = std::max(0.0, side.square[j] / weight - mean * mean);
        if (mean * mean > 16 * variance)
            delta[j] =
                side.shift[j] - float32_if_possible(rounded_shift(side.shift[j] + mean, std::sqrt(variance)));
    }
    return delta;
}

}  // namespace

void Moments::recentre() {
    if (count < 2 * recentred || weight_sum <= 0) return;
    recentred = count;
    shift_moments(*this, distance_to_mean(x, weight_sum), distance_to_mean(cross, weight_sum));
}

void Moments::merge(const Moments& other) {
    require_same_dims(*this, other);
    const index_t left_out = nonfinite + other.nonfinite;
    if (other.count == 0 || count == 0) {
        if (count == 0) *this = other;
        nonfinite = left_out;
        return;
    }
    Moments moved = other;
    nonfinite = left_out;
    shift_moments(moved, difference(other.x.shift, x.shift), difference(other.cross.shift, cross.shift));
    add_to(second, moved.second);
    add_to(cross_second, moved.cross_second);
    add_side(x, moved.x);
    add_side(cross, moved.cross);
    count += other.count;
    weight_sum += other.weight_sum;
    weight_square_sum += other.weight_square_sum;
    recentre();
}

void Workspace::Free::operator()(void* memory) const { std::free(memory); }

Workspace::~Workspace() { drop_team(); }

void Workspace::drop_team() {
    // Of a team that was started before a fork, the child has the object but not the threads to join.
    if (process_ == getpid())
        team_.reset();
    else
        static_cast<void>(team_.release());
}

ThreadTeam& Workspace::team(int threads) {
    if (threads != threads_ || process_ != getpid()) drop_team();
    if (!team_) team_ = std::make_unique<ThreadTeam>(threads);
    threads_ = threads;
    process_ = getpid();
    team_->spread();
    return *team_;
}

void* Workspace::reserve(std::size_t bytes) {
    constexpr std::size_t alignment = 64;
    if (bytes > bytes_) {
        memory_.reset();
        bytes_ = 0;
        const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
        memory_.reset(std::aligned_alloc(alignment, rounded));
        if (!memory_) throw std::bad_alloc();
        bytes_ = rounded;
    }
    return memory_.get();
}

}  // namespace repgeom
