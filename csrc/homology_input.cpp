#include "homology_input.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace repgeom {

namespace {

constexpr double asymmetry_allowed = 1e-6;  // of the smallest of the rows' largest distances
constexpr float rounding_allowed = 1e-6F;   // of a side, in the triangle inequality
constexpr index_t block = 32;

std::string place(index_t i, index_t j) {
    return " at (" + std::to_string(i) + ", " + std::to_string(j) + ")";
}

// The values as float32, in rows without gaps.
template <typename T>
void convert(const MatrixView& view, const Watch& watch, CheckedDistances& out) {
    const T* from = static_cast<const T*>(view.data);
    if constexpr (std::is_same_v<T, float>) {
        if (view.row_stride == view.columns || view.rows <= 1) {
            out.data = from;
            return;
        }
    }
    out.copy.resize(static_cast<std::size_t>(view.rows * view.columns));
    for (index_t i = 0; i < view.rows; ++i) {
        if (i % 256 == 0) watch.check();
        const T* row = from + i * view.row_stride;
        for (index_t j = 0; j < view.columns; ++j) {
            const auto value = static_cast<float>(row[j]);
            if (std::isinf(value) && !std::isinf(row[j]))
                require(false, "distances must be at most 3.4e38", static_cast<double>(row[j]));
            out.copy[static_cast<std::size_t>(i * view.columns + j)] = value;
            const double change = std::abs(static_cast<double>(value) - static_cast<double>(row[j]));
            if (change > out.rounding) out.rounding = change;
        }
    }
    out.data = out.copy.data();
}

CheckedDistances as_float32(const MatrixView& view, const Watch& watch) {
    require(view.dtype == Dtype::float32 || view.dtype == Dtype::float64,
            "distances must be float32 or float64", "another dtype");
    CheckedDistances out;
    view.dtype == Dtype::float32 ? convert<float>(view, watch, out) : convert<double>(view, watch, out);
    return out;
}

// Both passes without branches in the inner loop; what is wrong is looked for only where something is.
bool any_bad(const float* values, index_t n) {
    bool bad = false;
    for (index_t k = 0; k < n; ++k) bad |= !(values[k] >= 0);
    return bad;
}

void check_value(float value, index_t i, index_t j) {
    require(!std::isnan(value), "distances must not be NaN", "NaN" + place(i, j));
    require(value >= 0, "distances must not be negative", std::to_string(value) + place(i, j));
}

// The enclosing radius; marks for pairs that are no edges are larger than it.
double scale_of(const float* d, index_t n) {
    float scale = std::numeric_limits<float>::infinity();
    for (index_t i = 0; i < n; ++i) scale = std::min(scale, *std::max_element(d + i * n, d + (i + 1) * n));
    return std::isinf(scale) ? 0 : static_cast<double>(scale);
}

// The larger of |d(i, j) - d(j, i)|; infinite where only one of the two is.
float asymmetry(const float* d, index_t n, index_t i0, index_t j0) {
    float most = 0;
    for (index_t i = i0; i < std::min(i0 + block, n); ++i)
        for (index_t j = j0; j < std::min(j0 + block, i); ++j) {
            const float a = d[i * n + j], b = d[j * n + i];
            if (a != b) most = std::max(most, std::abs(a - b));
        }
    return most;
}

void refuse_asymmetry(const float* d, index_t n, double allowed) {
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < i; ++j) {
            const float a = d[i * n + j], b = d[j * n + i];
            if (a != b && !(std::abs(static_cast<double>(a) - static_cast<double>(b)) <= allowed))
                require(false, "distances must be symmetric",
                        std::to_string(a) + place(i, j) + " and " + std::to_string(b) + place(j, i));
        }
}

// A length must not depend on where it is read: the lower triangle counts.
void mirror(CheckedDistances& out, index_t n) {
    if (out.copy.empty()) out.copy.assign(out.data, out.data + n * n);
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < i; ++j) out.copy[j * n + i] = out.copy[i * n + j];
    out.data = out.copy.data();
}

