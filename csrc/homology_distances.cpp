#include "homology_distances.hpp"

#include <string>

#include "neighbors_input.hpp"
#include "neighbors_join.hpp"

namespace repgeom {

namespace {

// What orders pairs (neighbors_pairs.hpp) as the distance that users see.
struct Distance {
    Metric metric;
    double exponent, columns;

    double operator()(double value) const {
        switch (metric) {
            case Metric::euclidean:
                return std::sqrt(value);
            case Metric::cosine:
                return value / 2;
            case Metric::hamming:
                return value / columns;
            default:
                return value;
        }
    }
};

Problem problem_of(const MatrixView& x, Metric metric, double exponent, const KernelTable& kernels,
                   ThreadTeam& team, double& largest) {
    NeighborOptions options;
    options.metric = metric;
    options.exponent = exponent;
    options.kernels = &kernels;
    return make_problem(x, nullptr, options, team, largest);
}

// A frame about the mean of the rows, for products in float64.
Frame frame_about_mean(const Problem& problem, double largest) {
    const Points& points = problem.reference;
    Frame frame;
    frame.features = points.columns();
    frame.scale = power_of_two_scale(largest, frame.features);
    frame.to_key = frame.scale * frame.scale / 2;
    frame.relative = 4 * static_cast<double>(frame.features + 16) * 0x1p-53;
    frame.centre_stride = divide_up(frame.features, 8) * 8;
    frame.centres.assign(static_cast<std::size_t>(frame.centre_stride), 0.0);
    set_runs(frame, true);
    std::vector<double> row(frame.centres.size());
    for (index_t i = 0; i < points.rows(); ++i) {
        problem.pairs->widen[static_cast<int>(points.view.dtype)](row_address(points.view, i), frame.features,
                                                                  points.factor(i), row.data());
        for (index_t c = 0; c < frame.features; ++c) frame.centres[c] += row[c];
    }
    for (double& value : frame.centres) value /= static_cast<double>(points.rows());
    return frame;
}

// Takes every pair of the join, with a lower bound of its key.
class Rounding {
  public:
    Rounding(const Problem& problem, const Frame& frame, const Panels<double>& panels,
             const Distance& distance, int threads, const Watch& watch, float* distances)
        : problem_(problem),
          frame_(frame),
          panels_(panels),
          distance_(distance),
          watch_(watch),
          distances_(distances) {
        for (int thread = 0; thread < threads; ++thread) evaluators_.emplace_back(problem);
    }

    void offer(index_t row, double key, index_t column, int thread) {
        if (row > column) return;  // every pair comes twice
        if ((column & 0xff) == 0) watch_.check();
        const double margin = std::abs(key) * (frame_.relative + 0x1p-49) + underflow<double>;
        const double gap = (panels_.gap[row] + panels_.gap[column]) * 1.0001;
        const float low = rounded(std::max(0.0, (key - margin) / frame_.to_key));
        const float high = rounded((key + gap + margin) / frame_.to_key);
        const index_t i = panels_.order[row], j = panels_.order[column];
        write(i, j, low == high ? low : exact(i, j, thread));
    }

  private:
    float rounded(double value) const { return static_cast<float>(distance_(value)); }

    float exact(index_t i, index_t j, int thread) {
        double value;
        evaluators_[thread].set_row(problem_.reference, i);
        evaluators_[thread].evaluate(&j, 1, &value);
        return rounded(value);
    }

    void write(index_t i, index_t j, float distance) const {
        const index_t n = problem_.reference.rows();
        distances_[i * n + j] = distance;
        distances_[j * n + i] = distance;
    }

