#include "homology.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>

#include "denormals.hpp"
#include "homology_bars.hpp"
#include "homology_distances.hpp"
#include "homology_field.hpp"
#include "homology_input.hpp"
#include "homology_links.hpp"
#include "homology_reducer.hpp"
#include "homology_surfaces.hpp"

namespace repgeom {

namespace {

constexpr index_t most_dense = 65535;
constexpr int most_dimensions = 30;

void check_options(const RipsOptions& options) {
    require(options.max_dim >= 0 && options.max_dim <= most_dimensions,
            "max_dim must be from 0 to " + std::to_string(most_dimensions), options.max_dim);
    require(options.kernels != nullptr, "kernels must be given", "none");
    const PrimeField field(options.field);  // refuses what is none
    require(options.threshold >= 0, "threshold must be at least 0", options.threshold);
    require(options.min_persistence >= 0 && std::isfinite(options.min_persistence),
            "min_persistence must be at least 0 and finite", options.min_persistence);
    require(options.threads >= 1, "threads must be at least 1", options.threads);
    require(options.method != RipsMethod::links || options.max_dim <= 2,
            "method 'links' goes up to max_dim 2", options.max_dim);
    require(options.method != RipsMethod::links || !options.representatives || options.max_dim == 0,
            "representatives need method 'auto' or 'reducer'", "'links'");
}

index_t points_of(const Cloud& cloud) {
    switch (cloud.kind) {
        case CloudKind::graph:
            return cloud.vertices;
        case CloudKind::condensed:
            return points_of_condensed(cloud.values.columns);
        default:
            return cloud.values.rows;
    }
}

// Work on one cloud.
class Rips {
  public:
    Rips(const Cloud& cloud, const RipsOptions& options, Watch& watch)
        : cloud_(cloud), options_(options), watch_(watch) {}

    RipsResult run(ThreadTeam& team) {
        result_.n = points_of(cloud_);
        const Filtration filtration = make_filtration(team);
        watch_.check();
        result_.edges = static_cast<index_t>(filtration.edges.size());
        result_.threshold = filtration.threshold;
        result_.enclosing = filtration.cone;
        reduce(filtration, team);
        watch_.begin(1, 1);
        return std::move(result_);
    }

  private:
    Filtration make_filtration(ThreadTeam& team) {
        require(result_.n >= 1, "a cloud needs at least 1 point", result_.n);
        if (cloud_.kind != CloudKind::graph)
            require(result_.n <= most_dense,
                    "all distances of a cloud can be taken for at most " + std::to_string(most_dense) +
                        " points (a sparse graph may have more)",
                    result_.n);
        switch (cloud_.kind) {
            case CloudKind::points:
                return of_points(team);
            case CloudKind::square:
                return of_square(team);
            case CloudKind::condensed: {
                const CheckedDistances distances = check_condensed(cloud_.values, result_.n, watch_);
                note(distances);
                return filtration_of_condensed(distances.data, result_.n, options_.threshold, watch_);
            }
            default: {
                const CheckedDistances lengths = check_lengths(cloud_.values);
                note(lengths);
                return filtration_of_graph(result_.n, cloud_.rows, cloud_.columns, lengths.data,
                                           cloud_.values.columns, options_.threshold, watch_);
            }
        }
    }

    // Distances that are read in place are checked and sorted at the same time.
    Filtration of_square(ThreadTeam& team) {
        const MatrixView& view = cloud_.values;
        CheckedDistances distances;
        Filtration filtration;
        const bool in_place = view.dtype == Dtype::float32 && view.columns == result_.n &&
                              (view.row_stride == result_.n || result_.n == 1);
        if (in_place) {
            team.run(2, [&](index_t task, int) {
                if (task == 0)
                    distances = check_square(view, watch_);
                else
                    filtration = sorted(static_cast<const float*>(view.data));
            });
        } else {
            distances = check_square(view, watch_);
        }
        note(distances);
        if (!in_place || !distances.copy.empty()) filtration = sorted(distances.data);
        return filtration;
    }

