#include "sketch.hpp"

#include <algorithm>
#include <cmath>

namespace repgeom {

namespace {

std::size_t element_size(Dtype dtype) {
    return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

const void* row_of(const MatrixView& x, index_t row) {
    return static_cast<const std::byte*>(x.data) +
           static_cast<std::size_t>(row * x.row_stride) * element_size(x.dtype);
}

}  // namespace

CovarianceSketch::CovarianceSketch(index_t d, index_t l, std::uint64_t key)
    : dim(d), columns(l), seed(key), sums(static_cast<std::size_t>(d), 0.0) {
    require(d >= 1, "dim must be at least 1", d);
    require(l >= 1, "a sketch must have at least 1 column", l);
    test_ = Block(d, panels_for(l));
    product_ = Block(d, panels_for(l));
    ThreadTeam team(default_threads());
    fill_normal(test_, l, key, 0, team);
}

void CovarianceSketch::copy(const Block& block, double* out) const {
    for (index_t i = 0; i < dim; ++i)
        for (index_t j = 0; j < columns; ++j) out[i * columns + j] = block.at(i, j);
}

void CovarianceSketch::set_product(const double* values) {
    for (index_t i = 0; i < dim; ++i)
        for (index_t j = 0; j < columns; ++j) product_.at(i, j) = values[i * columns + j];
}

std::vector<index_t> CovarianceSketch::finite_rows(const MatrixView& x, const double* weights,
                                                   ThreadTeam& team, const BlockTiles& tiles) {
    std::vector<char> finite(static_cast<std::size_t>(x.rows));
    constexpr index_t rows = 16;
    team.run((x.rows + rows - 1) / rows, [&](index_t task, int) {
        std::vector<double> values(static_cast<std::size_t>(dim));
        for (index_t i = task * rows; i < std::min(x.rows, (task + 1) * rows); ++i) {
            tiles.widen[static_cast<int>(x.dtype)](row_of(x, i), nullptr, dim, values.data());
            double sum = 0;  // 0 * NaN and 0 * infinity are NaN
            for (const double value : values) sum += 0 * value;
            finite[i] = sum == 0;
        }
    });
    std::vector<index_t> kept;
    for (index_t i = 0; i < x.rows; ++i) {
        if (weights != nullptr && weights[i] == 0) continue;
        if (finite[i])
            kept.push_back(i);
        else
            ++nonfinite;
    }
    return kept;
}

// The mean of the first rows: offsets of channels then cost no digits, and constant ones are exactly so.
void CovarianceSketch::choose_shift(const ShiftedRows& rows, const BlockTiles& tiles) {
    const auto widen = tiles.widen[static_cast<int>(rows.x.dtype)];
    std::vector<double> first(static_cast<std::size_t>(dim)), values(first.size());
    widen(row_of(rows.x, rows.kept[0]), nullptr, dim, first.data());
    shift = first;
    const index_t n = std::min<index_t>(rows.count, 256);
    for (index_t i = 1; i < n; ++i) {
        widen(row_of(rows.x, rows.kept[i]), first.data(), dim, values.data());
        for (index_t j = 0; j < dim; ++j) shift[j] += values[j] / static_cast<double>(n);
    }
}

void CovarianceSketch::update(const MatrixView& x, const double* weights, const SketchOptions& options) {
    require(x.columns == dim, "x must have " + std::to_string(dim) + " columns", x.columns);
    for (index_t i = 0; weights != nullptr && i < x.rows; ++i)
        require(weights[i] >= 0 && std::isfinite(weights[i]), "weights must be finite and at least 0",
                weights[i]);
    ThreadTeam team(options.threads);
    Crew crew{team, block_tiles(*options.kernels)};
    const std::vector<index_t> kept = finite_rows(x, weights, team, crew.tiles);
    if (kept.empty()) return;
    std::vector<double> kept_weights;
    for (const index_t i : kept) {
        const double weight = weights == nullptr ? 1.0 : weights[i];
        if (weights != nullptr) kept_weights.push_back(weight);
        weight_sum += weight;
        weight_square_sum += weight * weight;
    }
    ShiftedRows rows;
    rows.x = x;
    rows.kept = kept.data();
    rows.weights = weights == nullptr ? nullptr : kept_weights.data();
    rows.count = static_cast<index_t>(kept.size());
    if (shift.empty()) choose_shift(rows, crew.tiles);
    rows.shift = shift.data();
    multiply_covariance(crew, rows, test_, product_, sums.data(), &squares);
    count += rows.count;
}

}  // namespace repgeom
