#include "neighbors_plan.hpp"

namespace repgeom {

namespace {

constexpr index_t differences_up_to = 16;  // features: so few are cheaper subtracted than multiplied
constexpr index_t most_centres = 16;
constexpr double affordable = 0.02;  // share of all pairs evaluated exactly that calls for no better plan

// Beside float32 products of all pairs: the exact evaluation of all that pass, and of all in order.
constexpr double evaluation_cost = 36, direct_cost = 8;

}  // namespace

Plan Planner::plan() const {
    const index_t d = problem_.reference.columns();
    const bool products = problem_.measure == Measure::squared || problem_.measure == Measure::product;
    Plan direct;
    direct.frame.features = direct.frame.run = d;
    if (problem_.precomputed || !products || problem_.reference.rows() < 64 || problem_.rows().rows() < 8)
        return direct;
    if (problem_.measure == Measure::squared && d <= differences_up_to) {
        Plan plan = direct;
        plan.path = Path::differences64;
        plan.frame.differences = true;
        plan.frame.relative = 4 * static_cast<double>(d + 16) * 0x1p-53;
        plan.frame.centre_stride = divide_up(d, 8) * 8;
        plan.frame.centres.assign(static_cast<std::size_t>(plan.frame.centre_stride), 0.0);
        return plan;
    }
    const double scale = power_of_two_scale(largest_, d);
    const Sample sample = take_sample(scale);
    const index_t centres = problem_.measure == Measure::squared ? most_centres : 1;
    Plan best = direct;
    double least = direct_cost;
    const auto consider = [&](Path path, index_t n_centres, double cost) {
        const Frame frame = frame_of(sample, scale, n_centres, path == Path::products64);
        const double excess = expected_excess(sample, frame);
        if (cost + excess * evaluation_cost < least) {
            least = cost + excess * evaluation_cost;
            best = {path, frame};
        }
        return excess <= affordable;
    };
    for (index_t c = 1; c <= centres; c *= 2)
        if (consider(Path::products32, c, 1)) return best;
    consider(Path::products64, 1, 2);
    return best;
}

Planner::Sample Planner::take_sample(double scale) const {
    const Points &points = problem_.rows(), &reference = problem_.reference;
    const index_t d = reference.columns(), room = (index_t{1} << 21) / d;
    Sample sample;
    sample.stride = divide_up(d, 8) * 8;
    sample.n = std::min<index_t>({std::max<index_t>(room, 32), 256, reference.rows() / 2});
    sample.tested = std::min<index_t>({std::max<index_t>(sample.n / 8, 8), points.rows()});
    sample.rows.resize(static_cast<std::size_t>((sample.n + sample.tested) * sample.stride));
    const auto add = [&](const Points& from, index_t seat, index_t turn, index_t turns) {
        // One row of each of equal stretches, not at equal distances: sequences have a period.
        const index_t begin = turn * from.rows() / turns, end = (turn + 1) * from.rows() / turns;
        const std::uint64_t bits = random_bits(0, 2, static_cast<std::uint64_t>(turn));
        const index_t row = begin + static_cast<index_t>(
                                        bits % static_cast<std::uint64_t>(std::max<index_t>(end - begin, 1)));
        problem_.pairs->widen[static_cast<int>(from.view.dtype)](row_address(from.view, row), d,
                                                                 from.factor(row) * scale,
                                                                 sample.rows.data() + seat * sample.stride);
    };
    const index_t all = sample.n + sample.tested, every = all / sample.tested;
    index_t tested = 0, others = sample.tested;
    for (index_t turn = 0; turn < all; ++turn) {
        const bool test = problem_.self_join && turn % every == 0 && tested < sample.tested;
        if (problem_.self_join)
            add(points, test ? tested++ : others++, turn, all);
        else if (turn < sample.tested)
            add(points, tested++, turn, sample.tested);
        else
            add(reference, others++, turn - sample.tested, sample.n);
    }
    std::vector<index_t> ids(static_cast<std::size_t>(sample.n));
    std::iota(ids.begin(), ids.end(), sample.tested);
    sample.values.resize(static_cast<std::size_t>(sample.tested * sample.n));
    const double half = problem_.measure == Measure::squared ? 0.5 : 1.0;
    for (index_t t = 0; t < sample.tested; ++t) {
        double* values = sample.values.data() + t * sample.n;
        problem_.pairs->evaluate[static_cast<int>(problem_.measure)][static_cast<int>(Dtype::float64)](
            sample.rows.data() + t * sample.stride, {sample.rows.data(), sample.stride, d, nullptr},
            ids.data(), sample.n, 2, values);
        for (index_t j = 0; j < sample.n; ++j) values[j] *= half;
    }
    return sample;
}

// In the units of the sample. The first is the mean of the sample; more are found by k-means.
std::vector<double> Planner::centres_of(const Sample& sample, index_t n_centres) const {
    const index_t all = sample.n + sample.tested;
    std::vector<double> centres(static_cast<std::size_t>(n_centres * sample.stride));
    std::vector<index_t> owner(static_cast<std::size_t>(all));
    const auto means = [&] {
        std::vector<index_t> members(static_cast<std::size_t>(n_centres));
        std::vector<double> sums(centres.size());
        for (index_t i = 0; i < all; ++i) {
            ++members[owner[i]];
            const double* row = sample.rows.data() + i * sample.stride;
            double* sum = sums.data() + owner[i] * sample.stride;
            for (index_t c = 0; c < sample.stride; ++c) sum[c] += row[c];
        }
        for (index_t m = 0; m < n_centres; ++m)
            for (index_t c = 0; members[m] > 0 && c < sample.stride; ++c)
                centres[m * sample.stride + c] =
                    sums[m * sample.stride + c] / static_cast<double>(members[m]);
    };
    means();
    if (n_centres == 1) return centres;
    // Seeds: each time a row chosen with a chance that grows with its distance to the seeds so far.
    const auto evaluate =
        problem_.pairs->evaluate[static_cast<int>(Measure::squared)][static_cast<int>(Dtype::float64)];
    const RowSource rows{sample.rows.data(), sample.stride, problem_.reference.columns(), nullptr};
    std::vector<index_t> ids(static_cast<std::size_t>(all));
    std::iota(ids.begin(), ids.end(), index_t{0});
    std::vector<double> nearest(static_cast<std::size_t>(all), std::numeric_limits<double>::infinity());
    std::vector<double> values(nearest);
    index_t seed = 0;
    for (index_t m = 0; m < n_centres; ++m) {
        std::copy_n(sample.rows.data() + seed * sample.stride, sample.stride,
                    centres.data() + m * sample.stride);
        evaluate(centres.data() + m * sample.stride, rows, ids.data(), all, 2, values.data());
        double total = 0;
        for (index_t i = 0; i < all; ++i) total += nearest[i] = std::min(nearest[i], values[i]);
        double left =
            total * static_cast<double>(random_bits(0, 3, static_cast<std::uint64_t>(m)) >> 11) * 0x1p-53;
        for (seed = 0; seed + 1 < all && left >= nearest[seed]; ++seed) left -= nearest[seed];
    }
    for (int step = 0; step < 4; ++step) {
        owner = nearest_centres(sample, centres);
        means();
    }
    return centres;
}

std::vector<index_t> Planner::nearest_centres(const Sample& sample,
                                              const std::vector<double>& centres) const {
    const index_t all = sample.n + sample.tested;
    const auto n_centres = static_cast<index_t>(centres.size()) / sample.stride;
    std::vector<index_t> owner(static_cast<std::size_t>(all)), ids(static_cast<std::size_t>(n_centres));
    std::iota(ids.begin(), ids.end(), index_t{0});
    std::vector<double> values(static_cast<std::size_t>(n_centres));
    const auto evaluate =
        problem_.pairs->evaluate[static_cast<int>(Measure::squared)][static_cast<int>(Dtype::float64)];
    for (index_t i = 0; i < all; ++i) {
        evaluate(sample.rows.data() + i * sample.stride,
                 {centres.data(), sample.stride, problem_.reference.columns(), nullptr}, ids.data(),
                 n_centres, 2, values.data());
        owner[i] = std::min_element(values.begin(), values.end()) - values.begin();
    }
    return owner;
}

Frame Planner::frame_of(const Sample& sample, double scale, index_t n_centres, bool float64) const {
    Frame frame;
    frame.features = problem_.reference.columns();
    frame.scale = scale;
    frame.levels = problem_.measure == Measure::squared;
    frame.to_key = scale * scale * (frame.levels ? 0.5 : 1.0);
    frame.n_centres = n_centres;
    frame.centre_stride = sample.stride;
    set_runs(frame, float64);
    std::vector<double> centres(static_cast<std::size_t>(n_centres * sample.stride));
    if (frame.levels) centres = centres_of(sample, n_centres);
    const std::vector<index_t> owner = nearest_centres(sample, centres);
    std::vector<double> moments(static_cast<std::size_t>(frame.features));
    for (std::size_t i = 0; i < owner.size(); ++i)
        for (index_t c = 0; c < frame.features; ++c) {
            const double x = sample.rows[i * static_cast<std::size_t>(sample.stride) + c] -
                             centres[owner[i] * sample.stride + c];
            moments[c] += x * x;
        }
    order_features(frame, moments);
    for (double& c : centres) c /= scale;
    frame.centres = std::move(centres);
    return frame;
}

// The share of all pairs that the bounds cannot tell from neighbours, beyond the neighbours themselves.
double Planner::expected_excess(const Sample& sample, const Frame& frame) const {
    const index_t all = sample.n + sample.tested, d = frame.features;
    std::vector<double> centres(frame.centres);
    for (double& c : centres) c *= frame.scale;
    const std::vector<index_t> owner = nearest_centres(sample, centres);
    const Shares shares(frame);
    std::vector<double> share(static_cast<std::size_t>(all * frame.n_centres));
    for (index_t i = 0; i < all; ++i) {
        const double* row = sample.rows.data() + i * sample.stride;
        const double* own = centres.data() + owner[i] * sample.stride;
        double square = 0, weighted = 0;
        for (index_t k = 0; k < d; ++k) {
            const index_t c = frame.order.empty() ? k : frame.order[k];
            const double x = row[c] - own[c];
            square += x * x;
            weighted += frame.weights[k] * x * x;
        }
        for (index_t m = 0; m < frame.n_centres; ++m) {
            double distance = 0;
            for (index_t c = 0; m != owner[i] && c < d; ++c) {
                const double x = own[c] - centres[m * sample.stride + c];
                distance += x * x;
            }
            const double delta = std::sqrt(distance), reach = std::sqrt(square) + delta;
            share[i * frame.n_centres + m] =
                shares.share(square, weighted, delta, frame.levels ? reach * reach / 2 : 0.0);
        }
    }
    const index_t n = sample.n;
    const index_t k = std::clamp<index_t>(divide_up(k_ * n, problem_.reference.rows()), 1, n);
    std::vector<double> upper(static_cast<std::size_t>(n));
    double excess = 0;
    for (index_t t = 0; t < sample.tested; ++t) {
        const double* values = sample.values.data() + t * n;
        const auto error = [&](index_t j) {
            const index_t other = sample.tested + j;
            return share[t * frame.n_centres + owner[other]] + share[other * frame.n_centres + owner[t]];
        };
        for (index_t j = 0; j < n; ++j) upper[j] = values[j] + error(j);
        std::nth_element(upper.begin(), upper.begin() + k - 1, upper.end());
        const double limit = upper[k - 1];
        index_t kept = 0;
        for (index_t j = 0; j < n; ++j) kept += values[j] - error(j) <= limit;
        excess += static_cast<double>(kept - k) / static_cast<double>(n);
    }
    return excess / static_cast<double>(sample.tested);
}

}  // namespace repgeom
