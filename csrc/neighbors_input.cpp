#include "neighbors_input.hpp"

#include <string>

namespace repgeom {

namespace {

constexpr double largest_allowed = 1e150;  // squares of larger numbers leave float64

// The largest magnitude; refuses NaN, infinity and what is too large, naming the first such row.
double check_values(const Problem& problem, const Points& points, const std::string& name, ThreadTeam& team) {
    std::vector<double> largest(static_cast<std::size_t>(points.rows()));
    const auto magnitude = problem.pairs->largest[static_cast<int>(points.view.dtype)];
    for_rows(team, points.rows(), [&](index_t row, int) {
        largest[row] = magnitude(row_address(points.view, row), points.columns());
    });
    double most = 0;
    for (index_t row = 0; row < points.rows(); ++row) {
        most = std::max(most, largest[row]);
        if (largest[row] <= largest_allowed) continue;
        const std::string at = " in row " + std::to_string(row);
        require(std::isfinite(largest[row]), name + " must be finite", "NaN or infinity" + at);
        require(false, name + " must be at most 1e150 in magnitude", "a larger one" + at);
    }
    return most;
}

// 1 / norm of every row.
void set_factors(const Problem& problem, Points& points, const std::string& name, ThreadTeam& team) {
    const auto dtype = static_cast<int>(points.view.dtype);
    std::vector<std::vector<double>> rows(static_cast<std::size_t>(team.size()));
    std::vector<double> factors(static_cast<std::size_t>(points.rows()));
    for_rows(team, points.rows(), [&](index_t row, int thread) {
        std::vector<double>& wide = rows[thread];
        wide.resize(static_cast<std::size_t>(divide_up(points.columns(), 8) * 8));
        const void* address = row_address(points.view, row);
        const double largest = problem.pairs->largest[dtype](address, points.columns());
        if (largest == 0) return;
        // So that no square underflows; a row too small for that has a norm whose inverse overflows.
        const double scale = std::exp2(std::min(-std::floor(std::log2(largest)), 1000.0));
        problem.pairs->widen[dtype](address, points.columns(), scale, wide.data());
        const index_t first = 0;
        double square;
        problem.pairs->evaluate[static_cast<int>(Measure::product)][static_cast<int>(Dtype::float64)](
            wide.data(), {wide.data(), 0, points.columns(), nullptr}, &first, 1, 2, &square);
        factors[row] = scale / std::sqrt(-square);
    });
    for (index_t row = 0; row < points.rows(); ++row)
        if (!(factors[row] > 0 && std::isfinite(factors[row])))
            require(false, name + " must have no row of norm 0 with metric 'cosine'",
                    "row " + std::to_string(row));
    points.factors = std::move(factors);
}

Measure measure_of(Metric metric) {
    switch (metric) {
        case Metric::inner_product:
            return Measure::product;
        case Metric::manhattan:
            return Measure::manhattan;
        case Metric::chebyshev:
            return Measure::chebyshev;
        case Metric::minkowski:
            return Measure::minkowski;
        case Metric::hamming:
            return Measure::hamming;
        default:
            return Measure::squared;
    }
}

void check_shapes(const MatrixView& reference, const MatrixView* queries, const NeighborOptions& options) {
    constexpr index_t most = std::numeric_limits<std::int32_t>::max() - 1024;
    const bool precomputed = options.metric == Metric::precomputed;
    require(reference.rows >= 1, "x must have at least 1 row", reference.rows);
    require(reference.columns >= 1, "x must have at least 1 column", reference.columns);
    require(reference.rows <= most, "x must have less than 2^31 rows", reference.rows);
    require(!precomputed || queries == nullptr, "precomputed distances leave no room for queries", "queries");
    require(!precomputed || !options.exclude_self || reference.rows == reference.columns,
            "precomputed distances must be square to exclude each row itself",
            std::to_string(reference.rows) + " x " + std::to_string(reference.columns));
    require(reference.columns <= most, "x must have less than 2^31 columns", reference.columns);
    if (queries == nullptr) return;
    require(queries->rows >= 1, "queries must have at least 1 row", queries->rows);
    require(queries->rows <= most, "queries must have less than 2^31 rows", queries->rows);
    require(queries->columns == reference.columns,
            "queries must have as many columns as x, " + std::to_string(reference.columns), queries->columns);
    require(queries->dtype == reference.dtype, "queries must have the dtype of x", "another dtype");
}

void check_distances(const Problem& problem, ThreadTeam& team) {
    const Points& points = problem.reference;
    std::vector<std::uint8_t> negative(static_cast<std::size_t>(points.rows()));
    std::vector<Evaluator> evaluators(static_cast<std::size_t>(team.size()), Evaluator(problem));
    for_rows(team, points.rows(), [&](index_t row, int thread) {
        evaluators[thread].set_row(points, row);
        const double* values = evaluators[thread].row();
        negative[row] = std::any_of(values, values + points.columns(), [](double v) { return v < 0; });
    });
    for (index_t row = 0; row < points.rows(); ++row)
        if (negative[row] != 0)
            require(false, "precomputed distances must not be negative", "one in row " + std::to_string(row));
}

}  // namespace

Problem make_problem(const MatrixView& reference, const MatrixView* queries, const NeighborOptions& options,
                     ThreadTeam& team, double& largest) {
    check_shapes(reference, queries, options);
    Problem problem;
    problem.kernels = options.kernels;
    problem.pairs = &pair_kernels(*options.kernels);
    problem.measure = measure_of(options.metric);
    problem.exponent = options.exponent;
    problem.precomputed = options.metric == Metric::precomputed;
    problem.self_join = queries == nullptr && (!problem.precomputed || options.exclude_self);
    problem.exclude_self = options.exclude_self;
    problem.reference.view = reference;
    if (queries != nullptr) problem.queries.view = *queries;
    largest = check_values(problem, problem.reference, "x", team);
    if (queries != nullptr)
        largest = std::max(largest, check_values(problem, problem.queries, "queries", team));
    if (problem.precomputed) check_distances(problem, team);
    if (options.metric == Metric::cosine) {
        set_factors(problem, problem.reference, "x", team);
        if (queries != nullptr) set_factors(problem, problem.queries, "queries", team);
        largest = 1;
    }
    return problem;
}

}  // namespace repgeom
