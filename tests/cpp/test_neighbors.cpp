// Threshold epilogues and values of pairs of every kernel table against plain loops; lists against a full
// sort.
#include "neighbors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "cpu_dispatch.hpp"
#include "neighbors_frame.hpp"
#include "neighbors_join.hpp"

using namespace repgeom;

namespace {

template <typename T>
std::vector<T> random_values(index_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = static_cast<T>(normal(engine));
    return values;
}

// What passes is far from the limit, so that rounding cannot decide.
template <typename T>
void check_threshold(const TileKernels<T>& kernels, index_t k, index_t group, bool differences, bool sums) {
    const index_t width = kernels.panel, tile = kernels.rows * width;
    const auto a = random_values<T>(k * width, 1), b = random_values<T>(k * width, 2);
    const auto c = random_values<double>(tile, 3);
    std::vector<double> expected(static_cast<std::size_t>(tile));
    for (index_t i = 0; i < tile; ++i) {
        const index_t r = group + i / width, j = i % width;
        expected[i] = sums ? c[i] : 0.0;
        for (index_t f = 0; f < k; ++f) {
            const double x = a[f * width + r], y = b[f * width + j];
            expected[i] += differences ? -(x - y) * (x - y) : x * y;
        }
    }
    const auto row_level = random_values<T>(kernels.rows, 4), column_level = random_values<T>(width, 5);
    const auto row_limit = random_values<T>(kernels.rows, 6), column_limit = random_values<T>(width, 7);
    const Limits<T> limits{row_level.data(), row_limit.data(), column_level.data(), column_limit.data()};
    std::vector<T> values(static_cast<std::size_t>(tile));
    std::vector<std::int32_t> codes(static_cast<std::size_t>(tile));
    const auto threshold = differences ? kernels.threshold_differences : kernels.threshold;
    const index_t count = threshold(a.data() + group, b.data(), k, sums ? c.data() : nullptr, limits,
                                    values.data(), codes.data());
    const double tolerance = 1e-4 * static_cast<double>(k + 1);
    index_t at = 0;
    for (index_t i = 0; i < tile; ++i) {
        const index_t r = i / width, j = i % width;
        const double limit = std::min(column_level[j] - row_limit[r], row_level[r] - column_limit[j]);
        const bool found = at < count && codes[at] == r * 65536 + j;
        if (std::abs(expected[i] - limit) > tolerance) CHECK(found == (expected[i] > limit));
        if (found) CHECK(test::close(values[at++], expected[i], tolerance));
    }
    CHECK(at == count);
}

template <typename T>
void check_thresholds(const TileKernels<T>& kernels) {
    for (const index_t k : {0, 1, 5, 64, 300})
        for (index_t group = 0; group < kernels.panel; group += kernels.rows)
            for (const bool differences : {false, true})
                for (const bool sums : {false, true}) check_threshold(kernels, k, group, differences, sums);
}

// With limits and levels that nothing passes, whatever the other side says.
template <typename T>
void check_never(const TileKernels<T>& kernels) {
    const auto a = random_values<T>(3 * kernels.panel, 1);
    const auto n = static_cast<std::size_t>(kernels.panel);
    const std::vector<T> high(n, never<T>), low(n, -never<T>);
    const std::vector<T> open(n, no_limit<T>), level(n, T{1});
    std::vector<T> values(n * n);
    std::vector<std::int32_t> codes(n * n);
    const Limits<T> closed_rows{high.data(), low.data(), level.data(), open.data()};
    const Limits<T> closed_columns{level.data(), open.data(), high.data(), low.data()};
    const Limits<T> all{level.data(), open.data(), level.data(), open.data()};
    const auto count = [&](const Limits<T>& limits) {
        return kernels.threshold(a.data(), a.data(), 3, nullptr, limits, values.data(), codes.data());
    };
    CHECK(count(closed_rows) == 0);
    CHECK(count(closed_columns) == 0);
    CHECK(count(all) == kernels.rows * kernels.panel);
}

double plain_value(Measure measure, const std::vector<double>& x, const std::vector<double>& y) {
    double lanes[8] = {};
    for (std::size_t c = 0; c < x.size(); ++c) {
        const double difference = x[c] - y[c];
        double& lane = lanes[c % 8];
        volatile double product = 0;  // keeps the compiler from fusing it with the sum
        switch (measure) {
            case Measure::squared:
                product = difference * difference;
                lane += product;
                break;
            case Measure::product:
                product = x[c] * y[c];
                lane -= product;
                break;
            case Measure::manhattan:
                lane += std::abs(difference);
                break;
            case Measure::chebyshev:
                lane = std::max(lane, std::abs(difference));
                break;
            default:
                lane += difference != 0;
        }
    }
    if (measure == Measure::chebyshev) return *std::max_element(lanes, lanes + 8);
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

void check_values(const PairKernels& pairs, Measure measure, index_t columns, bool scaled) {
    const index_t n = 7, stride = columns + 3;
    const auto x = random_values<float>(n * stride, 8);
    std::vector<double> factors(static_cast<std::size_t>(n), 1.0);
    for (index_t i = 0; scaled && i < n; ++i) factors[i] = 1.0 / (3.0 + static_cast<double>(i));
    const auto row_of = [&](index_t i) {
        std::vector<double> row;
        for (index_t c = 0; c < columns; ++c)
            row.push_back(factors[i] * static_cast<double>(x[i * stride + c]));
        return row;
    };
    std::vector<double> wide(static_cast<std::size_t>(columns + 8), 77.0);
    const int float32 = static_cast<int>(Dtype::float32);
    pairs.widen[float32](x.data() + stride, columns, factors[1], wide.data());
    for (index_t c = columns; c % 8 != 0; ++c) CHECK(wide[c] == 0);
    const std::vector<index_t> rows{6, 0, 1, 1, 3, 5, 2};
    std::vector<double> values(rows.size());
    pairs.evaluate[static_cast<int>(measure)][float32](
        wide.data(), {x.data(), stride, columns, scaled ? factors.data() : nullptr}, rows.data(), n, 2,
        values.data());
    for (index_t m = 0; m < n; ++m) CHECK(values[m] == plain_value(measure, row_of(1), row_of(rows[m])));
}

void check_pairs(const PairKernels& pairs) {
    for (const Measure measure :
         {Measure::squared, Measure::product, Measure::manhattan, Measure::chebyshev, Measure::hamming})
        for (const index_t columns : {1, 7, 8, 9, 33})
            for (const bool scaled : {false, true}) check_values(pairs, measure, columns, scaled);
    for (const index_t n : {1, 2, 50, 333}) {
        auto values = random_values<float>(n, 9);
        for (index_t k = 1; k <= n; k += 7) {
            const float bound = pairs.select32(values.data(), n, k);
            const auto below =
                std::count_if(values.begin(), values.end(), [&](float v) { return v <= bound; });
            CHECK(below >= k);
            CHECK(below <= k + k / 16);
        }
    }
    const std::vector<double> same(20, 3.0);
    CHECK(pairs.select64(same.data(), 20, 5) == 3.0);
}

void check_tournament(index_t blocks) {
    Tournament tournament(blocks);
    std::vector<int> met(static_cast<std::size_t>(blocks * blocks));
    for (index_t task = 0; task < tournament.tasks(); ++task)
        tournament.play(task, [&](index_t i, index_t j) { ++met[i * blocks + j]; });
    for (index_t i = 0; i < blocks; ++i)
        for (index_t j = 0; j < blocks; ++j) CHECK(met[i * blocks + j] == (i <= j ? 1 : 0));
}

template <typename T>
void check_lists(const KernelTable& table, Dtype dtype, index_t n, index_t d, index_t k) {
    const auto x = random_values<T>(n * d, 10);
    NeighborOptions options;
    options.kernels = &table;
    options.threads = 2;
    std::vector<double> distances(static_cast<std::size_t>(n * k));
    std::vector<index_t> indices(distances.size());
    nearest_neighbors({x.data(), dtype, n, d, d}, nullptr, k, options, distances.data(), indices.data());
    const auto row_of = [&](index_t i) {
        return std::vector<double>(x.begin() + i * d, x.begin() + (i + 1) * d);
    };
    for (index_t i = 0; i < n; i += 17) {
        std::vector<std::pair<double, index_t>> all;
        for (index_t j = 0; j < n; ++j)
            if (j != i) all.emplace_back(plain_value(Measure::squared, row_of(i), row_of(j)), j);
        std::sort(all.begin(), all.end());
        for (index_t e = 0; e < k; ++e) {
            CHECK(indices[i * k + e] == all[e].second);
            CHECK(distances[i * k + e] == std::sqrt(all[e].first));
        }
    }
}

}  // namespace

int main() {
    for (const index_t blocks : {1, 2, 3, 4, 7, 12}) check_tournament(blocks);
    for (const KernelTable* table : available_kernels()) {
        std::printf("%s\n", table->name);
        CHECK(std::string_view(pair_kernels(*table).name) == table->name);
        check_thresholds(table->float32);
        check_thresholds(table->float64);
        check_never(table->float32);
        check_never(table->float64);
        check_pairs(pair_kernels(*table));
        check_lists<float>(*table, Dtype::float32, 500, 30, 5);
        check_lists<float>(*table, Dtype::float32, 300, 500, 20);
        check_lists<double>(*table, Dtype::float64, 400, 7, 8);
    }
    return test::failures() != 0;
}
