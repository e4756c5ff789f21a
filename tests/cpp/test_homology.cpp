// What surrounds the algorithms: distances, input, filtrations, bars, and calls as a whole.
#include "homology.hpp"

#include <cmath>
#include <numeric>
#include <random>

#include "check.hpp"
#include "cpu_dispatch.hpp"
#include "homology_distances.hpp"
#include "homology_filtration.hpp"
#include "homology_input.hpp"

using namespace repgeom;

namespace {

template <typename Work>
bool refuses(const Work& work) {
    try {
        work();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

std::vector<double> gaussian(index_t n, index_t d, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    std::vector<double> values(static_cast<std::size_t>(n * d));
    for (double& value : values) value = normal(generator);
    return values;
}

MatrixView view(const std::vector<double>& values, index_t rows, index_t columns) {
    return {values.data(), Dtype::float64, rows, columns, columns};
}

float direct(const std::vector<double>& x, index_t d, index_t i, index_t j) {
    long double sum = 0;
    for (index_t c = 0; c < d; ++c) {
        const long double t = static_cast<long double>(x[i * d + c]) - x[j * d + c];
        sum += t * t;
    }
    return static_cast<float>(std::sqrt(sum));
}

// Distances by fast products are those of exact sums, rounded, also with an offset that cancels.
void test_distances() {
    const index_t n = 70, d = 60;
    for (const double offset : {0.0, 1e6}) {
        std::vector<double> x = gaussian(n, d, 1);
        for (double& value : x) value += offset;
        std::copy_n(x.begin(), d, x.begin() + d);  // rows 0 and 1 are equal
        std::vector<float> first;
        for (const KernelTable* table : available_kernels()) {
            for (int threads : {1, 2}) {
                ThreadTeam team(threads);
                const Watch watch;
                std::vector<float> found(static_cast<std::size_t>(n * n), -1.0F);
                const double bound = pairwise_distances(view(x, n, d), Metric::euclidean, 2, *table, team,
                                                        watch, found.data());
                CHECK(bound > 0 && bound < 1e-5);
                for (index_t i = 0; i < n; ++i)
                    for (index_t j = 0; j < n; ++j)
                        CHECK(std::abs(found[i * n + j] - direct(x, d, i, j)) <= bound);
                CHECK(found[1] == 0 && found[n] == 0);
                if (first.empty()) first = found;
                CHECK(first == found);
            }
        }
    }
}

void test_filtration_forms() {
    const index_t n = 40, d = 3;
    const Watch watch;
    const std::vector<double> x = gaussian(n, d, 2);
    std::vector<float> square(static_cast<std::size_t>(n * n), 0), condensed, lengths;
    std::vector<index_t> rows, columns;
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < n; ++j) square[i * n + j] = direct(x, d, i, j);
    for (index_t i = 0; i < n; ++i)
        for (index_t j = i + 1; j < n; ++j) {
            condensed.push_back(square[i * n + j]);
            rows.push_back(i);
            columns.push_back(j);
        }
    const Filtration a = filtration_of_square(square.data(), n, 1e30F, watch);
    const Filtration b = filtration_of_condensed(condensed.data(), n, 1e30F, watch);
    const Filtration c = filtration_of_graph(n, rows.data(), columns.data(), condensed.data(),
                                             static_cast<index_t>(condensed.size()), 1e30F, watch);
    CHECK(a.cone && b.cone && c.cone);
    CHECK(a.threshold == b.threshold && a.threshold == c.threshold);
    CHECK(a.lengths == b.lengths && a.lengths == c.lengths);
    CHECK(std::is_sorted(a.lengths.begin(), a.lengths.end()));
    for (std::size_t k = 0; k < a.edges.size(); ++k) {
        const Edge edge = a.edges[k];
        CHECK(edge.v < edge.u);
        CHECK(square[a.names[edge.u] * n + a.names[edge.v]] == a.lengths[k]);
    }
    CHECK(!filtration_of_square(square.data(), n, a.threshold / 2, watch).cone);
}

void test_input() {
    const Watch watch;
    std::vector<double> d = {0, 1, 5, 1, 0, 1, 5, 1, 0};
    const CheckedDistances found = check_square(view(d, 3, 3), watch);
    CHECK(found.triangle_excess > 2.9 && found.triangle_excess < 3.1);
    for (const double bad : {-1.0, std::nan(""), 2.0}) {
        std::vector<double> wrong = d;
        wrong[1] = bad;
        CHECK(refuses([&] { check_square(view(wrong, 3, 3), watch); }));
    }
    d[4] = 1;
    CHECK(refuses([&] { check_square(view(d, 3, 3), watch); }));
    CHECK(points_of_condensed(0) == 1 && points_of_condensed(6) == 4);
    CHECK(refuses([&] { points_of_condensed(5); }));
}

// One call on several clouds is several calls; a regular polygon has one loop.
void test_calls() {
    std::vector<double> circle;
    for (int k = 0; k < 12; ++k) {
        circle.push_back(std::cos(k * 3.14159265358979 / 6));
        circle.push_back(std::sin(k * 3.14159265358979 / 6));
    }
    const std::vector<double> cloud = gaussian(60, 5, 3);
    const std::vector<Cloud> clouds = {{CloudKind::points, view(circle, 12, 2)},
                                       {CloudKind::points, view(cloud, 60, 5)}};
    RipsOptions options;
    options.kernels = available_kernels().back();
    options.max_dim = 3;
    options.threads = 2;
    const std::vector<RipsResult> together = rips(clouds, options);
    CHECK(together[0].dimensions[1].bars.size() == 2);
    CHECK(std::abs(together[0].dimensions[1].bars[1] - std::sqrt(3.0F)) < 1e-6F);
    for (std::size_t k = 0; k < clouds.size(); ++k) {
        const RipsResult alone = rips({clouds[k]}, options).front();
        for (int dim = 0; dim <= options.max_dim; ++dim)
            CHECK(alone.dimensions[dim].bars == together[k].dimensions[dim].bars);
    }
    options.field = 4;
    CHECK(refuses([&] { rips(clouds, options); }));
}

// What progress throws comes out, soon, and leaves nothing behind.
void test_interruption() {
    const index_t n = 900;
    const std::vector<double> x = gaussian(n, 3, 4);
    RipsOptions options;
    options.kernels = available_kernels().back();
    options.max_dim = 2;
    options.threads = 2;
    int calls = 0;
    options.progress = [&](double share) {
        CHECK(share >= 0 && share <= 1);
        if (++calls == 2) throw std::runtime_error("enough");
    };
    bool stopped = false;
    try {
        rips({{CloudKind::points, view(x, n, 3)}}, options);
    } catch (const std::runtime_error& error) {
        stopped = std::string(error.what()) == "enough";
    }
    CHECK(stopped || calls < 2);
}

}  // namespace

int main() {
    test_distances();
    test_filtration_forms();
    test_input();
    test_calls();
    test_interruption();
    return test::failures() != 0;
}