    const Problem& problem_;
    const Frame& frame_;
    const Panels<double>& panels_;
    const Distance& distance_;
    const Watch& watch_;
    std::vector<Evaluator> evaluators_;
    float* distances_;
};

void by_products(const Problem& problem, double largest, const Distance& distance, ThreadTeam& team,
                 const Watch& watch, float* distances) {
    const Frame frame = frame_about_mean(problem, largest);
    std::vector<std::int32_t> rows(static_cast<std::size_t>(problem.reference.rows()));
    std::iota(rows.begin(), rows.end(), 0);
    Panels<double> panels;
    PanelPacker<double>(problem, frame, team).pack(problem.reference, rows, {}, panels);
    watch.check();
    Rounding sink(problem, frame, panels, distance, team.size(), watch, distances);
    Join<double, Rounding>(problem, frame, panels, panels, team, sink).run({});
}

void directly(const Problem& problem, const Distance& distance, ThreadTeam& team, const Watch& watch,
              float* distances) {
    const index_t n = problem.reference.rows();
    std::vector<Evaluator> evaluators(static_cast<std::size_t>(team.size()), Evaluator(problem));
    std::vector<std::vector<double>> values(evaluators.size(),
                                            std::vector<double>(static_cast<std::size_t>(n)));
    std::vector<index_t> columns(static_cast<std::size_t>(n));
    std::iota(columns.begin(), columns.end(), index_t{0});
    for_rows(team, n, [&](index_t row, int thread) {
        watch.check();
        evaluators[thread].set_row(problem.reference, row);
        evaluators[thread].evaluate(columns.data(), row, values[thread].data());
        for (index_t j = 0; j < row; ++j) {
            const auto rounded = static_cast<float>(distance(values[thread][j]));
            distances[row * n + j] = rounded;
            distances[j * n + row] = rounded;
        }
    });
}

float largest_of(const float* distances, index_t n) {
    float most = 0;
    for (index_t k = 0; k < n * n; ++k) most = std::max(most, distances[k]);
    return most;
}

}  // namespace

double pairwise_distances(const MatrixView& x, Metric metric, double exponent, const KernelTable& kernels,
                          ThreadTeam& team, const Watch& watch, float* distances) {
    constexpr index_t few_features = 24;
    double largest = 0;
    const Problem problem = problem_of(x, metric, exponent, kernels, team, largest);
    const Distance distance{metric, exponent, static_cast<double>(x.columns)};
    for (index_t i = 0; i < x.rows; ++i) distances[i * x.rows + i] = 0;
    if (problem.measure == Measure::squared && x.columns > few_features)
        by_products(problem, largest, distance, team, watch, distances);
    else
        directly(problem, distance, team, watch, distances);
    const float most = largest_of(distances, x.rows);
    require(most <= std::numeric_limits<float>::max(), "distances must be at most 3.4e38", "larger ones");
    const double evaluation = static_cast<double>(x.columns + 16) * 0x1p-52;
    const double normalisation = metric == Metric::cosine ? evaluation : 0.0;
    return static_cast<double>(most) * (0x1p-24 + evaluation) + normalisation + 0x1p-150;
}

Landmarks farthest_points(const MatrixView& x, Metric metric, double exponent, index_t count, index_t first,
                          const KernelTable& kernels, ThreadTeam& team, const Watch& watch) {
    require(count >= 1 && count <= x.rows, "landmarks must be from 1 to n = " + std::to_string(x.rows),
            count);
    require(first >= 0 && first < x.rows, "the first landmark must be a row of x", first);
    double largest = 0;
    const Problem problem = problem_of(x, metric, exponent, kernels, team, largest);
    const Distance distance{metric, exponent, static_cast<double>(x.columns)};
    std::vector<double> nearest(static_cast<std::size_t>(x.rows), std::numeric_limits<double>::infinity());
    std::vector<index_t> rows(static_cast<std::size_t>(x.rows));
    std::iota(rows.begin(), rows.end(), index_t{0});
    Evaluator evaluator(problem);
    constexpr index_t rows_per_task = 512;
    Landmarks landmarks;
    std::vector<double> values(static_cast<std::size_t>(x.rows));
    for (index_t next = first;; next = std::max_element(nearest.begin(), nearest.end()) - nearest.begin()) {
        if (!landmarks.rows.empty()) landmarks.cover_radius = distance(nearest[next]);
        const bool covered = !landmarks.rows.empty() && nearest[next] == 0;
        if (covered || static_cast<index_t>(landmarks.rows.size()) == count) return landmarks;
        watch.check();
        landmarks.rows.push_back(next);
        evaluator.set_row(problem.reference, next);
        team.run(divide_up(x.rows, rows_per_task), [&](index_t task, int) {
            const index_t begin = task * rows_per_task, n = std::min(rows_per_task, x.rows - begin);
            evaluator.evaluate(rows.data() + begin, n, values.data() + begin);
            for (index_t i = begin; i < begin + n; ++i) nearest[i] = std::min(nearest[i], values[i]);
        });
        nearest[next] = 0;  // of the canonical value of a row with itself, whatever rounding leaves
    }
}

}  // namespace repgeom