// How far row[j] is longer than leg + to[j], at the most, over j < n. Eight maxima side by side, for the sake
// of vector instructions.
float largest_excess(const float* row, const float* to, float leg, index_t n) {
    constexpr index_t lanes = 8;
    constexpr float largest = std::numeric_limits<float>::max();
    float most[lanes] = {};
    index_t j = 0;
    for (; j + lanes <= n; j += lanes) {
        for (index_t k = 0; k < lanes; ++k) {
            const float excess = row[j + k] * (1 - rounding_allowed) - (leg + to[j + k]);
            const float counted = row[j + k] <= largest ? excess : 0;
            most[k] = counted > most[k] ? counted : most[k];
        }
    }
    for (; j < n; ++j)
        if (row[j] <= largest) most[0] = std::max(most[0], row[j] * (1 - rounding_allowed) - (leg + to[j]));
    return *std::max_element(most, most + lanes);
}

// Tests the triangle inequality for all pairs and 4 third points (all, up to 128 points).
void test_triangles(const float* d, index_t n, const Watch& watch, CheckedDistances& out) {
    const index_t thirds = n <= 128 ? n : 4;
    float most = 0;
    for (index_t t = 0; t < thirds; ++t) {
        const float* to = d + t * n / thirds * n;
        watch.check();
        for (index_t i = 0; i < n; ++i) most = std::max(most, largest_excess(d + i * n, to, to[i], i));
    }
    out.triples = thirds * (n * (n - 1) / 2);
    out.triangle_excess = static_cast<double>(most);
}

}  // namespace

CheckedDistances check_square(const MatrixView& view, const Watch& watch) {
    require(view.rows == view.columns, "distances must be a square matrix",
            std::to_string(view.rows) + " x " + std::to_string(view.columns));
    CheckedDistances out = as_float32(view, watch);
    const index_t n = view.rows;
    const float* d = out.data;
    for (index_t i = 0; i < n; ++i) {
        if (i % 256 == 0) watch.check();
        if (any_bad(d + i * n, n))
            for (index_t j = 0; j < n; ++j) check_value(d[i * n + j], i, j);
        require(d[i * n + i] == 0, "the diagonal of distances must be 0",
                std::to_string(d[i * n + i]) + place(i, i));
    }
    double difference = 0;
    for (index_t i = 0; i < n; i += block) {
        watch.check();
        for (index_t j = 0; j <= i; j += block)
            difference = std::max(difference, static_cast<double>(asymmetry(d, n, i, j)));
    }
    if (difference > 0) {
        const double allowed = asymmetry_allowed * scale_of(d, n);
        if (!(difference <= allowed)) refuse_asymmetry(d, n, allowed);
        out.rounding += difference;
        mirror(out, n);
    }
    test_triangles(out.data, n, watch, out);
    return out;
}

CheckedDistances check_condensed(const MatrixView& view, index_t n, const Watch& watch) {
    require(view.rows * view.columns == n * (n - 1) / 2,
            "condensed distances of " + std::to_string(n) + " points must be n (n - 1) / 2",
            view.rows * view.columns);
    CheckedDistances out = as_float32(view, watch);
    const index_t length = view.rows * view.columns;
    if (any_bad(out.data, length)) {
        index_t k = 0;
        for (index_t i = 0; i < n; ++i)
            for (index_t j = i + 1; j < n; ++j, ++k) check_value(out.data[k], i, j);
    }
    watch.check();
    return out;
}

CheckedDistances check_lengths(const MatrixView& view) {
    CheckedDistances out = as_float32(view, Watch());
    if (!any_bad(out.data, view.columns)) return out;
    for (index_t k = 0; k < view.columns; ++k) {
        const std::string at = " in edge " + std::to_string(k);
        require(!std::isnan(out.data[k]), "lengths must not be NaN", "NaN" + at);
        require(out.data[k] >= 0, "lengths must not be negative", std::to_string(out.data[k]) + at);
    }
    return out;
}

index_t points_of_condensed(index_t length) {
    const auto n =
        static_cast<index_t>(std::llround((1 + std::sqrt(1 + 8 * static_cast<double>(length))) / 2));
    require(n >= 1 && n * (n - 1) / 2 == length, "condensed distances must be n (n - 1) / 2 for some n",
            length);
    return n;
}

}  // namespace repgeom