    Filtration sorted(const float* square) const {
        return filtration_of_square(square, result_.n, options_.threshold, watch_);
    }

    Filtration of_points(ThreadTeam& team) {
        const auto n = static_cast<std::size_t>(result_.n);
        const auto distances = uninitialized<float>(n * n);
        result_.error_bound = pairwise_distances(cloud_.values, options_.metric, options_.exponent,
                                                 *options_.kernels, team, watch_, distances.get());
        return sorted(distances.get());
    }

    void note(const CheckedDistances& distances) {
        result_.error_bound = distances.rounding;
        result_.triangle_excess = distances.triangle_excess;
        result_.triples = distances.triples;
    }

    void reduce(const Filtration& filtration, ThreadTeam& team) {
        const bool by_reducer = options_.method == RipsMethod::reducer || options_.representatives;
        const bool by_reduction = options_.max_dim >= 3 || !suits_surfaces(filtration);
        LinkOptions links;
        links.field = options_.field;
        links.loops = options_.max_dim >= 1 && !by_reducer;
        links.surfaces = options_.max_dim >= 2 && !by_reducer;
        links.kernels = options_.kernels;
        watch_.begin(0, options_.max_dim <= 1 && !by_reducer ? 1 : 0.3);
        const LinkResult low = reduce_links(filtration, links, team, watch_);
        show_components(filtration, low.components);
        result_.method = "links";
        if (options_.max_dim == 0) return;
        watch_.begin(watch_.share.load(), 1);
        if (by_reducer) {
            reduce_higher(filtration, 1, nullptr, team);
            return;
        }
        result_.dimensions.push_back(present(filtration, low.loops, nullptr, options_));
        if (options_.max_dim == 1) return;
        if (by_reduction && options_.method == RipsMethod::automatic) {
            reduce_higher(filtration, 2, &low.killers, team);
            return;
        }
        SurfaceOptions surfaces;
        surfaces.field = options_.field;
        surfaces.kernels = options_.kernels;
        const Bars bars = reduce_surfaces(filtration, low.candidates, surfaces, watch_);
        result_.dimensions.push_back(present(filtration, bars, nullptr, options_));
        result_.method += ", surfaces";
    }

    // Surfaces need tables of n x n entries: no more than 8 an edge, or what is small anyway.
    static bool suits_surfaces(const Filtration& filtration) {
        const auto n = static_cast<std::size_t>(filtration.n);
        return filtration.n <= most_dense && n * n <= 8 * filtration.edges.size() + (std::size_t{1} << 22);
    }

    void show_components(const Filtration& filtration, const Bars& components) {
        if (!options_.representatives) {
            result_.dimensions.push_back(present(filtration, components, nullptr, options_));
            return;
        }
        const Cocycles cocycles = component_cocycles(filtration, components);
        result_.dimensions.push_back(present(filtration, components, &cocycles, options_));
    }

    void reduce_higher(const Filtration& filtration, int from, const std::vector<RootTriangle>* killers,
                       ThreadTeam& team) {
        ReducerOptions reducer;
        reducer.field = options_.field;
        reducer.min_dim = from;
        reducer.max_dim = options_.max_dim;
        reducer.representatives = options_.representatives;
        reducer.killers = killers;
        reducer.kernels = options_.kernels;
        const Reduced reduced = reduce_implicit(filtration, reducer, team, watch_);
        for (std::size_t d = 0; d < reduced.bars.size(); ++d)
            result_.dimensions.push_back(present(filtration, reduced.bars[d],
                                                 options_.representatives ? &reduced.cocycles[d] : nullptr,
                                                 options_));
        result_.method += ", implicit reduction";
    }

    const Cloud& cloud_;
    const RipsOptions& options_;
    Watch& watch_;
    RipsResult result_;
};

// All clouds of a call, largest first, so that none is left to a single thread at the end.
class Batch {
  public:
    Batch(const std::vector<Cloud>& clouds, const RipsOptions& options)
        : clouds_(clouds), options_(options), watches_(clouds.size()), results_(clouds.size()) {
        weights_.reserve(clouds.size());
        for (const Cloud& cloud : clouds) {
            weights_.push_back(size_of(cloud) * size_of(cloud) + 1);
        }
    }

    std::vector<RipsResult> run() {
        if (options_.progress) options_.progress(0);
        if (brief()) {
            const DenormalsCount denormals;
            ThreadTeam team(1);
            for (std::size_t cloud = 0; cloud < clouds_.size(); ++cloud) run_one(cloud, team);
        } else {
            run_watched([this] { run_all(); }, [this] { tell(); }, [this] { stop(); });
        }
        if (options_.progress) options_.progress(1);
        return std::move(results_);
    }

  private:
    // Points; nothing is checked here.
    static double size_of(const Cloud& cloud) {
        if (cloud.kind == CloudKind::graph) return static_cast<double>(cloud.vertices);
        const auto length = static_cast<double>(cloud.values.columns);
        return cloud.kind == CloudKind::condensed ? std::sqrt(2 * length) + 1
                                                  : static_cast<double>(cloud.values.rows);
    }

    // Too little work for threads of its own, and for anyone to wait for.
    bool brief() const {
        constexpr double few = 50000;
        double simplices = 0;
        for (const Cloud& cloud : clouds_) {
            const double n = size_of(cloud);
            double count = n;
            for (int k = 1; k <= options_.max_dim + 1 && simplices < few; ++k) {
                count *= std::max(0.0, n - k) / (k + 1);
                simplices += count;
            }
            simplices += cloud.kind == CloudKind::points ? n * static_cast<double>(cloud.values.columns) : 0;
        }
        return simplices < few;
    }

    void run_all() {
        if (clouds_.size() == 1) {
            ThreadTeam team(options_.threads);
            run_one(0, team);
            return;
        }
        std::vector<std::size_t> order(clouds_.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return weights_[a] > weights_[b]; });
        const auto count = static_cast<index_t>(order.size());
        const int side_by_side = static_cast<int>(std::min<index_t>(options_.threads, count));
        ThreadTeam team(side_by_side);
        try {
            team.run(count, [&](index_t task, int) {
                ThreadTeam own(options_.threads / side_by_side);
                run_one(order[static_cast<std::size_t>(task)], own);
            });
        } catch (...) {
            if (error_) std::rethrow_exception(error_);
            throw;
        }
    }

    void run_one(std::size_t cloud, ThreadTeam& team) {
        try {
            results_[cloud] = named(cloud, team);
        } catch (...) {
            // The others stop; what they throw then must not hide why.
            std::call_once(failed_, [this] { error_ = std::current_exception(); });
            stop();
            throw;
        }
    }

    RipsResult named(std::size_t cloud, ThreadTeam& team) {
        try {
            return Rips(clouds_[cloud], options_, watches_[cloud]).run(team);
        } catch (const std::invalid_argument& error) {
            if (clouds_.size() == 1) throw;
            throw std::invalid_argument("cloud " + std::to_string(cloud) + ": " + error.what());
        }
    }

    void tell() {
        if (!options_.progress) return;
        double done = 0, all = 0;
        for (std::size_t cloud = 0; cloud < clouds_.size(); ++cloud) {
            done += weights_[cloud] * watches_[cloud].share.load();
            all += weights_[cloud];
        }
        told_ = std::max(told_, done / all);
        options_.progress(told_);
    }

    void stop() {
        for (Watch& watch : watches_) watch.stop.store(true);
    }

    const std::vector<Cloud>& clouds_;
    const RipsOptions& options_;
    std::vector<Watch> watches_;
    std::vector<double> weights_;
    std::vector<RipsResult> results_;
    double told_ = 0;
    std::once_flag failed_;
    std::exception_ptr error_;
};

}  // namespace

std::vector<RipsResult> rips(const std::vector<Cloud>& clouds, const RipsOptions& options) {
    check_options(options);
    if (clouds.empty()) return {};
    return Batch(clouds, options).run();
}

}  // namespace repgeom
